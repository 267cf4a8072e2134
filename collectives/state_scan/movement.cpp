// movement.cpp - the scan of states alone, over updates that the caller has.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <utility>

#include "scan.hpp"

SEQCCL_BEGIN
namespace collectives {

Schedule state_scan(const StateScanSpec& spec, Rank rank, const RecordOptions& options) {
  Recorder plan(fmt::format("state scan, {}{} by {}", spec.reverse ? "reverse, " : "", name(spec.decay), name(spec.scan)), rank,
                spec.partition.num_ranks());
  std::vector<Run> runs = runs_of(spec.partition);
  if (spec.reverse) runs = reversed(std::move(runs));
  const auto num_mine = static_cast<std::int64_t>(spec.partition.segments(rank).size());
  const std::int64_t state_size = spec.key_dim * spec.value_dim;
  const std::int64_t decay_numbers = is_delta(spec.decay) ? spec.key_dim * spec.key_dim : decay_size(spec.decay, spec.key_dim);

  ScanRecorder::Setup setup{spec.batch, spec.heads, spec.key_dim, spec.value_dim, spec.decay};
  setup.column_blocks = spec.column_blocks;
  setup.ranks_per_node = natural_ranks_per_node(spec.ranks_per_node, spec.partition);
  const Block updates = plan.input(Tensor::user, f32, {spec.batch, num_mine, spec.heads, state_size}, options.inputs_sendable);
  Block transitions;
  if (decay_numbers != 0)
    transitions = plan.input(Tensor::user, f32, {spec.batch, num_mine, spec.heads, decay_numbers}, options.inputs_sendable);
  if (spec.decay == LinearKind::constant_decay) setup.constant = plan.input(Tensor::user, f32, {1, 1, spec.heads, 1});
  if (spec.initial && !runs.empty() && runs.front().owner == rank)
    setup.initial = plan.input(Tensor::user, f32, {spec.batch, 1, spec.heads, state_size});
  const Block entering = plan.output(Tensor::user, f32, {spec.batch, num_mine, spec.heads, state_size});

  ScanRecorder scan(plan, std::move(runs), setup);
  const std::vector<Run>& order = scan.order();
  for (std::size_t v = 0; v < order.size(); ++v) {
    if (!scan.mine(v) || !scan.wants_summary(v)) continue;
    const auto given = [&](const Block& block) { return block.present() ? plan.sendable(block.tokens(order[v].segment, 1)) : Block{}; };
    scan.give(v, given(transitions), given(updates));
  }
  scan.record(
      spec.scan, [] {},
      [&](std::size_t v, const Block& state) {
        const Block to = entering.tokens(order[v].segment, 1);
        if (state.present())
          plan.compute(Copy{state, to}, rank);
        else
          plan.compute(Zero{to}, rank);
      });
  return std::move(plan).finish(spec.describe());
}

}  // namespace collectives
SEQCCL_END
