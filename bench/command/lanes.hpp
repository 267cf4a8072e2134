// lanes.hpp - what communication costs beside kernels: a plan as a whole, its kernels alone and its messages alone.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "command/measure.hpp"
#include "seqccl/execute.hpp"

namespace seqccl::command {

/// The kernels of a plan without its exchanges, or the exchanges without the kernels: same slots, blocks and order, and the clocks of what
/// is left. It computes wrong numbers in the same time.
[[nodiscard]] Schedule only_compute(const Schedule& whole);
[[nodiscard]] Schedule only_communication(const Schedule& whole);

/// OSU's formula: how much of the communication was hidden, max(0, 100 - (overall - compute) / pure_communication 100). Above 100 where the
/// whole took less time than its kernels alone, which is noise. 0 / 0 is not a number: nothing was sent.
[[nodiscard]] double overlap_percent(double overall_s, double compute_s, double communication_s) noexcept;

struct LaneTimes {
  Measurement overall, compute, communication;
  double busy_in_whole_s = 0, busy_alone_s = 0;  // all ranks' compute steps, by their traces; medians over runs

  [[nodiscard]] double overlap() const noexcept {
    return overlap_percent(overall.median_s(), compute.median_s(), communication.median_s());
  }
  /// Of the compute steps themselves, without waits: 1.2 is a fifth longer beside messages than without them.
  [[nodiscard]] double compute_slowdown() const noexcept { return busy_in_whole_s / busy_alone_s; }
};

/// The three in turns, on the same ranks and memory. It lies in shared memory: make it before the ranks.
class LaneMeasurements {
 public:
  explicit LaneMeasurements(const RunSettings& settings);

  /// On every rank: warmup + repeat rounds of whole, kernels alone, messages alone. Overwrites the outputs that are bound with what means
  /// nothing. `bind` gives a plan its tensors. @throws Error of any kind
  void measure(Lockstep& lockstep, Communicator& comm, const RunSettings& settings, const Schedule& whole,
               const std::function<void(Bindings&)>& bind) const;
  /// When all ranks have ended.
  [[nodiscard]] LaneTimes combined() const;

 private:
  [[nodiscard]] double& busy(const SharedArray<double>& all, Rank rank, int run) const noexcept {
    return all[static_cast<std::size_t>(rank) * num_runs_ + static_cast<std::size_t>(run)];
  }
  [[nodiscard]] double median_busy(const SharedArray<double>& all) const;

  std::size_t num_ranks_, num_runs_;
  Measurements overall_, compute_, communication_;
  SharedArray<double> busy_in_whole_, busy_alone_;
};

}  // namespace seqccl::command
