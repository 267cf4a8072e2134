// measure.cpp - lockstep, timing, byte counts and Chrome traces.
// SPDX-License-Identifier: Apache-2.0
#include "command/measure.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <thread>

#include "seqccl/error.hpp"

namespace seqccl::command {
namespace {

std::uint64_t sum(const std::vector<std::uint64_t>& numbers) { return std::accumulate(numbers.begin(), numbers.end(), std::uint64_t{0}); }

}  // namespace

RankThreads RunSettings::rank_threads() const {
  RankThreads options;
  options.timeout = std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::duration<double>(timeout_s));
  options.topology = topology;
  options.num_threads = num_threads;
  return options;
}

void Lockstep::meet(Communicator& comm) {
  const std::uint64_t goal = (num_arrived_.fetch_add(1) / num_ranks_ + 1) * num_ranks_;
  for (int attempt = 0; num_arrived_.load() < goal; ++attempt) {
    comm.transport().check();
    if (attempt < 1000)
      std::this_thread::yield();
    else
      std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
}

void measure(Lockstep& lockstep, Communicator& comm, const RunSettings& settings, RankMeasurement& result,
             const std::function<void()>& operation) {
  for (int run = -settings.warmup; run < settings.repeat; ++run) {
    const std::uint64_t bytes_before = sum(comm.received_bytes()), messages_before = sum(comm.received_messages());
    lockstep.meet(comm);
    const SteadyClock::time_point begin = SteadyClock::now();
    operation();
    const SteadyClock::time_point end = SteadyClock::now();
    if (run < 0) continue;
    result.begin.push_back(begin);
    result.end.push_back(end);
    result.moved_bytes = sum(comm.received_bytes()) - bytes_before;
    result.moved_messages = sum(comm.received_messages()) - messages_before;
  }
}

Measurement combine(const std::vector<RankMeasurement>& ranks) {
  Measurement all;
  if (ranks.empty()) return all;
  for (std::size_t run = 0; run < ranks.front().begin.size(); ++run) {
    SteadyClock::time_point begin = ranks.front().begin[run], end = ranks.front().end[run];
    for (const RankMeasurement& rank : ranks) {
      begin = std::min(begin, rank.begin[run]);
      end = std::max(end, rank.end[run]);
    }
    all.seconds.push_back(std::chrono::duration<double>(end - begin).count());
  }
  for (const RankMeasurement& rank : ranks) {
    all.moved_bytes += rank.moved_bytes;
    all.moved_messages += rank.moved_messages;
    all.planned_bytes += rank.planned.total_received_bytes;
    all.planned_messages += rank.planned.total_received_messages;
    all.flops += rank.planned.flops;
    all.workspace_bytes = std::max(all.workspace_bytes, rank.planned.workspace_bytes);
    all.planning_s = std::max(all.planning_s, rank.planning_s);
  }
  return all;
}

double Measurement::median_s() const {
  if (seconds.empty()) return 0;
  std::vector<double> sorted = seconds;
  std::sort(sorted.begin(), sorted.end());
  const std::size_t middle = sorted.size() / 2;
  return sorted.size() % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
double Measurement::min_s() const { return seconds.empty() ? 0 : *std::min_element(seconds.begin(), seconds.end()); }
double Measurement::max_s() const { return seconds.empty() ? 0 : *std::max_element(seconds.begin(), seconds.end()); }

std::vector<TraceStep> trace_steps(const Schedule& schedule, const std::vector<TraceEvent>& events, double begin_s) {
  std::vector<TraceStep> steps;
  for (const TraceEvent& event : events) {
    const Step& step = schedule.steps[event.step];
    steps.push_back({schedule.rank, static_cast<int>(step.lane), schedule.label(step), begin_s + event.begin_s, begin_s + event.end_s});
  }
  return steps;
}

void write_chrome_trace(const std::string& path, const std::vector<TraceStep>& steps) {
  nlohmann::ordered_json events = nlohmann::ordered_json::array();
  std::vector<std::pair<Rank, int>> named;
  for (const TraceStep& step : steps) {
    const std::pair<Rank, int> row{step.rank, step.lane};
    if (std::find(named.begin(), named.end(), row) == named.end()) {
      named.push_back(row);
      const std::string lane = step.lane == 0 ? "compute" : step.lane == 1 ? "comm" : fmt::format("comm{}", step.lane);
      events.push_back(
          {{"name", "process_name"}, {"ph", "M"}, {"pid", step.rank}, {"args", {{"name", fmt::format("rank {}", step.rank)}}}});
      events.push_back({{"name", "thread_name"}, {"ph", "M"}, {"pid", step.rank}, {"tid", step.lane}, {"args", {{"name", lane}}}});
    }
    events.push_back({{"name", step.label},
                      {"ph", "X"},
                      {"pid", step.rank},
                      {"tid", step.lane},
                      {"ts", step.begin_s * 1e6},
                      {"dur", (step.end_s - step.begin_s) * 1e6}});
  }
  std::ofstream stream(path);
  stream << nlohmann::ordered_json{{"traceEvents", events}, {"displayTimeUnit", "ms"}}.dump(1) << '\n';
  stream.close();
  if (!stream) throw Error(ErrorKind::argument, fmt::format("--trace: {}: cannot be written: {}", path, std::strerror(errno)));
}

}  // namespace seqccl::command
