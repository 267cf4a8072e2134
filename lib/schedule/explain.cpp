// explain.cpp - what a schedule moves, computes and waits for, as a page of text.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/explain.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <set>
#include <utility>
#include <vector>

#include "seqccl/cost.hpp"
#include "text.hpp"

SEQCCL_BEGIN

namespace {

/// Three digits, without a last zero: 1.25, 3.0, 12.5, 132.
std::string three_digits(double value) {
  if (value >= 99.95) return fmt::format("{:.0f}", value);
  if (value >= 9.995) return fmt::format("{:.1f}", value);
  std::string text = fmt::format("{:.2f}", value);
  if (text.back() == '0') text.pop_back();
  return text;
}

/// "20.0 Gflop", for any unit with prefixes of 1000.
std::string human(double value, const char* unit) {
  constexpr const char* prefixes[] = {"", "k", "M", "G", "T", "P", "E"};
  std::size_t prefix = 0;
  for (; value >= 999.5 && prefix + 1 < std::size(prefixes); ++prefix) value /= 1000;
  return prefix == 0 ? fmt::format("{:.0f} {}", value, unit) : fmt::format("{} {}{}", three_digits(value), prefixes[prefix], unit);
}

/// The largest of what ranks have, and who has it.
struct Busiest {
  double value = 0;
  Rank rank = 0;

  void see(double other, Rank who) {
    if (other > value) *this = {other, who};
  }
};

/// What goes through one class of links.
struct Traffic {
  double bytes = 0, messages = 0;
  Busiest sent_bytes, received_bytes, sent_messages, received_messages;
};

struct Totals {
  Traffic inside, between;
  double flops = 0;
  Busiest rank_flops, workspace_bytes, exposed_s;
};

Totals add_up(std::span<const Schedule> schedules, const Simulation& simulation, const Cluster& cluster) {
  Totals totals;
  for (const Schedule& schedule : schedules) {
    const Cost cost = cost_of(schedule);
    const Rank rank = schedule.rank;
    for (const bool is_inside : {true, false}) {
      Traffic& traffic = is_inside ? totals.inside : totals.between;
      double sent_bytes = 0, received_bytes = 0, sent_messages = 0, received_messages = 0;
      for (Rank peer = 0; peer < schedule.num_ranks; ++peer) {
        if (cluster.topology.same_node(rank, peer) != is_inside) continue;
        sent_bytes += static_cast<double>(cost.sent_bytes[peer]);
        received_bytes += static_cast<double>(cost.received_bytes[peer]);
        sent_messages += static_cast<double>(cost.sent_messages[peer]);
        received_messages += static_cast<double>(cost.received_messages[peer]);
      }
      traffic.bytes += sent_bytes;
      traffic.messages += sent_messages;
      traffic.sent_bytes.see(sent_bytes, rank);
      traffic.received_bytes.see(received_bytes, rank);
      traffic.sent_messages.see(sent_messages, rank);
      traffic.received_messages.see(received_messages, rank);
    }
    totals.flops += cost.flops;
    totals.rank_flops.see(cost.flops, rank);
    totals.workspace_bytes.see(static_cast<double>(cost.workspace_bytes), rank);
    totals.exposed_s.see(simulation.exposed_s[rank], rank);
  }
  return totals;
}

using TableRow = std::vector<std::string>;

/// Columns as wide as their widest cell; those named in `left` to the left, the others to the right.
std::string table(const std::vector<TableRow>& rows, const std::set<std::size_t>& left) {
  std::vector<std::size_t> widths;
  for (const TableRow& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const TableRow& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i)
      line += left.contains(i) ? fmt::format("{:<{}}  ", row[i], widths[i]) : fmt::format("{:>{}}  ", row[i], widths[i]);
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

TableRow traffic_row(const char* links, const Traffic& traffic) {
  const auto bytes = [](const Busiest& most) {
    return most.value > 0 ? fmt::format("{} (rank {})", human_bytes(most.value), most.rank) : "-";
  };
  const auto messages = [](const Busiest& most) { return most.value > 0 ? fmt::format("{:.0f} (rank {})", most.value, most.rank) : "-"; };
  return {links,
          human_bytes(traffic.bytes),
          bytes(traffic.sent_bytes),
          bytes(traffic.received_bytes),
          fmt::format("{:.0f}", traffic.messages),
          messages(traffic.sent_messages),
          messages(traffic.received_messages)};
}

std::string link_text(const LinkClass& link) {
  return fmt::format("{} + bytes / {}", human_seconds(link.latency_s), human(link.bytes_per_s, "B/s"));
}

std::string percent(double part, double whole) { return fmt::format("{:.0f}%", whole > 0 ? 100 * part / whole : 0.0); }

std::string work_text(const Schedule& schedule, const Step& step) {
  if (step.lane == Lane::compute) {
    const OpCost cost = cost_of(schedule, schedule.ops[step.index]);
    return cost.flops > cost.bytes ? human(cost.flops, "flop") : human_bytes(cost.bytes);
  }
  double sent = 0, received = 0;
  for (const Transfer& send : schedule.sends(schedule.exchanges[step.index])) sent += static_cast<double>(schedule.num_bytes(send.block));
  for (const Transfer& receive : schedule.receives(schedule.exchanges[step.index]))
    received += static_cast<double>(schedule.num_bytes(receive.block));
  if (received == 0) return human_bytes(sent) + " out";
  if (sent == 0) return human_bytes(received) + " in";
  return human_bytes(sent) + " out, " + human_bytes(received) + " in";
}

std::string clock_text(const Step& step) {
  std::string text;
  for (int lane = 0; lane < num_lanes; ++lane)
    if (step.after[lane] != 0)
      text += fmt::format("{} {} {}", text.empty() ? "after" : " and", lane_name(static_cast<Lane>(lane)), step.after[lane]);
  return text;
}

std::string steps_text(const Schedule& schedule, const std::vector<StepTime>& times) {
  std::vector<TableRow> rows{{"step", "lane", "what", "clock", "work", "begin", "end"}};
  Clock number_in_lane{};
  for (std::size_t i = 0; i < schedule.steps.size(); ++i) {
    const Step& step = schedule.steps[i];
    rows.push_back({fmt::format("{}", i), fmt::format("{} {}", lane_name(step.lane), ++number_in_lane[static_cast<int>(step.lane)]),
                    shorten(schedule.label(step), 60), clock_text(step), work_text(schedule, step), human_seconds(times[i].begin_s),
                    human_seconds(times[i].end_s)});
  }
  return fmt::format("\nsteps of rank {} (\"after comm 3\": when the third step of lane comm is done)\n", schedule.rank) +
         table(rows, {1, 2, 3});
}

}  // namespace

std::string human_bytes(double bytes) {
  constexpr const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  std::size_t unit = 0;
  for (; bytes >= (unit == 0 ? 1023.5 : 1023.95) && unit + 1 < std::size(units); ++unit) bytes /= 1024;
  return fmt::format("{:.{}f} {}", bytes, unit == 0 ? 0 : 1, units[unit]);
}

std::string human_seconds(double seconds) {
  if (std::abs(seconds) < 0.5e-12) return "0 s";
  if (seconds < 0) return "-" + human_seconds(-seconds);
  constexpr std::pair<double, const char*> units[] = {{1e9, "ns"}, {1e6, "us"}, {1e3, "ms"}};
  for (const auto& [per_second, unit] : units)
    if (seconds * per_second < 999.5) return three_digits(seconds * per_second) + " " + unit;
  return three_digits(seconds) + " s";
}

std::string explain(std::span<const Schedule> schedules, const Simulation& simulation, const Cluster& cluster, Rank steps_of) {
  if (schedules.empty()) throw Error(ErrorKind::argument, "explain: schedules is empty, want one per rank");
  if (simulation.steps.size() != schedules.size())
    throw Error(ErrorKind::argument,
                fmt::format("explain: simulation has {} ranks, want {} as there are schedules", simulation.steps.size(), schedules.size()));
  if (steps_of >= static_cast<Rank>(schedules.size()))
    throw Error(ErrorKind::argument, fmt::format("explain: steps_of is {}, want a rank below {}, or -1", steps_of, schedules.size()));

  const Totals totals = add_up(schedules, simulation, cluster);
  const auto num_ranks = static_cast<double>(schedules.size());
  const std::set<int> nodes(cluster.topology.node.begin(), cluster.topology.node.end());
  std::string text = fmt::format("{}: {} rank{}{}\n\n", schedules[0].name, schedules.size(), schedules.size() == 1 ? "" : "s",
                                 nodes.size() > 1 ? fmt::format(" on {} nodes", nodes.size()) : "");

  std::vector<TableRow> links{{"links", "bytes", "busiest sends", "busiest receives", "messages", "busiest sends", "busiest receives"}};
  links.push_back(traffic_row("inside nodes", totals.inside));
  links.push_back(traffic_row("between nodes", totals.between));
  text += table(links, {0}) + "\n";

  const double mean_flops = totals.flops / num_ranks;
  std::vector<TableRow> facts;
  facts.push_back({"compute", fmt::format("{}, balance {:.2f} (busiest / mean; rank {} has {})", human(totals.flops, "flop"),
                                          mean_flops > 0 ? totals.rank_flops.value / mean_flops : 1.0, totals.rank_flops.rank,
                                          human(totals.rank_flops.value, "flop"))});
  facts.push_back(
      {"workspace", fmt::format("{} at most, on rank {}", human_bytes(totals.workspace_bytes.value), totals.workspace_bytes.rank)});
  facts.push_back({"time", human_seconds(simulation.seconds) + " simulated"});
  const Rank exposed_rank = totals.exposed_s.rank;
  facts.push_back({"exposed", fmt::format("{} at most ({} of the time), on rank {}", human_seconds(totals.exposed_s.value),
                                          percent(totals.exposed_s.value, simulation.seconds), exposed_rank)});
  if (const int step = simulation.exposing_step[exposed_rank]; step >= 0)
    facts.push_back({"", fmt::format("it waits longest for its step {}: {}", step,
                                     shorten(schedules[exposed_rank].label(schedules[exposed_rank].steps[step]), 90))});
  facts.push_back({"cluster", "inside nodes  " + link_text(cluster.inside)});
  facts.push_back({"", "between nodes " + link_text(cluster.between)});
  facts.push_back({"", fmt::format("kernels       {} + max(flops / {}, bytes / {})", human_seconds(cluster.step_overhead_s),
                                   human(cluster.flops_per_s, "flop/s"), human(cluster.memory_bytes_per_s, "B/s"))});
  text += table(facts, {0, 1});

  if (steps_of >= 0) text += steps_text(schedules[steps_of], simulation.steps[steps_of]);
  return text;
}

SEQCCL_END
