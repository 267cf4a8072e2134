// trace.hpp - what every rank did when, brought home from its thread or process and written for Chrome.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "command/child.hpp"
#include "command/ranks.hpp"
#include "seqccl/execute.hpp"

namespace seqccl::command {

/// A step of a real run, for a Chrome trace.
struct TraceStep {
  Rank rank = 0;
  int lane = 0;
  std::string label;
  double begin_s = 0, end_s = 0;  // since the board was made
};

/// Where ranks put their steps: a file in memory, since nobody knows before how many there will be. Any rank, at any moment.
class TraceBoard {
 public:
  /// There is no file without settings.trace. @throws Error(local) if the system gives none
  explicit TraceBoard(const RunSettings& settings);

  [[nodiscard]] bool is_open() const noexcept { return file_.is_open(); }
  /// The steps of a run that began at `begin`. @throws Error(local) if there is no memory for them
  void add(const Schedule& schedule, const std::vector<TraceEvent>& events, SteadyClock::time_point begin);
  /// Of all ranks, when they have ended: rank after rank.
  [[nodiscard]] std::vector<TraceStep> steps() const;

 private:
  SteadyClock::time_point origin_ = SteadyClock::now();
  Descriptor file_;
  SharedArray<std::atomic<std::uint64_t>> end_{1};  // of the file
};

/// Chrome's trace format (chrome://tracing, ui.perfetto.dev): a process per rank, a thread per lane. @throws Error(argument)
void write_chrome_trace(const std::string& path, const std::vector<TraceStep>& steps);

}  // namespace seqccl::command
