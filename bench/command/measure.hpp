// measure.hpp - times an operation on ranks that start together, and counts what it moved.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "command/memory.hpp"
#include "command/ranks.hpp"

namespace seqccl::command {

/// One run of an operation, as one rank saw it.
struct TimedRun {
  SteadyClock::time_point begin, end;
};
/// What one rank counted.
struct RankCounts {
  std::uint64_t moved_bytes = 0, moved_messages = 0;      // received in the last run, counted by the transport
  std::uint64_t planned_bytes = 0, planned_messages = 0;  // what the schedule says
  double flops = 0;
  std::size_t workspace_bytes = 0;
  double planning_s = 0;
  std::array<char, 128> path{};  // as Measurement::path, cut off where it is longer
};

/// The operation as a whole: a run lasts from the first rank's beginning to the last rank's end.
struct Measurement {
  std::vector<double> seconds;
  std::uint64_t moved_bytes = 0, planned_bytes = 0;  // received, summed over ranks
  std::uint64_t moved_messages = 0, planned_messages = 0;
  double flops = 0;                 // of all ranks' schedules
  std::size_t workspace_bytes = 0;  // of the rank that needs most
  double planning_s = 0;            // of the rank that took longest
  std::string
      path;  // what the last run's messages went by, as their transports say: "shared memory", "cma+posix"; empty if there were none

  [[nodiscard]] bool present() const noexcept { return !seconds.empty(); }
  [[nodiscard]] double median_s() const;
  [[nodiscard]] double min_s() const;
  [[nodiscard]] double max_s() const;
  /// The least time that `percent` of the runs did not exceed.
  [[nodiscard]] double percentile_s(double percent) const;
};

/// What all ranks saw of all runs of an operation. It lies in shared memory: make it before the ranks.
class Measurements {
 public:
  explicit Measurements(const RunSettings& settings);

  // Each rank writes its own.
  [[nodiscard]] RankCounts& counts(Rank rank) const noexcept { return counts_[static_cast<std::size_t>(rank)]; }
  [[nodiscard]] std::span<TimedRun> runs(Rank rank) const noexcept {
    return {runs_.data() + static_cast<std::size_t>(rank) * num_runs_, num_runs_};
  }
  void plan(Rank rank, const Schedule& schedule) const;

  /// When all ranks have ended.
  [[nodiscard]] Measurement combined() const;

 private:
  std::size_t num_runs_;
  SharedArray<RankCounts> counts_;
  SharedArray<TimedRun> runs_;
};

/// Runs `operation` warmup + repeat times in lockstep.
void measure(Lockstep& lockstep, Communicator& comm, const RunSettings& settings, const Measurements& result,
             const std::function<void()>& operation);

}  // namespace seqccl::command
