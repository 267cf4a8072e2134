// bench_base.cpp - options, cases and rows that every `seqccl bench` shares.
// SPDX-License-Identifier: Apache-2.0
#include "command/bench_base.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <ostream>

#include "command/bench_rows.hpp"
#include "command/command.hpp"
#include "command/number_option.hpp"
#include "command/options.hpp"
#include "seqccl/explain.hpp"

namespace seqccl::command {

void Bench::add_common(CLI::App& app, bool has_backward) {
  add_ranks(app);
  app.add_option("-n,--tokens", tokens_, "Numbers of tokens, with commas")->capture_default_str();
  add_count(app, "--threads", settings_.num_threads, "Kernel threads per rank (default: cores / ranks)", 1, 4096);
  if (has_backward) app.add_flag("--backward", backward_, "Time the backward pass too");
  app.add_flag("!--no-check", checks_, "Leave out the sampled check (#wrong)");
}

void Bench::add_ranks(CLI::App& app, const std::string& repeat_names) {
  app.add_option("-p,--ranks", ranks_, "Numbers of ranks, with commas")->capture_default_str();
  app.add_option("-x,--transport", transport_, transports_help)->capture_default_str();
  app.add_option("--wait", wait_, wait_help)->capture_default_str();
  app.add_flag("-l,--list", lists_, "Which paths there are here, and why not the others; nothing is measured");
  app.add_flag("--csv", csv_, "One line per row, with the fields of --json that are not lists");
  add_count(app, repeat_names, settings_.repeat, "Timed runs", 1, 1000000);
  add_count(app, "-w,--warmup", settings_.warmup, "Runs before the timed ones", 0, 1000000);
}

int Bench::run(const Console& console) {
  if (json() && csv_) throw Error(ErrorKind::argument, "--csv: is given with --json, want one of them");
  refuse_launcher();
  if (lists_) return list(console);
  choices_ = parse_transports(transport_);
  settings_.wait = parse_wait(wait_);
  require_there(choices_);
  const Table empty = table_;
  for (const TransportChoice& choice : choices_) {
    table_ = empty;
    begin_path(choice);
    try {
      measure_all(console);
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::argument) throw;
      failure_.emplace(error);
    }
    end_path();
    if (failure_) break;
  }
  return show(console);
}

void Bench::begin_path(const TransportChoice& choice) {
  settings_.transport = choice.transport;
  settings_.ucx_lanes = choice.ucx_lanes;
  path_ = choice.text();
  path_row_ = results_.size();
  waits_.clear();
}

void Bench::end_path() {
  Json rows = Json::array();
  for (std::size_t i = path_row_; i < results_.size(); ++i) rows.push_back(results_[i]);
  sections_.push_back(header() + (table_.has_rows() ? table_.text() : "") + footer(rows));
}

int Bench::list(const Console& console) const {
  Table table({"path", "there", "why"});
  Json paths = Json::array();
  for (const TransportChoice& choice : known_paths()) {
    console.progress(choice.text() + " ...");
    const PathState state = path_state(choice);
    table.add({state.path, state.is_there ? "yes" : "no", state.text});
    paths.push_back({{"path", state.path}, {"is_there", state.is_there}, {"why", state.text}});
  }
  console.progress("");
  console.out << (json() ? paths.dump(1) + '\n' : csv_ ? csv_text(paths) : table.text());
  return exit_right;
}

std::vector<int> Bench::rank_counts() const {
  std::vector<int> counts;
  for (const std::int64_t num_ranks : parse_counts("--ranks", ranks_)) {
    require_ranks(num_ranks);
    counts.push_back(static_cast<int>(num_ranks));
  }
  return counts;
}

std::vector<Bench::Case> Bench::cases() const {
  std::vector<Case> all;
  for (const std::int64_t num_tokens : parse_counts("--tokens", tokens_))
    for (const int num_ranks : rank_counts()) all.push_back({num_ranks, num_tokens});
  return all;
}

void Bench::begin_row(const Console& console, const std::string& row) {
  begun_ = row;
  console.progress(row + " ...");
}
void Bench::begin_row(const Console& console, const std::string& method, const Case& one) {
  begin_row(console, fmt::format("{}: {} ranks, {} tokens", method, one.num_ranks, one.num_tokens));
}

void Bench::end_row(Json row) {
  row["transport"] = path_;
  row["wait"] = settings_.wait_text();
  results_.push_back(std::move(row));
  waits_[settings_.num_ranks] = settings_.wait_text();
}

void Bench::add_row(const std::string& method, const Case& one, const Direction& direction, const CheckOutcome* outcome) {
  const Measurement& m = *direction.measurement;
  const double seconds = m.median_s() > 0 ? m.median_s() : 1e-9;
  const std::string wrong = outcome != nullptr ? std::to_string(outcome->num_wrong()) : "-";
  std::vector<std::string> cells = {method,
                                    direction.name,
                                    std::to_string(one.num_ranks),
                                    std::to_string(one.num_tokens),
                                    human_seconds(m.median_s()),
                                    human_seconds(m.min_s()),
                                    human_seconds(m.max_s()),
                                    human_bytes(static_cast<double>(m.moved_bytes)),
                                    short_number(static_cast<double>(m.moved_bytes) / seconds / 1e9),
                                    short_number(direction.flops / seconds / 1e9),
                                    wrong,
                                    m.path.empty() ? "-" : m.path};
  if (predicted_s_) {
    cells.push_back(human_seconds(*predicted_s_));
    cells.push_back(fmt::format("{:+.0f}%", 100 * (*predicted_s_ / seconds - 1)));
  }
  if (direction.lanes != nullptr) {
    const std::vector<std::string> of_lanes = lane_cells(*direction.lanes);
    cells.insert(cells.end(), of_lanes.begin(), of_lanes.end());
  }
  table_.add(std::move(cells));
  Json row = {{"method", method}, {"pass", direction.name}, {"ranks", one.num_ranks}, {"tokens", one.num_tokens}};
  row.update(problem_);
  row.update(to_json(m, direction.flops));
  if (predicted_s_) {
    row["predicted_s"] = *predicted_s_;
    row["prediction_error"] = *predicted_s_ / seconds - 1;
  }
  if (direction.lanes != nullptr) row.update(lanes_json(*direction.lanes));
  row["gb_per_s"] = static_cast<double>(m.moved_bytes) / seconds / 1e9;
  if (outcome != nullptr) {
    row["check"] = to_json(*outcome);
    all_right_ = all_right_ && outcome->passed();
  }
  end_row(std::move(row));
}

std::vector<std::string> Bench::lane_cells(const LaneTimes& lanes) {
  const bool sends = lanes.communication.median_s() > 0;
  return {human_seconds(lanes.overall.median_s()), human_seconds(lanes.compute.median_s()),
          sends ? human_seconds(lanes.communication.median_s()) : "-", sends ? fmt::format("{:.1f}", lanes.overlap()) : "-",
          fmt::format("{:.2f}x", lanes.compute_slowdown())};
}

Json Bench::lanes_json(const LaneTimes& lanes) {
  Json fields = {{"overall_s", lanes.overall.median_s()},
                 {"compute_s", lanes.compute.median_s()},
                 {"pure_comm_s", lanes.communication.median_s()},
                 {"compute_slowdown", lanes.compute_slowdown()}};
  if (lanes.communication.median_s() > 0) fields["overlap_percent"] = lanes.overlap();
  return fields;
}

void Bench::add_refusal(const std::string& method, const Case& one, const std::string& why) {
  const Json refused = {{"method", method}, {"ranks", one.num_ranks}, {"tokens", one.num_tokens}, {"why", why}};
  if (std::find(refused_.begin(), refused_.end(), refused) == refused_.end()) refused_.push_back(refused);  // once for all paths
}

std::string Bench::header() const {
  std::string text = fmt::format("transport {}", path_);
  const std::string* last = nullptr;
  for (const auto& [num_ranks, wait] : waits_) {
    text += last != nullptr && *last == wait ? fmt::format(", {}", num_ranks) : fmt::format("; {} at ranks {}", wait, num_ranks);
    last = &wait;
  }
  return text + "\n\n" + heading();
}

int Bench::show(const Console& console) const {
  console.progress("");
  if (json()) {
    Json all = {{"transport", transport_}, {"results", results_}, {"refused", refused_}};
    if (!note_.empty()) all["note"] = note_;
    if (failure_) all["error"] = to_json(*failure_, begun_);
    console.out << all.dump(1) << '\n';
  } else if (csv_) {
    console.out << csv_text(results_);
  } else {
    show_text(console);
  }
  if (failure_) throw Error(*failure_);
  if (results_.empty() && !refused_.empty()) throw Error(ErrorKind::argument, "nothing ran: " + refused_.front()["why"].get<std::string>());
  return all_right_ ? exit_right : exit_check_failed;
}

void Bench::show_text(const Console& console) const {
  for (std::size_t i = 0; i < sections_.size(); ++i) console.out << (i > 0 ? "\n" : "") << sections_[i];
  if (choices_.size() > 1) console.out << '\n' << paths_text(results_);
  for (const Json& one : refused_)
    console.out << fmt::format("not run: {} on {} ranks, {} tokens: {}\n", one["method"].get<std::string>(), one["ranks"].get<int>(),
                               one["tokens"].get<std::int64_t>(), one["why"].get<std::string>());
  if (failure_) console.out << fmt::format("not finished: {}\n", begun_);
  if (!note_.empty()) console.out << note_ << '\n';
}

}  // namespace seqccl::command
