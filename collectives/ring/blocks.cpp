// blocks.cpp - the ring with the caller's own step in place of attention.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <utility>

#include "../common/travel.hpp"

SEQCCL_BEGIN
namespace collectives {

Schedule ring_blocks(const RingSpec& spec, Rank rank, const RecordOptions& options, const RingStep& step, std::span<const Slot> states) {
  if (states.size() > Custom::max_operands)
    throw Error(ErrorKind::argument,
                fmt::format("ring blocks: state has {} tensors, want at most {}", states.size(), Custom::max_operands));
  const Partition& partition = spec.partition;
  const std::int64_t own = partition.tokens_on(rank);
  Recorder plan("ring blocks", rank, partition.num_ranks());
  const Cargo keys = {{plan.input(Tensor::k, spec.dtype, {spec.batch, own, spec.kv_heads, spec.head_dim}, options.inputs_sendable),
                       plan.input(Tensor::v, spec.dtype, {spec.batch, own, spec.kv_heads, spec.dim_v()}, options.inputs_sendable)},
                      partition.pieces(rank)};
  Custom visit;
  for (std::size_t i = 0; i < states.size(); ++i)
    visit.inout[i] = plan.output(Tensor::user, states[i].dtype, {states[i].batch, states[i].tokens, states[i].heads, states[i].dim});

  const BoundMask mask(spec.mask, partition.num_tokens(), spec.batch);
  const RingPath path(plan, [&](Rank reader, Rank owner) { return key_need(partition, mask, reader, owner); });
  const auto pieces = [&](Rank owner, Rows rows) { return partition.pieces(owner, rows); };
  const Spare spare = spare_like(plan, keys.blocks, path.largest_arrival());
  record_visits(path, pieces, keys, sendable(plan, keys), spare, Lane::comm, [&](Rank owner, const Cargo& block) {
    if (owner != rank && block.blocks[0].empty()) return;
    visit.in[0] = block.blocks[0];
    visit.in[1] = block.blocks[1];
    visit.function = plan.function([&step, owner, tokens = block.pieces](std::span<const TensorView> views) {
      step({owner, tokens, views[0], views[1], views.subspan(2)});
    });
    plan.compute(visit, owner);
  });
  return std::move(plan).finish(spec.describe());
}

}  // namespace collectives
SEQCCL_END
