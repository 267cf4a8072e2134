// sweep.hpp - simulates every softmax method over many settings: which one wins where, by the cost model alone.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "command/choices.hpp"
#include "command/table.hpp"
#include "seqccl/simulate.hpp"

namespace seqccl::command {

/// Which passes a setting is timed for.
enum class Passes { forward, backward, both };

/// A method that takes at most this many times as long as the cheapest is as good. The winner is the first of `choices` that is as
/// good as the cheapest: the list goes from plain to elaborate, and what is elaborate must be worth it.
inline constexpr double even = 1.01;

class Sweep {
 public:
  /// `axes`: what settings differ in, "ranks", "tokens", ...; `choices`: names as choose_method knows them.
  Sweep(std::vector<std::string> axes, std::vector<std::string> choices, Passes passes)
      : axes_(std::move(axes)), choices_(std::move(choices)), passes_(passes) {}

  /// One problem on several machines of the same topology, each with its value on every axis. Plans are recorded once.
  struct Machine {
    std::vector<std::string> values;
    Cluster cluster;
  };
  void add(const AttentionSpec& spec, const ChoiceOptions& options, std::span<const Machine> machines);

  struct Row {
    std::vector<std::string> values;  // one per axis
    std::vector<double> seconds;      // one per choice; NaN: refused, or the same schedule as an earlier choice
    double best_s = 0;                // of the cheapest
    std::size_t winner = 0;
    int num_even = 0;                      // others that are as good
    std::optional<std::size_t> runner_up;  // the cheapest that is not; none: the method does not matter here
    [[nodiscard]] double runner_up_ratio() const { return runner_up ? seconds[*runner_up] / best_s : 1; }
  };
  [[nodiscard]] const std::vector<Row>& rows() const noexcept { return rows_; }
  [[nodiscard]] const std::vector<std::string>& axes() const noexcept { return axes_; }
  [[nodiscard]] const std::vector<std::string>& choices() const noexcept { return choices_; }

  /// Where one choice wins, of the settings in which the method matters.
  struct Wins {
    std::size_t num_wins = 0, num_even = 0, num_settings = 0;
    std::string text;  // "fastest in 10 of 80, most of all at ranks 16, Hq:Hkv 32:32 (8 of 10)"
  };
  [[nodiscard]] std::vector<Wins> wins() const;
  /// One line per choice.
  [[nodiscard]] std::string wins_text() const;
  [[nodiscard]] nlohmann::ordered_json wins_json() const;

 private:
  [[nodiscard]] std::string most_of_all(std::size_t choice) const;

  std::vector<std::string> axes_, choices_;
  Passes passes_;
  std::vector<Row> rows_;
};

}  // namespace seqccl::command
