// movement.cpp - the head swap alone, between two tensors of the caller's.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <utility>

#include "../common/swap.hpp"

SEQCCL_BEGIN
namespace collectives {

namespace {

Recorder::Shape tokens_shape(const HeadSwapSpec& spec, Rank rank) {
  return {spec.batch, spec.partition.tokens_on(rank), spec.heads, spec.head_dim};
}
Recorder::Shape heads_shape(const HeadSwapSpec& spec, Rank rank) {
  return {spec.batch, spec.partition.num_tokens(), head_swap_heads(spec, rank).count, spec.head_dim};
}

}  // namespace

Rows head_swap_heads(const HeadSwapSpec& spec, Rank rank) {
  const int num_ranks = spec.partition.num_ranks();
  if (rank < 0 || rank >= num_ranks)
    throw Error(ErrorKind::argument, fmt::format("HeadSwap::heads_of: rank is {}, want 0 to {}", rank, num_ranks - 1));
  const HeadRange heads = even_shares(spec.heads, num_ranks)[rank];
  return {heads.first, heads.count};
}

std::vector<Piece> head_swap_pieces(const HeadSwapSpec& spec) { return SwapRows(spec.partition).pieces; }

Schedule head_swap_to_heads(const HeadSwapSpec& spec, Rank rank, const RecordOptions& options) {
  Recorder plan("head_swap to heads", rank, spec.partition.num_ranks());
  const Block tokens = plan.input(Tensor::user, spec.dtype, tokens_shape(spec, rank), options.inputs_sendable);
  const Block heads = plan.output(Tensor::user, spec.dtype, heads_shape(spec, rank), options.outputs_receivable);
  Swap swap(plan, spec.partition, spec.batch);
  Messages messages;
  const Block all = swap.enter(tokens, even_shares(spec.heads, plan.num_ranks()), messages, heads);
  messages.record(plan);
  swap.copy(all, heads);
  return std::move(plan).finish(spec.describe());
}

Schedule head_swap_to_tokens(const HeadSwapSpec& spec, Rank rank, const RecordOptions& options) {
  Recorder plan("head_swap to tokens", rank, spec.partition.num_ranks());
  const Block heads = plan.input(Tensor::user, spec.dtype, heads_shape(spec, rank), options.inputs_sendable);
  const Block tokens = plan.output(Tensor::user, spec.dtype, tokens_shape(spec, rank));
  Swap swap(plan, spec.partition, spec.batch);
  Messages messages;
  const auto returned = swap.leave(plan.sendable(heads), even_shares(spec.heads, plan.num_ranks()), messages);
  messages.record(plan);
  swap.settle(returned, tokens);
  return std::move(plan).finish(spec.describe());
}

}  // namespace collectives
SEQCCL_END
