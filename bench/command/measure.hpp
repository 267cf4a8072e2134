// measure.hpp - times an operation on ranks that start together, and counts what it moved.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "seqccl/communicator.hpp"
#include "seqccl/cost.hpp"
#include "seqccl/execute.hpp"

namespace seqccl::command {

/// How to run, apart from what to compute.
struct RunSettings {
  int num_ranks = 4;
  int warmup = 0;  // runs that are not timed
  int repeat = 1;
  double timeout_s = 600;
  int num_threads = 0;  // kernel threads per rank; 0: cores / ranks
  Topology topology{};
  bool trace = false;

  [[nodiscard]] RankThreads rank_threads() const;
};

/// Ranks meet before each timed run. A rank that fails lets the others go with its error.
class Lockstep {
 public:
  explicit Lockstep(int num_ranks) : num_ranks_(static_cast<std::uint64_t>(num_ranks)) {}
  void meet(Communicator& comm);

 private:
  std::uint64_t num_ranks_;
  std::atomic<std::uint64_t> num_arrived_{0};
};

/// What one rank saw of all runs of an operation.
struct RankMeasurement {
  std::vector<SteadyClock::time_point> begin, end;    // of the timed runs
  std::uint64_t moved_bytes = 0, moved_messages = 0;  // received in the last run, counted by the transport
  Cost planned;                                       // what the schedule says
  double planning_s = 0;
};

/// The operation as a whole: a run lasts from the first rank's beginning to the last rank's end.
struct Measurement {
  std::vector<double> seconds;
  std::uint64_t moved_bytes = 0, planned_bytes = 0;  // received, summed over ranks
  std::uint64_t moved_messages = 0, planned_messages = 0;
  double flops = 0;                 // of all ranks' schedules
  std::size_t workspace_bytes = 0;  // of the rank that needs most
  double planning_s = 0;            // of the rank that took longest

  [[nodiscard]] bool present() const noexcept { return !seconds.empty(); }
  [[nodiscard]] double median_s() const;
  [[nodiscard]] double min_s() const;
  [[nodiscard]] double max_s() const;
};
[[nodiscard]] Measurement combine(const std::vector<RankMeasurement>& ranks);

/// Runs `operation` warmup + repeat times in lockstep.
void measure(Lockstep& lockstep, Communicator& comm, const RunSettings& settings, RankMeasurement& result,
             const std::function<void()>& operation);

/// A step of a real run, for a Chrome trace.
struct TraceStep {
  Rank rank = 0;
  int lane = 0;
  std::string label;
  double begin_s = 0, end_s = 0;  // since the first rank began
};
[[nodiscard]] std::vector<TraceStep> trace_steps(const Schedule& schedule, const std::vector<TraceEvent>& events, double begin_s);

/// Chrome's trace format (chrome://tracing, ui.perfetto.dev): a process per rank, a thread per lane. @throws Error(argument)
void write_chrome_trace(const std::string& path, const std::vector<TraceStep>& steps);

}  // namespace seqccl::command
