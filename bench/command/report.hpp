// report.hpp - measurements and verdicts as JSON and as rows of a table.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "command/check.hpp"
#include "command/lanes.hpp"
#include "command/measure.hpp"
#include "seqccl/error.hpp"

namespace seqccl::command {

using Json = nlohmann::ordered_json;

/// `flops`: of the problem, for GFLOP/s.
[[nodiscard]] Json to_json(const Measurement& measurement, double flops);
[[nodiscard]] Json to_json(const CheckOutcome& outcome);
/// What ended it, and during which way to compute.
[[nodiscard]] Json to_json(const Error& error, const std::string& during);

/// One direction of one run: what the table and the JSON say about it.
struct Direction {
  const char* name = "forward";
  const Measurement* measurement = nullptr;
  double flops = 0;
  const LaneTimes* lanes = nullptr;  // null: not measured
};

/// The table of `run`: a row per method and direction.
class RunReport {
 public:
  RunReport(Json problem, int num_ranks, bool checks) : problem_(std::move(problem)), num_ranks_(num_ranks), checks_(checks) {}

  /// `outcome` may be null: not checked.
  void add(const std::string& method, const std::vector<Direction>& directions, const CheckOutcome* outcome);
  void refused(const std::string& method, const std::string& why) { refused_.emplace_back(method, why); }
  /// What runs from now on.
  void begin(std::string method) { begun_ = std::move(method); }
  /// A rank failed meanwhile: nothing comes after it.
  void failed(const Error& error) { failure_.emplace(error); }
  void note(std::string text) { notes_.push_back(std::move(text)); }
  /// A misspelt name would otherwise be left aside without a word.
  void note_unused(const std::vector<std::string>& names);

  [[nodiscard]] bool passed() const noexcept { return passed_; }
  [[nodiscard]] const std::optional<Error>& failure() const noexcept { return failure_; }
  [[nodiscard]] std::size_t num_results() const noexcept { return results_.size(); }
  [[nodiscard]] std::string text() const;
  [[nodiscard]] Json json() const;

 private:
  Json problem_;
  int num_ranks_;
  bool checks_;
  bool passed_ = true;
  Json results_ = Json::array();
  std::vector<std::vector<std::string>> rows_;
  std::vector<std::string> failures_, notes_;
  std::vector<std::pair<std::string, std::string>> refused_;
  std::string coverage_, begun_;
  std::optional<Error> failure_;
};

}  // namespace seqccl::command
