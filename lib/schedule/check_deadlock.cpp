// check_deadlock.cpp - an order in which all steps of all ranks can happen, or the cycle that forbids one.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>

#include "message_graph.hpp"
#include "well_formed.hpp"

SEQCCL_BEGIN
namespace checker {

namespace {

struct Edge {
  std::uint32_t from = 0, to = 0;
};

/// Numbers of events: two for each step, all steps of rank 0 first.
class Events {
 public:
  explicit Events(std::span<const Schedule> schedules) {
    for (const Schedule& schedule : schedules) first_.push_back(first_.back() + 2 * static_cast<std::uint32_t>(schedule.steps.size()));
  }
  [[nodiscard]] std::uint32_t size() const { return first_.back(); }
  [[nodiscard]] std::uint32_t begins(Rank rank, std::uint32_t step) const { return first_[rank] + 2 * step; }
  [[nodiscard]] std::uint32_t done(Rank rank, std::uint32_t step) const { return begins(rank, step) + 1; }
  [[nodiscard]] Event at(std::uint32_t number) const {
    const auto rank = std::upper_bound(first_.begin(), first_.end(), number) - first_.begin() - 1;
    return {static_cast<Rank>(rank), (number - first_[rank]) / 2, (number - first_[rank]) % 2 != 0};
  }

 private:
  std::vector<std::uint32_t> first_{0};
};

void add_edges_of_rank(const Schedule& schedule, const Events& events, std::vector<Edge>& edges, std::vector<std::string>& problems) {
  std::array<std::vector<std::uint32_t>, num_lanes> steps;
  for (std::uint32_t i = 0; i < schedule.steps.size(); ++i) steps[static_cast<int>(schedule.steps[i].lane)].push_back(i);
  for (const auto& lane : steps)
    for (std::size_t i = 1; i < lane.size(); ++i)
      edges.push_back({events.done(schedule.rank, lane[i - 1]), events.begins(schedule.rank, lane[i])});
  for (std::uint32_t i = 0; i < schedule.steps.size(); ++i) {
    edges.push_back({events.begins(schedule.rank, i), events.done(schedule.rank, i)});
    for (int lane = 0; lane < num_lanes; ++lane) {
      const std::uint32_t after = schedule.steps[i].after[lane];
      if (after == 0) continue;
      if (after <= steps[lane].size()) {
        edges.push_back({events.done(schedule.rank, steps[lane][after - 1]), events.begins(schedule.rank, i)});
      } else if (problems.size() < max_problems) {
        problems.push_back(
            fmt::format("{} waits for {} step {}, of {}", where(schedule, i), name(static_cast<Lane>(lane)), after, steps[lane].size()));
      }
    }
  }
}

/// From any event that never happens, back through events that never happen: comes round.
std::string describe_cycle(std::span<const Schedule> schedules, const Events& events, std::span<const Edge> edges,
                           std::span<const std::uint32_t> waits) {
  constexpr std::uint32_t none = 0xffffffffu;
  std::vector<std::uint32_t> blocker(events.size(), none);
  for (const Edge& edge : edges)
    if (waits[edge.from] != 0 && waits[edge.to] != 0) blocker[edge.to] = edge.from;
  std::uint32_t event = 0;
  while (waits[event] == 0) ++event;
  std::vector<std::uint32_t> seen(events.size(), none), path;
  while (seen[event] == none) {
    seen[event] = static_cast<std::uint32_t>(path.size());
    path.push_back(event);
    event = blocker[event];
  }
  path.erase(path.begin(), path.begin() + seen[event]);

  constexpr std::size_t most = 24;
  std::string text = fmt::format("deadlock, a cycle of {} events: ", path.size());
  for (std::size_t i = 0; i < std::min(path.size(), most); ++i) {
    const Event at = events.at(path[i]);
    text += fmt::format("{} {}, which waits for: ", where(schedules[at.rank], at.step), at.is_done ? "is done" : "begins");
  }
  return text + (path.size() > most ? fmt::format("... ({} more)", path.size() - most) : "the first");
}

}  // namespace

Order order_events(std::span<const Schedule> schedules, std::span<const Message> messages) {
  Order order;
  const Events events(schedules);
  std::vector<Edge> edges;
  edges.reserve(3 * std::size_t{events.size()} + 2 * messages.size());
  for (const Schedule& schedule : schedules) add_edges_of_rank(schedule, events, edges, order.problems);
  for (const Message& message : messages) {
    edges.push_back({events.begins(message.from, message.send_step), events.done(message.to, message.receive_step)});
    edges.push_back({events.begins(message.to, message.receive_step), events.done(message.from, message.send_step)});
  }

  // Kahn: edges grouped by their source, then whatever waits for nothing happens next.
  std::vector<std::uint32_t> first(events.size() + 1), targets(edges.size()), waits(events.size());
  for (const Edge& edge : edges) ++first[edge.from + 1], ++waits[edge.to];
  for (std::uint32_t i = 0; i < events.size(); ++i) first[i + 1] += first[i];
  std::vector<std::uint32_t> next(first.begin(), first.end() - 1);
  for (const Edge& edge : edges) targets[next[edge.from]++] = edge.to;

  std::vector<std::uint32_t> happened;
  happened.reserve(events.size());
  for (std::uint32_t i = 0; i < events.size(); ++i)
    if (waits[i] == 0) happened.push_back(i);
  for (std::size_t i = 0; i < happened.size(); ++i) {
    const std::uint32_t event = happened[i];
    for (std::uint32_t t = first[event]; t < first[event + 1]; ++t)
      if (--waits[targets[t]] == 0) happened.push_back(targets[t]);
  }
  if (happened.size() < events.size()) order.problems.push_back(describe_cycle(schedules, events, edges, waits));
  order.events.reserve(happened.size());
  for (const std::uint32_t event : happened) order.events.push_back(events.at(event));
  return order;
}

}  // namespace checker

CheckReport check_deadlock_free(std::span<const Schedule> schedules) {
  CheckReport report = checker::check_well_formed(schedules);
  if (report.ok()) report.problems = checker::order_events(schedules, checker::match_messages(schedules).messages).problems;
  return report;
}

SEQCCL_END
