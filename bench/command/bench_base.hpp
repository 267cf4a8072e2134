// bench_base.hpp - options, cases and rows that every `seqccl bench` shares.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "command/options.hpp"
#include "command/report.hpp"
#include "command/subcommand.hpp"

namespace seqccl::command {

class Bench : public Subcommand {
 public:
  /// Measures and shows. A rank that fails ends the measuring, not the showing. @throws Error
  int run(const Console& console) final;

 protected:
  /// All cases, row by row. @throws Error
  virtual void measure_all(const Console& console) = 0;

  void add_common(CLI::App& app, bool has_backward = true);
  /// Of these: --ranks, --transport, --wait, --repeat, --warmup.
  void add_ranks(CLI::App& app);
  /// --ranks. @throws Error(argument)
  [[nodiscard]] std::vector<int> rank_counts() const;

  struct Case {
    int num_ranks;
    std::int64_t num_tokens;
  };
  [[nodiscard]] std::vector<Case> cases() const;

  /// Before a row is measured: which one, in words.
  void begin_row(const Console& console, const std::string& row);
  void begin_row(const Console& console, const std::string& method, const Case& one);
  /// Its numbers, for the JSON, which also says how ranks met. `settings_` are those that it was measured with.
  void end_row(Json row);
  /// `outcome` may be null: not checked.
  void add_row(const std::string& method, const Case& one, const Direction& direction, const CheckOutcome* outcome);
  void add_refusal(const std::string& method, const Case& one, const std::string& why);

  std::string ranks_ = "2,4", tokens_ = "2k,8k", transport_ = default_transport(), wait_ = "auto";
  std::string note_;  // shown below the table
  RunSettings settings_ = [] {
    RunSettings settings;
    settings.warmup = 1;
    settings.repeat = 3;
    return settings;
  }();
  bool backward_ = false, checks_ = true, all_right_ = true;
  Table table_{{"method", "pass", "ranks", "tokens", "median", "min", "max", "moved", "GB/s", "GFLOP/s", "#wrong", "path"}};
  Json results_ = Json::array(), refused_ = Json::array();

 private:
  [[nodiscard]] std::string header() const;
  [[nodiscard]] int show(const Console& console) const;

  std::map<int, std::string> waits_;  // how ranks waited, by their number
  std::string begun_;                 // the row that is being measured
  std::optional<Error> failure_;
};

}  // namespace seqccl::command
