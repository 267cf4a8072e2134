// check_matching.cpp - pairs the sends of each rank with the receives of its peers, in program order of both sides.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <tuple>

#include "message_graph.hpp"
#include "well_formed.hpp"

SEQCCL_BEGIN
namespace checker {

namespace {

/// One side of a message. Sorting by `channel`, stably, keeps program order within a channel.
struct End {
  Lane lane = Lane::comm;
  Rank from = 0, to = 0;
  std::uint32_t step = 0, transfer = 0;
  [[nodiscard]] auto channel() const { return std::tie(lane, from, to); }
};

struct Ends {
  std::vector<End> sends, receives;
};

Ends collect(std::span<const Schedule> schedules) {
  Ends ends;
  for (const Schedule& schedule : schedules) {
    for (std::uint32_t i = 0; i < schedule.steps.size(); ++i) {
      const Step& step = schedule.steps[i];
      if (step.lane == Lane::compute) continue;
      const Exchange& exchange = schedule.exchanges[step.index];
      const std::uint32_t middle = exchange.first + exchange.num_sends, end = middle + exchange.num_receives;
      for (std::uint32_t t = exchange.first; t < middle; ++t)
        ends.sends.push_back({step.lane, schedule.rank, schedule.transfers[t].peer, i, t});
      for (std::uint32_t t = middle; t < end; ++t) ends.receives.push_back({step.lane, schedule.transfers[t].peer, schedule.rank, i, t});
    }
  }
  const auto by_channel = [](const End& a, const End& b) { return a.channel() < b.channel(); };
  std::stable_sort(ends.sends.begin(), ends.sends.end(), by_channel);
  std::stable_sort(ends.receives.begin(), ends.receives.end(), by_channel);
  return ends;
}

}  // namespace

Matching match_messages(std::span<const Schedule> schedules) {
  const Ends ends = collect(schedules);
  Matching matching;
  matching.messages.reserve(ends.sends.size());
  auto send = ends.sends.begin();
  auto receive = ends.receives.begin();
  while (send != ends.sends.end() || receive != ends.receives.end()) {
    // One channel at a time: the smaller of the two next ones.
    const bool take_send = receive == ends.receives.end() || (send != ends.sends.end() && send->channel() <= receive->channel());
    const End channel = take_send ? *send : *receive;
    std::size_t num_sends = 0, num_receives = 0;
    const auto first_send = send;
    const auto first_receive = receive;
    for (; send != ends.sends.end() && send->channel() == channel.channel(); ++send) ++num_sends;
    for (; receive != ends.receives.end() && receive->channel() == channel.channel(); ++receive) ++num_receives;

    const Schedule &from = schedules[channel.from], &to = schedules[channel.to];
    for (std::size_t i = 0; i < std::min(num_sends, num_receives); ++i) {
      const End &out = first_send[static_cast<std::ptrdiff_t>(i)], &in = first_receive[static_cast<std::ptrdiff_t>(i)];
      const std::size_t sent = from.num_bytes(from.transfers[out.transfer].block), taken = to.num_bytes(to.transfers[in.transfer].block);
      if (sent != taken && matching.problems.size() < max_problems)
        matching.problems.push_back(fmt::format("message {} from rank {} to rank {} on lane {}: {} bytes sent by {}, {} bytes taken by {}",
                                                i + 1, channel.from, channel.to, name(channel.lane), sent, where(from, out.step), taken,
                                                where(to, in.step)));
      matching.messages.push_back({channel.from, channel.to, out.step, in.step, out.transfer, in.transfer});
    }
    if (num_sends != num_receives && matching.problems.size() < max_problems) {
      const bool more_sends = num_sends > num_receives;
      const End& left_over =
          more_sends ? first_send[static_cast<std::ptrdiff_t>(num_receives)] : first_receive[static_cast<std::ptrdiff_t>(num_sends)];
      matching.problems.push_back(
          fmt::format("lane {}: rank {} sends {} messages to rank {}, which receives {}; the first left over is in {}", name(channel.lane),
                      channel.from, num_sends, channel.to, num_receives, where(more_sends ? from : to, left_over.step)));
    }
  }
  return matching;
}

}  // namespace checker

CheckReport check_matching(std::span<const Schedule> schedules) {
  CheckReport report = checker::check_well_formed(schedules);
  if (!report.ok()) return report;
  for (const Schedule& schedule : schedules)
    if (schedule.fingerprint != schedules[0].fingerprint)
      report.problems.push_back(fmt::format("rank {} records another operation than rank 0: fingerprint {:016x}, not {:016x}",
                                            schedule.rank, schedule.fingerprint, schedules[0].fingerprint));
  std::vector<std::string> problems = checker::match_messages(schedules).problems;
  report.problems.insert(report.problems.end(), problems.begin(), problems.end());
  return report;
}

SEQCCL_END
