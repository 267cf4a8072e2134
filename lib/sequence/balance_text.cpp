// balance_text.cpp - a plan as a table for people.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <map>

#include "seqccl/balance.hpp"

SEQCCL_BEGIN

namespace {

constexpr std::size_t most_groups = 8;

[[nodiscard]] std::string time_text(double seconds) {
  if (seconds >= 1) return fmt::format("{:.3f} s", seconds);
  return seconds >= 1e-3 ? fmt::format("{:.3f} ms", seconds * 1e3) : fmt::format("{:.3f} us", seconds * 1e6);
}

/// "0-3,6"
[[nodiscard]] std::string ranks_text(const std::vector<Rank>& ranks) {
  std::string text;
  for (std::size_t i = 0; i < ranks.size();) {
    std::size_t end = i + 1;
    while (end < ranks.size() && ranks[end] == ranks[end - 1] + 1) ++end;
    if (!text.empty()) text += ",";
    text += end - i == 1 ? fmt::format("{}", ranks[i]) : fmt::format("{}-{}", ranks[i], ranks[end - 1]);
    i = end;
  }
  return text;
}

struct Group {
  std::vector<Rank> ranks;
  std::size_t num_sequences = 0;
  std::int64_t tokens = 0;
};

void append_groups(const MicroBatch& micro, std::string& text) {
  std::vector<Group> groups;  // shared ones, in packed order: equal groups are side by side
  Group alone, none;
  for (std::size_t i = 0; i < micro.sequences.size(); ++i) {
    const std::int64_t end = i + 1 < micro.sequences.size() ? micro.first_token[i + 1] : micro.partition.num_tokens();
    const bool is_shared = micro.groups[i].size() > 1;
    if (is_shared && (groups.empty() || groups.back().ranks != micro.groups[i])) groups.push_back({micro.groups[i], 0, 0});
    Group& group = is_shared ? groups.back() : micro.groups[i].empty() ? none : alone;
    ++group.num_sequences;
    group.tokens += end - micro.first_token[i];
  }
  const auto line = [&](const std::string& who, const Group& group) {
    fmt::format_to(std::back_inserter(text), "    {}: {} {}, {} tokens\n", who, group.num_sequences,
                   group.num_sequences == 1 ? "sequence" : "sequences", group.tokens);
  };
  Group rest;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    if (i < most_groups) {
      line(fmt::format("ranks {}", ranks_text(groups[i].ranks)), groups[i]);
    } else {
      rest.num_sequences += groups[i].num_sequences;
      rest.tokens += groups[i].tokens;
    }
  }
  if (rest.num_sequences > 0) line(fmt::format("{} smaller groups", groups.size() - most_groups), rest);
  if (alone.num_sequences > 0) line("one rank each", alone);
  if (none.num_sequences > 0) line("nowhere", none);
}

}  // namespace

std::string BatchPlan::describe() const {
  std::string text =
      fmt::format("{} {}, {}", micro_batches.size(), micro_batches.size() == 1 ? "micro-batch" : "micro-batches", time_text(seconds));
  if (lower_bound_s > 0)
    text += fmt::format("; at least {}, uniform {} ({:.2f} times as long)", time_text(lower_bound_s), time_text(uniform_seconds),
                        uniform_seconds / seconds);
  text += "\n";
  if (!micro_batches.empty()) text += "  #  sequences      tokens   most on a rank        slowest rank   mean rank\n";
  for (std::size_t i = 0; i < micro_batches.size(); ++i) {
    const MicroBatch& micro = micro_batches[i];
    std::int64_t most = 0;
    Rank slowest = 0;
    double sum_s = 0;
    const int num_ranks = micro.partition.num_ranks();
    for (Rank rank = 0; rank < num_ranks; ++rank) {
      most = std::max(most, micro.partition.tokens_on(rank));
      if (micro.rank_seconds[rank] > micro.rank_seconds[slowest]) slowest = rank;
      sum_s += micro.rank_seconds[rank];
    }
    text += fmt::format("{:>3}  {:>9}  {:>10}  {:>15}  {:>18}  {:>10}\n", i, micro.sequences.size(), micro.partition.num_tokens(), most,
                        fmt::format("{} (rank {})", time_text(micro.rank_seconds[slowest]), slowest), time_text(sum_s / num_ranks));
    append_groups(micro, text);
  }
  return text;
}

SEQCCL_END
