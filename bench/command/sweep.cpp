// sweep.cpp - records each method once per problem, simulates it on every machine, and says where it wins.
// SPDX-License-Identifier: Apache-2.0
#include "command/sweep.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <utility>

#include "seqccl/collectives.hpp"

namespace seqccl::command {
namespace {

constexpr double none = std::numeric_limits<double>::quiet_NaN();

/// What decides the schedule: two names that come to the same are one choice.
bool same_choice(const AttentionSpec& a, const AttentionSpec& b, Passes passes) {
  const auto mesh = [](const AttentionSpec& spec) { return spec.mesh && !spec.mesh->is_flat() ? *spec.mesh : Mesh{}; };
  return a.method == b.method && mesh(a) == mesh(b) && (passes == Passes::forward || a.backward == b.backward);
}

std::vector<std::vector<Schedule>> record(const AttentionSpec& spec, Passes passes) {
  const MethodEntry& entry = entry_of(spec.method);
  std::vector<std::vector<Schedule>> plans;
  if (passes != Passes::backward) plans.push_back(record_all(entry.forward, spec));
  if (passes != Passes::forward) plans.push_back(record_all(entry.backward, spec));
  return plans;
}

void rank_choices(Sweep::Row& row) {
  row.best_s = std::numeric_limits<double>::infinity();
  for (const double each : row.seconds)
    if (each < row.best_s) row.best_s = each;
  row.num_even = -1;  // the winner itself
  for (std::size_t i = row.seconds.size(); i-- > 0;) {
    const double each = row.seconds[i];
    if (each <= even * row.best_s) {
      row.winner = i;
      ++row.num_even;
    } else if (!std::isnan(each) && (!row.runner_up || each <= row.seconds[*row.runner_up])) {
      row.runner_up = i;
    }
  }
}

}  // namespace

void Sweep::add(const AttentionSpec& spec, const ChoiceOptions& options, std::span<const Machine> machines) {
  if (machines.empty()) return;
  std::vector<Row> rows;
  for (const Machine& machine : machines) rows.push_back(Row{.values = machine.values});
  std::vector<AttentionSpec> earlier;
  for (const std::string& choice : choices_) {
    const AttentionSpec chosen = options.chosen(spec, choice, machines.front().cluster.topology);
    const bool is_there = refusal(chosen).empty() && std::none_of(earlier.begin(), earlier.end(), [&](const AttentionSpec& other) {
                            return same_choice(chosen, other, passes_);
                          });
    const std::vector<std::vector<Schedule>> plans = is_there ? record(chosen, passes_) : std::vector<std::vector<Schedule>>{};
    for (std::size_t i = 0; i < machines.size(); ++i) {
      double seconds = is_there ? 0 : none;
      for (const std::vector<Schedule>& plan : plans) seconds += simulate(plan, machines[i].cluster).seconds;
      rows[i].seconds.push_back(seconds);
    }
    if (is_there) earlier.push_back(chosen);
  }
  if (earlier.empty()) return;
  for (Row& row : rows) {
    rank_choices(row);
    rows_.push_back(std::move(row));
  }
}

std::string Sweep::most_of_all(std::size_t choice) const {
  using Term = std::pair<std::size_t, std::string>;  // axis, value
  std::vector<Term> terms = {{axes_.size(), ""}};    // the first: no condition
  for (std::size_t axis = 0; axis < axes_.size(); ++axis) {
    std::set<std::string> values;
    for (const Row& row : rows_) values.insert(row.values[axis]);
    if (values.size() > 1)
      for (const std::string& value : values) terms.emplace_back(axis, value);
  }
  const auto holds = [&](const Row& row, const Term& term) { return term.first == axes_.size() || row.values[term.first] == term.second; };
  // Of all pairs of values, those that catch most of the wins and little else.
  double best = 0;
  std::string text;
  for (std::size_t i = 0; i < terms.size(); ++i)
    for (std::size_t j = i + 1; j < terms.size(); ++j) {
      double num_wins = 0, num_settings = 0;
      for (const Row& row : rows_) {
        if (!row.runner_up || !holds(row, terms[i]) || !holds(row, terms[j])) continue;
        ++num_settings;
        num_wins += row.winner == choice ? 1 : 0;
      }
      const double score = num_settings > 0 ? num_wins * num_wins / num_settings : 0;
      if (score <= best) continue;
      best = score;
      text = i == 0 ? "" : fmt::format("{} {}, ", axes_[terms[i].first], terms[i].second);
      text += fmt::format("{} {} ({:.0f} of {:.0f})", axes_[terms[j].first], terms[j].second, num_wins, num_settings);
    }
  return text.empty() ? "" : ", most of all at " + text;
}

std::vector<Sweep::Wins> Sweep::wins() const {
  std::vector<Wins> all(choices_.size());
  for (std::size_t choice = 0; choice < choices_.size(); ++choice) {
    Wins& wins = all[choice];
    const Row* closest = nullptr;
    const auto times = [&](const Row& row) { return row.seconds[choice] / row.best_s; };
    for (const Row& row : rows_) {
      if (!row.runner_up || std::isnan(row.seconds[choice])) continue;
      ++wins.num_settings;
      wins.num_wins += row.winner == choice;
      wins.num_even += times(row) <= even;
      if (closest == nullptr || times(row) < times(*closest)) closest = &row;
    }
    if (wins.num_wins > 0) {
      wins.text = fmt::format("fastest in {} of {}{}", wins.num_wins, wins.num_settings, most_of_all(choice));
    } else if (wins.num_even > 0) {
      wins.text = fmt::format("as good as the fastest in {} of {}", wins.num_even, wins.num_settings);
    } else if (closest != nullptr) {
      wins.text = fmt::format("never the fastest; {:.2f} times its time at", times(*closest));
      for (std::size_t axis = 0; axis < axes_.size(); ++axis)
        wins.text += fmt::format("{} {} {}", axis > 0 ? "," : "", axes_[axis], closest->values[axis]);
    } else {
      wins.text = "refused, or the same as an earlier name, wherever the method matters";
    }
  }
  return all;
}

std::string Sweep::wins_text() const {
  std::size_t num_matter = 0, width = 0;
  for (const Row& row : rows_) num_matter += row.runner_up.has_value();
  for (const std::string& choice : choices_) width = std::max(width, choice.size());
  std::string text =
      fmt::format("{} settings simulated; in {} of them the method matters (they are not all within 1%):\n", rows_.size(), num_matter);
  const std::vector<Wins> all = wins();
  for (std::size_t choice = 0; choice < choices_.size(); ++choice)
    text += fmt::format("  {:<{}}  {}\n", choices_[choice], width, all[choice].text);
  return text;
}

nlohmann::ordered_json Sweep::wins_json() const {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  const std::vector<Wins> all = wins();
  for (std::size_t choice = 0; choice < all.size(); ++choice)
    list.push_back({{"method", choices_[choice]},
                    {"fastest_in", all[choice].num_wins},
                    {"as_good_in", all[choice].num_even},
                    {"of", all[choice].num_settings},
                    {"text", all[choice].text}});
  return list;
}

}  // namespace seqccl::command
