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
#include "command/transport_choice.hpp"

namespace seqccl::command {

class Bench : public Subcommand {
 public:
  /// Measures on one path after the other, and shows. A rank that fails ends the measuring, not the showing. @throws Error
  int run(const Console& console) final;

 protected:
  /// All cases, row by row, by the path that `settings_` have. @throws Error
  virtual void measure_all(const Console& console) = 0;

  void add_common(CLI::App& app, bool has_backward = true);
  /// Of these: --ranks, --transport, --list, --csv, --wait, --repeat, --warmup.
  void add_ranks(CLI::App& app, const std::string& repeat_names = "--repeat");
  /// Above the table of a path: what its columns say.
  [[nodiscard]] virtual std::string heading() const { return {}; }
  /// Below the table of a path, from its rows; also of one that did not end.
  [[nodiscard]] virtual std::string footer(const Json& /*rows*/) const { return {}; }
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
  /// Of a row whose lanes were measured: Overall, Compute, Pure comm., Overlap %, slowdown.
  [[nodiscard]] static std::vector<std::string> lane_cells(const LaneTimes& lanes);
  [[nodiscard]] static Json lanes_json(const LaneTimes& lanes);
  void add_refusal(const std::string& method, const Case& one, const std::string& why);

  std::string ranks_ = "2,4", tokens_ = "2k,8k", transport_ = default_transport(), wait_ = "auto";
  std::string note_;  // shown below the table
  /// What rows have in common and --tokens and --ranks do not say: dtype, heads, mask, ... In every row of the JSON.
  Json problem_ = Json::object();
  RunSettings settings_ = [] {
    RunSettings settings;
    settings.warmup = 1;
    settings.repeat = 3;
    return settings;
  }();
  /// The simulator's time of the row that is added next, if it has one; the table has a column more then.
  std::optional<double> predicted_s_;
  bool backward_ = false, checks_ = true, all_right_ = true;
  Table table_{{"method", "pass", "ranks", "tokens", "median", "min", "max", "moved", "GB/s", "GFLOP/s", "#wrong", "path"}};
  Json results_ = Json::array(), refused_ = Json::array();

 private:
  void begin_path(const TransportChoice& choice);
  void end_path();
  [[nodiscard]] std::string header() const;
  [[nodiscard]] int list(const Console& console) const;
  [[nodiscard]] int show(const Console& console) const;
  void show_text(const Console& console) const;

  std::vector<TransportChoice> choices_;
  std::string path_;          // of the rows that are measured, as it was asked for
  std::size_t path_row_ = 0;  // its first
  std::vector<std::string> sections_;
  bool lists_ = false, csv_ = false;
  std::map<int, std::string> waits_;  // how ranks waited, by their number
  std::string begun_;                 // the row that is being measured
  std::optional<Error> failure_;
};

}  // namespace seqccl::command
