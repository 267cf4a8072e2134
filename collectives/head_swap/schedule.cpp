// schedule.cpp - head_swap: all-to-all from sharded tokens to sharded heads, attention over the whole sequence, and back.
// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "../common/softmax.hpp"
#include "swap.hpp"

SEQCCL_BEGIN
namespace collectives {

namespace {

/// The heads that each rank attends with: query heads, and the key/value heads that these use. Whole groups where P divides Hkv;
/// otherwise query heads as evenly as they go, and key/value heads are replicated.
struct AttentionHeads {
  HeadShares queries, keys;
  bool replicates_keys = false;

  explicit AttentionHeads(const AttentionSpec& spec) : queries(even_shares(spec.q_heads, spec.partition.num_ranks())) {
    const auto group = static_cast<std::int32_t>(spec.q_heads / spec.num_kv_heads());
    std::int64_t num_kv = 0;
    for (const HeadRange& q : queries) {
      const std::int32_t first = q.first / group;
      keys.push_back(q.count == 0 ? HeadRange{} : HeadRange{first, (q.first + q.count - 1) / group - first + 1});
      num_kv += keys.back().count;
    }
    replicates_keys = num_kv > spec.num_kv_heads();
  }
  [[nodiscard]] HeadMap map(const SoftmaxLayer& layer) const {
    return {queries[layer.rank].first, keys[layer.rank].first, layer.heads.group};
  }
};

/// What goes back: complete results in the element type, partial ones (replicated keys) in f32. The same on every rank, also on one
/// without heads.
Block narrowed(Swap& swap, const SoftmaxLayer& layer, const Block& sum, const HeadShares& shares, bool complete) {
  if (!complete || layer.spec.dtype == f32) return sum;
  const Block block = swap.scratch(layer.spec.dtype, shares, layer.plan.slot(sum).dim);
  swap.copy(sum, block);
  return block;
}

}  // namespace

Schedule head_swap_forward(const AttentionSpec& spec, Rank rank, const RecordOptions& options) {
  SoftmaxLayer layer("head_swap forward", SoftmaxLayer::Pass::forward, spec, rank, options, {.queries = true});
  const AttentionHeads heads(spec);
  Swap swap(layer.plan, spec.partition, spec.batch);
  Messages in, out;
  const Block q = swap.enter(layer.queries.q, heads.queries, in);  // (B, N, Hq / P, Dk)
  const Block k = swap.enter(layer.keys.k, heads.keys, in);        // (B, N, Hkv / P, Dk)
  const Block v = swap.enter(layer.keys.v, heads.keys, in);
  in.record(layer.plan);

  const State sum = {swap.scratch(f32, heads.queries, spec.dim_v()), swap.scratch(f32, heads.queries, 1)};
  layer.attend({q, swap.pieces()}, {k, v, swap.pieces()}, sum, heads.map(layer), /*fresh=*/true, -1);
  const auto outs = swap.leave(narrowed(swap, layer, sum.out, heads.queries, true), heads.queries, out);
  const auto lses = swap.leave(sum.lse, heads.queries, out);
  out.record(layer.plan);
  swap.settle(outs, layer.state.out);
  swap.settle(lses, layer.state.lse);
  return std::move(layer).finish();
}

// Nothing of forward is kept, so q, k, v are swapped again, with dout, lse and delta.
Schedule head_swap_backward(const AttentionSpec& spec, Rank rank, const RecordOptions& options) {
  const AttentionHeads heads(spec);
  const bool complete = !heads.replicates_keys;
  SoftmaxLayer layer("head_swap backward", SoftmaxLayer::Pass::backward, spec, rank, options, {.queries = true, .keys = complete});
  Swap swap(layer.plan, spec.partition, spec.batch);
  Messages in, out;
  const Block q = swap.enter(layer.queries.q, heads.queries, in);
  const Block k = swap.enter(layer.keys.k, heads.keys, in);
  const Block v = swap.enter(layer.keys.v, heads.keys, in);
  SoftmaxLayer::QueryGradient with;
  with.dout = swap.enter(layer.dout, heads.queries, in);
  with.lse = swap.enter(layer.state.lse, heads.queries, in);
  with.delta = swap.enter(layer.delta, heads.queries, in);
  in.record(layer.plan);

  with.dq = swap.scratch(f32, heads.queries, spec.head_dim);
  const KeyGradients sums = {swap.scratch(f32, heads.keys, spec.head_dim), swap.scratch(f32, heads.keys, spec.dim_v())};
  layer.attend_backward({q, swap.pieces()}, with, {k, v, swap.pieces()}, sums, heads.map(layer), true, true, -1);

  const auto dq = swap.leave(narrowed(swap, layer, with.dq, heads.queries, true), heads.queries, out);
  const auto dk = swap.leave(narrowed(swap, layer, sums.dk, heads.keys, complete), heads.keys, out);
  const auto dv = swap.leave(narrowed(swap, layer, sums.dv, heads.keys, complete), heads.keys, out);
  out.record(layer.plan);
  swap.settle(dq, layer.dq);
  swap.settle(dk, layer.gradients.dk);
  swap.settle(dv, layer.gradients.dv);
  return std::move(layer).finish();
}

}  // namespace collectives
SEQCCL_END
