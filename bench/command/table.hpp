// table.hpp - aligned text tables, and where a command's words go.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <iosfwd>
#include <string>
#include <vector>

namespace seqccl::command {

/// Rows of cells; columns align themselves, numbers to the right.
class Table {
 public:
  explicit Table(std::vector<std::string> head) : rows_{std::move(head)} {}
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  /// Before the first row.
  void add_columns(const std::vector<std::string>& heads) { rows_.front().insert(rows_.front().end(), heads.begin(), heads.end()); }
  [[nodiscard]] bool has_rows() const noexcept { return rows_.size() > 1; }
  [[nodiscard]] std::string text() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

/// Results go to `out`; errors, warnings and progress to `err`.
struct Console {
  std::ostream& out;
  std::ostream& err;
  bool shows_progress = false;  // err is a terminal

  /// What is being done, on a line that the next one overwrites. "" clears it.
  void progress(const std::string& text) const;
};

/// "0.42", "12.3", "1.2e-07": three digits that fit a table.
[[nodiscard]] std::string short_number(double value);

}  // namespace seqccl::command
