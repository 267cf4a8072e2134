// explain_base.cpp - the tables and JSON of every `seqccl explain`.
// SPDX-License-Identifier: Apache-2.0
#include "command/explain_base.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <ostream>
#include <utility>

#include "command/choices.hpp"
#include "command/command.hpp"
#include "command/number_option.hpp"
#include "seqccl/cost.hpp"
#include "seqccl/explain.hpp"

namespace seqccl::command {
namespace {

using Json = nlohmann::ordered_json;

Json numbers_of(const Planned& planned) {
  Json ranks = Json::array();
  double flops = 0;
  std::uint64_t bytes = 0;
  for (std::size_t rank = 0; rank < planned.schedules.size(); ++rank) {
    const Cost cost = cost_of(planned.schedules[rank]);
    flops += cost.flops;
    bytes += cost.total_received_bytes;
    Json row = {{"rank", rank},
                {"sent_bytes", cost.total_sent_bytes},
                {"received_bytes", cost.total_received_bytes},
                {"received_bytes_from", cost.received_bytes},
                {"received_messages", cost.total_received_messages},
                {"exchanges", cost.num_exchanges},
                {"flops", cost.flops},
                {"workspace_bytes", cost.workspace_bytes}};
    if (planned.report.ok()) {
      row["compute_s"] = planned.simulation.compute_s[rank];
      row["exposed_s"] = planned.simulation.exposed_s[rank];
    }
    ranks.push_back(std::move(row));
  }
  Json numbers = {{"method", planned.method},      {"name", planned.schedules.front().name},
                  {"proven", planned.report.ok()}, {"problems", planned.report.problems},
                  {"received_bytes", bytes},       {"flops", flops}};
  if (planned.mesh)
    numbers["mesh"] = {{"heads", planned.mesh->heads},
                       {"outer", planned.mesh->outer},
                       {"inner", planned.mesh->inner},
                       {"heads_outermost", planned.mesh->heads_outermost}};
  if (planned.report.ok()) numbers["simulated_s"] = planned.simulation.seconds;
  if (planned.both_s > 0) numbers["both_passes_s"] = planned.both_s;
  numbers["ranks"] = std::move(ranks);
  return numbers;
}

}  // namespace

void Explain::add_common(CLI::App& app, bool has_backward) {
  plan_.add_to(app, has_backward);
  add_count(app, "--rank", steps_of_, "Show the steps of this rank too (not with --json)", 0, max_ranks - 1);
}

int Explain::show(const Console& console, const std::vector<Planned>& candidates, const std::vector<Refused>& refused,
                  const Cluster& cluster, const Sweep* sweep) const {
  if (steps_of_ >= plan_.num_ranks)
    throw Error(ErrorKind::argument, fmt::format("--rank: {} is not right, want 0 to {}", steps_of_, plan_.num_ranks - 1));
  if (steps_of_ >= 0 && json())
    throw Error(ErrorKind::argument, fmt::format("--rank: {} would do nothing: steps are shown as text; want no --json", steps_of_));
  if (candidates.empty()) throw Error(ErrorKind::argument, refused.front().why);
  bool all_proven = true;
  const Planned* best = &candidates.front();
  const bool has_meshes =
      std::any_of(candidates.begin(), candidates.end(), [](const Planned& planned) { return planned.mesh.has_value(); });
  std::vector<std::string> head = {"candidate", "proven", "simulated", "received", "workspace"};
  const bool by_both = candidates.front().both_s > 0;
  if (by_both) head.push_back("both passes");
  if (has_meshes) head.push_back("mesh");
  Table table(head);
  Json list = Json::array();
  for (const Planned& planned : candidates) {
    all_proven = all_proven && planned.report.ok();
    if (planned.report.ok() && (!best->report.ok() || planned.deciding_s() < best->deciding_s())) best = &planned;
    const Json numbers = numbers_of(planned);
    std::size_t workspace_bytes = 0;
    for (const Schedule& schedule : planned.schedules) workspace_bytes = std::max(workspace_bytes, schedule.workspace_bytes);
    std::vector<std::string> row = {
        planned.method, planned.report.ok() ? "yes" : "NO", planned.report.ok() ? human_seconds(planned.simulation.seconds) : "-",
        human_bytes(numbers["received_bytes"].get<double>()), human_bytes(static_cast<double>(workspace_bytes))};
    if (by_both) row.push_back(human_seconds(planned.deciding_s()));
    if (has_meshes) row.push_back(planned.mesh ? mesh_text(*planned.mesh) : "none");
    table.add(std::move(row));
    list.push_back(numbers);
  }
  if (json()) {
    Json reasons = Json::array();
    for (const Refused& each : refused) reasons.push_back(fmt::format("{}: {}", each.method, each.why));
    Json all = {{"best", best->method}, {"candidates", list}, {"refused", reasons}};
    if (!note_.empty()) all["note"] = note_;
    if (sweep != nullptr) all["wins"] = sweep->wins_json();
    console.out << all.dump(1) << '\n';
    return all_proven ? exit_right : exit_check_failed;
  }
  if (candidates.size() > 1 || !refused.empty()) {
    console.out << table.text();
    for (const Refused& each : refused) console.out << fmt::format("refused: {}: {}\n", each.method, each.why);
    if (candidates.size() > 1)
      console.out << fmt::format("shown below: {}, which has the least in column '{}'\n", best->method,
                                 by_both ? "both passes" : "simulated");
    console.out << '\n';
  }
  if (!note_.empty()) console.out << note_ << '\n';
  if (sweep != nullptr) console.out << "around this problem: " << sweep->wins_text() << '\n';
  for (const Planned& planned : candidates)
    if (!planned.report.ok()) console.out << planned.method << " is NOT proven:\n" << planned.report.text() << '\n';
  if (best->report.ok()) {
    console.out << mesh_picture(best->mesh) << (best->mesh ? "\n" : "");
    console.out << seqccl::explain(best->schedules, best->simulation, cluster, steps_of_);
    console.out << "proven for these ranks: messages match, no deadlock, no race, every visible pair exactly once\n";
  }
  return all_proven ? exit_right : exit_check_failed;
}

}  // namespace seqccl::command
