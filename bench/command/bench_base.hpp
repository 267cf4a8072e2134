// bench_base.hpp - options, cases and rows that every `seqccl bench` shares.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "command/report.hpp"
#include "command/subcommand.hpp"

namespace seqccl::command {

class Bench : public Subcommand {
 protected:
  void add_common(CLI::App& app, bool has_backward = true);

  struct Case {
    int num_ranks;
    std::int64_t num_tokens;
  };
  [[nodiscard]] std::vector<Case> cases() const;

  /// `outcome` may be null: not checked.
  void add_row(const std::string& method, const Case& one, const Direction& direction, const CheckOutcome* outcome);
  void add_refusal(const std::string& method, const Case& one, const std::string& why);
  [[nodiscard]] int show(const Console& console) const;

  std::string ranks_ = "2,4", tokens_ = "2k,8k", transport_ = "threads";
  std::string note_;  // shown below the table
  RunSettings settings_ = [] {
    RunSettings settings;
    settings.warmup = 1;
    settings.repeat = 3;
    return settings;
  }();
  bool backward_ = false, checks_ = true, all_right_ = true;
  Table table_{{"method", "pass", "ranks", "tokens", "median", "min", "max", "moved", "GB/s", "GFLOP/s", "#wrong"}};
  Json results_ = Json::array(), refused_ = Json::array();
};

}  // namespace seqccl::command
