// measure.cpp - timing and byte counts of all ranks.
// SPDX-License-Identifier: Apache-2.0
#include "command/measure.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <set>
#include <string_view>

#include "seqccl/cost.hpp"

namespace seqccl::command {
namespace {

std::uint64_t sum(const std::vector<std::uint64_t>& numbers) { return std::accumulate(numbers.begin(), numbers.end(), std::uint64_t{0}); }

/// What the transport says of the ranks that messages came from.
std::string path_of(Communicator& comm, const std::vector<std::uint64_t>& messages_before) {
  const std::vector<std::uint64_t> messages = comm.received_messages();
  std::set<std::string> paths;
  for (Rank peer = 0; peer < comm.size(); ++peer) {
    const auto at = static_cast<std::size_t>(peer);
    if (messages[at] == messages_before[at]) continue;
    const std::vector<std::string> names = comm.transport().paths(peer);
    paths.insert(names.begin(), names.end());
  }
  return fmt::format("{}", fmt::join(paths, "+"));
}

}  // namespace

Measurements::Measurements(const RunSettings& settings)
    : num_runs_(static_cast<std::size_t>(settings.repeat)),
      counts_(static_cast<std::size_t>(settings.num_ranks)),
      runs_(num_runs_ * counts_.size()) {}

void Measurements::plan(Rank rank, const Schedule& schedule) const {
  const Cost cost = cost_of(schedule);
  RankCounts& mine = counts(rank);
  mine.planned_bytes = cost.total_received_bytes;
  mine.planned_messages = cost.total_received_messages;
  mine.flops = cost.flops;
  mine.workspace_bytes = cost.workspace_bytes;
}

Measurement Measurements::combined() const {
  Measurement all;
  std::set<std::string> paths;
  const auto num_ranks = static_cast<Rank>(counts_.size());
  for (std::size_t run = 0; run < num_runs_; ++run) {
    TimedRun whole = runs(0)[run];
    for (Rank rank = 1; rank < num_ranks; ++rank) {
      whole.begin = std::min(whole.begin, runs(rank)[run].begin);
      whole.end = std::max(whole.end, runs(rank)[run].end);
    }
    all.seconds.push_back(std::chrono::duration<double>(whole.end - whole.begin).count());
  }
  for (Rank rank = 0; rank < num_ranks; ++rank) {
    const RankCounts& one = counts(rank);
    all.moved_bytes += one.moved_bytes;
    all.moved_messages += one.moved_messages;
    all.planned_bytes += one.planned_bytes;
    all.planned_messages += one.planned_messages;
    all.flops += one.flops;
    all.workspace_bytes = std::max(all.workspace_bytes, one.workspace_bytes);
    all.planning_s = std::max(all.planning_s, one.planning_s);
    for (std::string_view rest = one.path.data(); !rest.empty();) {
      const std::string_view path = rest.substr(0, rest.find('+'));
      paths.emplace(path);
      rest.remove_prefix(std::min(rest.size(), path.size() + 1));
    }
  }
  all.path = fmt::format("{}", fmt::join(paths, "+"));
  return all;
}

void measure(Lockstep& lockstep, Communicator& comm, const RunSettings& settings, const Measurements& result,
             const std::function<void()>& operation) {
  RankCounts& counts = result.counts(comm.rank());
  std::vector<std::uint64_t> messages_before;
  for (int run = -settings.warmup; run < settings.repeat; ++run) {
    const std::uint64_t bytes_before = sum(comm.received_bytes());
    messages_before = comm.received_messages();
    lockstep.meet(comm);
    const SteadyClock::time_point begin = SteadyClock::now();
    operation();
    const SteadyClock::time_point end = SteadyClock::now();
    if (run < 0) continue;
    result.runs(comm.rank())[static_cast<std::size_t>(run)] = {begin, end};
    counts.moved_bytes = sum(comm.received_bytes()) - bytes_before;
    counts.moved_messages = sum(comm.received_messages()) - sum(messages_before);
  }
  const std::string path = path_of(comm, messages_before);
  path.copy(counts.path.data(), counts.path.size() - 1);
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

double Measurement::percentile_s(double percent) const {
  if (seconds.empty()) return 0;
  std::vector<double> sorted = seconds;
  std::sort(sorted.begin(), sorted.end());
  const auto rank = static_cast<std::size_t>(std::ceil(percent / 100 * static_cast<double>(sorted.size())));
  return sorted[std::clamp<std::size_t>(rank, 1, sorted.size()) - 1];
}

}  // namespace seqccl::command
