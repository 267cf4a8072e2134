// movement.cpp - the scan of states alone, over updates that the caller has.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <utility>

#include "scan.hpp"

SEQCCL_BEGIN
namespace collectives {

Schedule state_scan(const StateScanSpec& spec, Rank rank, const RecordOptions& options) {
  Recorder plan(spec.reverse ? "state scan, reverse" : "state scan", rank, spec.partition.num_ranks());
  std::vector<Run> runs = runs_of(spec.partition);
  if (spec.reverse) std::reverse(runs.begin(), runs.end());
  const auto num_mine = static_cast<std::int64_t>(spec.partition.segments(rank).size());
  const std::int64_t state_size = spec.key_dim * spec.value_dim;
  const bool constant = spec.decay == LinearKind::constant_decay, gated = !constant && spec.decay != LinearKind::basic;

  ScanRecorder::Setup setup{spec.batch, spec.heads, state_size, 0, {}, {}};
  if (gated) setup.log_sum_size = spec.decay == LinearKind::vector_gate ? spec.key_dim : 1;
  const Block updates = plan.input(Tensor::user, f32, {spec.batch, num_mine, spec.heads, state_size}, options.inputs_sendable);
  Block log_sums;
  if (gated) log_sums = plan.input(Tensor::user, f32, {spec.batch, num_mine, spec.heads, setup.log_sum_size}, options.inputs_sendable);
  if (constant) setup.constant = plan.input(Tensor::user, f32, {1, 1, spec.heads, 1});
  if (spec.initial && !runs.empty() && runs.front().owner == rank)
    setup.initial = plan.input(Tensor::user, f32, {spec.batch, 1, spec.heads, state_size});
  const Block entering = plan.output(Tensor::user, f32, {spec.batch, num_mine, spec.heads, state_size});

  ScanRecorder scan(plan, std::move(runs), setup);
  const auto& order = scan.order();
  // all_gather sends summaries as they are; chain sends the states that it makes of them.
  const auto given = [&](const Block& block) { return spec.scan == Scan::all_gather ? plan.sendable(block) : block; };
  for (std::size_t v = 0; v < order.size(); ++v) {
    if (!scan.mine(v)) continue;
    scan.give(v, {gated ? given(log_sums.tokens(order[v].index, 1)) : Block{}, given(updates.tokens(order[v].index, 1))});
  }
  scan.exchange(spec.scan);
  scan.finish(spec.scan,
              [&](std::size_t v, const Block& state) {
                const Block to = entering.tokens(order[v].index, 1);
                if (state.present())
                  plan.compute(Copy{state, to}, rank);
                else
                  plan.compute(Zero{to}, rank);
              },
              {});
  return std::move(plan).finish(spec.describe());
}

}  // namespace collectives
SEQCCL_END
