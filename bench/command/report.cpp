// report.cpp - measurements and verdicts as JSON and as rows of a table.
// SPDX-License-Identifier: Apache-2.0
#include "command/report.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "command/table.hpp"
#include "seqccl/explain.hpp"

namespace seqccl::command {
namespace {

double gflops_per_s(const Measurement& measurement, double flops) {
  return measurement.median_s() > 0 ? flops / measurement.median_s() / 1e9 : 0;
}

/// The tensors that a direction wrote: gradients begin with d.
CheckOutcome part_of(const CheckOutcome& outcome, bool backward) {
  CheckOutcome part{{}, outcome.coverage};
  for (const TensorCheck& tensor : outcome.tensors)
    if ((tensor.name[0] == 'd') == backward) part.tensors.push_back(tensor);
  return part;
}

double worst_error(const CheckOutcome& outcome) {
  double worst = 0;
  for (const TensorCheck& tensor : outcome.tensors) worst = tensor.max_error <= worst ? worst : tensor.max_error;
  return worst;
}

}  // namespace

Json to_json(const Measurement& measurement, double flops) {
  return {{"seconds", measurement.seconds},
          {"median_s", measurement.median_s()},
          {"min_s", measurement.min_s()},
          {"max_s", measurement.max_s()},
          {"p90_s", measurement.percentile_s(90)},
          {"p99_s", measurement.percentile_s(99)},
          {"moved_bytes", measurement.moved_bytes},
          {"planned_bytes", measurement.planned_bytes},
          {"moved_messages", measurement.moved_messages},
          {"planned_messages", measurement.planned_messages},
          {"flops", flops},
          {"gflops_per_s", gflops_per_s(measurement, flops)},
          {"workspace_bytes", measurement.workspace_bytes},
          {"planning_s", measurement.planning_s},
          {"path", measurement.path}};
}

Json to_json(const CheckOutcome& outcome) {
  Json tensors = Json::array();
  for (const TensorCheck& t : outcome.tensors)
    tensors.push_back({{"name", t.name},
                       {"passed", t.passed()},
                       {"max_error", t.max_error},
                       {"max_bar", t.max_bar},
                       {"rms_error", t.rms_error},
                       {"rms_bar", t.rms_bar},
                       {"relative_rms", t.relative_rms},
                       {"relative_cap", t.relative_cap},
                       {"plain_max_error", t.plain_max},
                       {"reference_max", t.reference_max},
                       {"num_wrong", t.num_wrong},
                       {"num_checked", t.num_checked}});
  return {{"passed", outcome.passed()},
          {"coverage", outcome.coverage},
          {"num_nan", outcome.num_nan()},
          {"num_wrong", outcome.num_wrong()},
          {"tensors", tensors}};
}

Json to_json(const Error& error, const std::string& during) {
  return {{"during", during}, {"kind", name(error.kind())}, {"what", error.what()}, {"culprits", error.culprits()}};
}

void RunReport::add(const std::string& method, const std::vector<Direction>& directions, const CheckOutcome* outcome) {
  Json result = {{"method", method}, {"ranks", num_ranks_}};
  for (const Direction& direction : directions) {
    const Measurement& m = *direction.measurement;
    result[direction.name] = to_json(m, direction.flops);
    std::vector<std::string> row = {method,
                                    direction.name,
                                    std::to_string(num_ranks_),
                                    human_seconds(m.median_s()),
                                    human_bytes(static_cast<double>(m.moved_bytes)),
                                    human_bytes(static_cast<double>(m.planned_bytes)),
                                    short_number(gflops_per_s(m, direction.flops))};
    if (m.moved_bytes != m.planned_bytes) {
      failures_.push_back(
          fmt::format("{} {}: {} bytes were moved, but the plan says {}", method, direction.name, m.moved_bytes, m.planned_bytes));
      passed_ = passed_ && !checks_;
    }
    if (outcome != nullptr) {
      const CheckOutcome part = part_of(*outcome, std::string_view(direction.name) == "backward");
      if (part.tensors.empty())
        row.insert(row.end(), {"-", "-", "-", "-"});
      else
        row.insert(row.end(), {fmt::format("{:.1e}", worst_error(part)), short_number(part.worst()), std::to_string(part.num_wrong()),
                               part.passed() ? "pass" : "FAIL"});
    }
    rows_.push_back(std::move(row));
  }
  if (outcome != nullptr) {
    result["check"] = to_json(*outcome);
    if (coverage_.empty() || outcome->num_nan() != 0) coverage_ = outcome->coverage_text();
    passed_ = passed_ && outcome->passed();
    for (const TensorCheck& t : outcome->tensors)
      if (!t.passed())
        failures_.push_back(fmt::format(
            "{} {}: {} of {} elements beyond the bar; max error {:.2e} (bar {:.2e}), RMS {:.2e} (bar {:.2e}), relative RMS {:.2e} (cap "
            "{:.1e})",
            method, t.name, t.num_wrong, t.num_checked, t.max_error, t.max_bar, t.rms_error, t.rms_bar, t.relative_rms, t.relative_cap));
  }
  results_.push_back(std::move(result));
}

std::string RunReport::text() const {
  std::string text;
  for (const auto& [key, value] : problem_.items())
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", key, value.is_string() ? value.get<std::string>() : value.dump());
  text += "\n\n";
  std::vector<std::string> head = {"method", "pass", "ranks", "time", "moved", "planned", "GFLOP/s"};
  if (checks_) head.insert(head.end(), {"max error", "error/bar", "#wrong", "check"});
  Table table(head);
  for (const auto& row : rows_) table.add(row);
  text += table.text();
  for (const auto& [method, why] : refused_) text += fmt::format("not run: {}: {}\n", method, why);
  if (failure_) text += fmt::format("not finished: {}\n", begun_);
  for (const std::string& failure : failures_) text += "WRONG: " + failure + '\n';
  for (const std::string& note : notes_) text += note + '\n';
  if (checks_ && !coverage_.empty()) text += fmt::format("checked against the double reference: {}\n", coverage_);
  return text;
}

Json RunReport::json() const {
  Json refused = Json::array();
  for (const auto& [method, why] : refused_) refused.push_back({{"method", method}, {"why", why}});
  Json all = {{"problem", problem_}, {"results", results_}, {"refused", refused}, {"failures", failures_}, {"notes", notes_}};
  if (failure_) all["error"] = to_json(*failure_, begun_);
  if (checks_) all["passed"] = passed_ && !failure_;
  return all;
}

void RunReport::note_unused(const std::vector<std::string>& names) {
  if (!names.empty()) note(fmt::format("not used of the input: {}", fmt::join(names, ", ")));
}

}  // namespace seqccl::command
