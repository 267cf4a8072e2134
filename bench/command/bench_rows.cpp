// bench_rows.cpp - comma-separated values, and a column per path.
// SPDX-License-Identifier: Apache-2.0
#include "command/bench_rows.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>

#include "command/table.hpp"
#include "seqccl/explain.hpp"

namespace seqccl::command {
namespace {

using Row = nlohmann::ordered_json;

std::string csv_cell(const Row& value) {
  std::string text = value.is_string() ? value.get<std::string>() : value.dump();
  if (text.find_first_of(",\"\n") == std::string::npos) return text;
  for (std::size_t at = 0; (at = text.find('"', at)) != std::string::npos; at += 2) text.insert(at, 1, '"');
  return '"' + text + '"';
}

void note_new(std::vector<std::string>& list, const std::string& word) {
  if (std::ranges::find(list, word) == list.end()) list.push_back(word);
}

}  // namespace

std::string csv_text(const nlohmann::ordered_json& rows) {
  std::vector<std::string> names;
  for (const Row& row : rows)
    for (const auto& [key, value] : row.items())
      if (!value.is_structured()) note_new(names, key);
  std::string text = fmt::format("{}\n", fmt::join(names, ","));
  for (const Row& row : rows) {
    std::vector<std::string> cells;
    for (const std::string& name : names) cells.push_back(row.contains(name) && !row[name].is_structured() ? csv_cell(row[name]) : "");
    text += fmt::format("{}\n", fmt::join(cells, ","));
  }
  return text;
}

std::string row_text(const nlohmann::ordered_json& row) {
  std::string text = row.contains("pattern") ? row["pattern"].get<std::string>() : row.at("method").get<std::string>();
  if (row.contains("pass")) text += " " + row["pass"].get<std::string>();
  text += fmt::format(", {} ranks", row.at("ranks").get<int>());
  if (row.contains("tokens")) text += fmt::format(", {} tokens", row["tokens"].get<std::int64_t>());
  if (row.contains("bytes")) text += fmt::format(", {} bytes", row["bytes"].get<std::int64_t>());
  if (row.contains("type")) text += ", " + row["type"].get<std::string>();
  return text;
}

std::string row_key(const nlohmann::ordered_json& row) {
  std::string text = row_text(row) + ", " + row.at("transport").get<std::string>();
  for (const char* field : {"dtype",  "batch",      "q_heads",    "kv_heads",    "heads",      "head_dim",      "v_head_dim",
                            "kind",   "mask",       "partition",  "documents",   "not_causal", "column_blocks", "ranks_per_node",
                            "result", "new_tokens", "run_tokens", "page_tokens", "anchor",     "passed"})
    if (row.contains(field)) text += fmt::format(", {} {}", field, csv_cell(row[field]));
  return text;
}

std::string paths_text(const nlohmann::ordered_json& rows) {
  std::vector<std::string> paths, whats;
  std::map<std::pair<std::string, std::string>, double> seconds;  // by what and path
  for (const Row& row : rows) {
    const std::string what = row_text(row), path = row.at("transport").get<std::string>();
    note_new(paths, path);
    note_new(whats, what);
    seconds[{what, path}] = row.at("median_s").get<double>();
  }
  std::vector<std::string> head = {"median"};
  head.insert(head.end(), paths.begin(), paths.end());
  Table table(head);
  for (const std::string& what : whats) {
    std::vector<std::string> cells = {what};
    const auto first = paths.empty() ? seconds.end() : seconds.find({what, paths.front()});
    for (const std::string& path : paths) {
      const auto own = seconds.find({what, path});
      if (own == seconds.end()) {
        cells.emplace_back("-");
        continue;
      }
      const bool has_ratio = path != paths.front() && first != seconds.end() && first->second > 0;
      cells.push_back(human_seconds(own->second) + (has_ratio ? fmt::format(" ({:.2f}x)", own->second / first->second) : ""));
    }
    table.add(std::move(cells));
  }
  return table.text();
}

}  // namespace seqccl::command
