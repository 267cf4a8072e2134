// lanes.cpp - plans of one kind of lane, and the three measured in turns.
// SPDX-License-Identifier: Apache-2.0
#include "command/lanes.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <utility>

namespace seqccl::command {
namespace {

/// The steps that `keeps` says, which wait for each other alone: lanes are kept whole, so that their clocks stay true.
template <class Keeps>
Schedule lanes_of(const Schedule& whole, const char* what, Keeps keeps) {
  Schedule part = whole;
  part.name += what;
  part.steps.clear();
  for (Step step : whole.steps) {
    if (!keeps(step.lane)) continue;
    for (int lane = 0; lane < num_lanes; ++lane)
      if (!keeps(static_cast<Lane>(lane))) step.after[static_cast<std::size_t>(lane)] = 0;
    part.steps.push_back(step);
  }
  return part;
}

}  // namespace

Schedule only_compute(const Schedule& whole) {
  Schedule part = lanes_of(whole, ", kernels alone", [](Lane lane) { return lane == Lane::compute; });
  part.fingerprint ^= 0x6b65726e656c73u;
  part.exchanges.clear();
  part.transfers.clear();
  part.is_sequential = true;
  return part;
}

Schedule only_communication(const Schedule& whole) {
  Schedule part = lanes_of(whole, ", messages alone", [](Lane lane) { return lane != Lane::compute; });
  part.fingerprint ^= 0x6d65737361676573u;
  return part;  // its kernel_flops stay: they decide whether a thread of its own communicates, as in the whole
}

double overlap_percent(double overall_s, double compute_s, double communication_s) noexcept {
  if (!(communication_s > 0)) return std::numeric_limits<double>::quiet_NaN();
  return std::max(0.0, 100 - (overall_s - compute_s) / communication_s * 100);
}

LaneMeasurements::LaneMeasurements(const RunSettings& settings)
    : num_ranks_(static_cast<std::size_t>(settings.num_ranks)),
      num_runs_(static_cast<std::size_t>(settings.repeat)),
      overall_(settings),
      compute_(settings),
      communication_(settings),
      busy_in_whole_(num_ranks_ * num_runs_),
      busy_alone_(num_ranks_ * num_runs_) {}

void LaneMeasurements::measure(Lockstep& lockstep, Communicator& comm, const RunSettings& settings, const Schedule& whole,
                               const std::function<void(Bindings&)>& bind) const {
  const Schedule kernels = only_compute(whole), messages = only_communication(whole);
  std::byte* arena = comm.arena(whole.workspace_bytes);
  Bindings whole_memory(whole, arena), kernels_memory(kernels, arena), messages_memory(messages, arena);
  for (Bindings* memory : {&whole_memory, &kernels_memory, &messages_memory}) bind(*memory);
  std::vector<TraceEvent> events;
  events.reserve(whole.steps.size());
  const auto time = [&](const Schedule& schedule, const Bindings& memory, bool traces) {
    RunOptions options{.timeout = comm.timeout(), .num_threads = comm.num_threads()};
    if (traces) options.trace = &events;
    events.clear();
    lockstep.meet(comm);
    const SteadyClock::time_point begin = SteadyClock::now();
    run_host(schedule, memory, comm.transport(), options);
    return TimedRun{begin, SteadyClock::now()};
  };
  const auto busy_s = [&](const Schedule& schedule) {
    double sum = 0;
    for (const TraceEvent& event : events)
      if (schedule.steps[event.step].lane == Lane::compute) sum += event.end_s - event.begin_s;
    return sum;
  };
  const Rank rank = comm.rank();
  for (int run = -settings.warmup; run < settings.repeat; ++run) {
    // The whole first: the kernels then find in the arena what they would have been sent.
    const TimedRun all = time(whole, whole_memory, true);
    const double in_whole_s = busy_s(whole);
    const TimedRun computed = time(kernels, kernels_memory, true);
    const double alone_s = busy_s(kernels);
    const TimedRun sent = time(messages, messages_memory, false);
    if (run < 0) continue;
    const auto at = static_cast<std::size_t>(run);
    overall_.runs(rank)[at] = all;
    compute_.runs(rank)[at] = computed;
    communication_.runs(rank)[at] = sent;
    busy(busy_in_whole_, rank, run) = in_whole_s;
    busy(busy_alone_, rank, run) = alone_s;
  }
}

double LaneMeasurements::median_busy(const SharedArray<double>& all) const {
  Measurement sums;
  for (std::size_t run = 0; run < num_runs_; ++run) {
    double sum = 0;
    for (std::size_t rank = 0; rank < num_ranks_; ++rank) sum += busy(all, static_cast<Rank>(rank), static_cast<int>(run));
    sums.seconds.push_back(sum);
  }
  return sums.median_s();
}

LaneTimes LaneMeasurements::combined() const {
  LaneTimes times{overall_.combined(), compute_.combined(), communication_.combined(), median_busy(busy_in_whole_),
                  median_busy(busy_alone_)};
  if (num_ranks_ == 1) times.communication.seconds.assign(num_runs_, 0);  // the time of doing nothing is no communication
  return times;
}

}  // namespace seqccl::command
