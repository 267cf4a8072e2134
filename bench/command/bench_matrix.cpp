// bench_matrix.cpp - pairs of ranks as a table of ranks by ranks, with those marked that are worse than the others.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <vector>

#include "command/bench_rows.hpp"
#include "command/table.hpp"

namespace seqccl::command {
namespace {

using Pairs = std::map<std::pair<int, int>, double>;

/// `is_better_high`: bandwidth; else latency.
std::string one_matrix(const std::string& title, int num_ranks, const Pairs& pairs, bool is_better_high) {
  std::vector<double> sorted;
  for (const auto& [pair, value] : pairs) sorted.push_back(value);
  std::sort(sorted.begin(), sorted.end());
  const double median = sorted[sorted.size() / 2];
  std::vector<std::string> head = {"rank"};
  for (int rank = 0; rank < num_ranks; ++rank) head.push_back(std::to_string(rank));
  Table table(head);
  std::string marked;
  for (int row = 0; row < num_ranks; ++row) {
    std::vector<std::string> cells = {std::to_string(row)};
    for (int column = 0; column < num_ranks; ++column) {
      const auto found = pairs.find({std::min(row, column), std::max(row, column)});
      if (found == pairs.end()) {
        cells.emplace_back("-");
        continue;
      }
      const double value = found->second;
      const bool is_worse = is_better_high ? value * outlier < median : value > outlier * median;
      cells.push_back(short_number(value) + (is_worse ? "*" : ""));
      if (is_worse && row < column) marked += fmt::format("{}{}-{}", marked.empty() ? "" : ", ", row, column);
    }
    table.add(std::move(cells));
  }
  return fmt::format(
      "{}\n{}min {}, median {}, max {}; {}\n", title, table.text(), short_number(sorted.front()), short_number(median),
      short_number(sorted.back()),
      marked.empty() ? std::string("none marked") : fmt::format("* more than {:g} times worse than the median: {}", outlier, marked));
}

}  // namespace

std::string matrix_text(const nlohmann::ordered_json& rows) {
  std::string text;
  std::set<int> rank_counts;
  for (const auto& row : rows) rank_counts.insert(row.at("ranks").get<int>());
  for (const int num_ranks : rank_counts) {
    std::map<std::int64_t, Pairs> seconds;  // by bytes
    for (const auto& row : rows)
      if (row.at("ranks") == num_ranks)
        seconds[row.at("bytes").get<std::int64_t>()][{row.at("first").get<int>(), row.at("second").get<int>()}] =
            row.at("median_s").get<double>();
    Pairs latency, bandwidth;
    const auto& [small, times] = *seconds.begin();
    const auto& [large, large_times] = *seconds.rbegin();
    for (const auto& [pair, each] : times) latency[pair] = each * 1e6;
    for (const auto& [pair, each] : large_times) bandwidth[pair] = static_cast<double>(large) / each / 1e9;
    text += text.empty() ? "" : "\n";
    text += one_matrix(fmt::format("{} ranks: latency of {} bytes, us, one way", num_ranks, small), num_ranks, latency, false) + "\n";
    text += one_matrix(fmt::format("{} ranks: bandwidth of {} bytes, GB/s, one way", num_ranks, large), num_ranks, bandwidth, true);
  }
  return text;
}

}  // namespace seqccl::command
