// table.cpp - aligned text tables and the progress line.
// SPDX-License-Identifier: Apache-2.0
#include "command/table.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <ostream>

namespace seqccl::command {
namespace {

bool looks_like_number(const std::string& cell) {
  return !cell.empty() && ((cell[0] >= '0' && cell[0] <= '9') || cell[0] == '-' || cell[0] == '+');
}

}  // namespace

std::string Table::text() const {
  std::vector<std::size_t> widths;
  for (const auto& row : rows_) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    std::string line;
    for (std::size_t i = 0; i < rows_[r].size(); ++i) {
      // A head stands over its numbers: right-aligned if the first row below it is.
      const std::string& kind = r == 0 && rows_.size() > 1 && i < rows_[1].size() ? rows_[1][i] : rows_[r][i];
      line += i > 0 ? "  " : "";
      line += looks_like_number(kind) ? fmt::format("{:>{}}", rows_[r][i], widths[i]) : fmt::format("{:<{}}", rows_[r][i], widths[i]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + '\n';
    if (r > 0) continue;
    for (std::size_t i = 0; i < widths.size(); ++i) text += std::string(i > 0 ? "  " : "") + std::string(widths[i], '-');
    text += '\n';
  }
  return text;
}

void Console::progress(const std::string& text) const {
  if (shows_progress) err << "\r\033[K" << text << std::flush;
}

std::string short_number(double value) {
  if (std::isnan(value)) return "nan";
  const double size = std::abs(value);
  if (size != 0 && (size < 0.01 || size >= 1e6)) return fmt::format("{:.1e}", value);
  return size >= 100 ? fmt::format("{:.0f}", value) : size >= 10 ? fmt::format("{:.1f}", value) : fmt::format("{:.2f}", value);
}

}  // namespace seqccl::command
