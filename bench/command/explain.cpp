// explain.cpp - `seqccl explain`: costs, proofs and simulated time of a method, without running it.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/explain.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <ostream>
#include <utility>

#include "command/choices.hpp"
#include "command/command.hpp"
#include "command/options.hpp"
#include "command/planned.hpp"
#include "command/subcommand.hpp"
#include "command/sweep.hpp"
#include "seqccl/cost.hpp"

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
  numbers["ranks"] = std::move(ranks);
  return numbers;
}

/// Everything after the schedules are there is the same for softmax and linear.
class Explain : public Subcommand {
 protected:
  void add_common(CLI::App& app) {
    plan_.add_to(app);
    app.add_option("--rank", steps_of_, "Show the steps of this rank too");
  }

  /// The candidates' table if there are several, and the best (or only) one in full.
  int show(const Console& console, const std::vector<Planned>& candidates, const std::vector<std::string>& refused, const Cluster& cluster,
           const Sweep* sweep = nullptr) const {
    if (steps_of_ < -1 || steps_of_ >= plan_.ranks())
      throw Error(ErrorKind::argument, fmt::format("--rank: {} is not right, want 0 to {}", steps_of_, plan_.ranks() - 1));
    if (candidates.empty()) throw Error(ErrorKind::argument, refused.empty() ? "nothing to explain" : refused.front());
    bool all_proven = true;
    const Planned* best = &candidates.front();
    Table table({"candidate", "proven", "simulated", "received", "workspace", "mesh"});
    Json list = Json::array();
    for (const Planned& planned : candidates) {
      all_proven = all_proven && planned.report.ok();
      if (planned.report.ok() && (!best->report.ok() || planned.simulation.seconds < best->simulation.seconds)) best = &planned;
      const Json numbers = numbers_of(planned);
      std::size_t workspace_bytes = 0;
      for (const Schedule& schedule : planned.schedules) workspace_bytes = std::max(workspace_bytes, schedule.workspace_bytes);
      table.add({planned.method, planned.report.ok() ? "yes" : "NO", planned.report.ok() ? human_seconds(planned.simulation.seconds) : "-",
                 human_bytes(numbers["received_bytes"].get<double>()), human_bytes(static_cast<double>(workspace_bytes)),
                 planned.mesh ? mesh_text(*planned.mesh) : "none"});
      list.push_back(numbers);
    }
    if (json()) {
      Json all = {{"best", best->method}, {"candidates", list}, {"refused", refused}};
      if (sweep != nullptr) all["wins"] = sweep->wins_json();
      console.out << all.dump(1) << '\n';
      return all_proven ? exit_right : exit_check_failed;
    }
    if (candidates.size() > 1 || !refused.empty()) {
      console.out << table.text();
      for (const std::string& why : refused) console.out << "refused: " << why << '\n';
      console.out << '\n';
    }
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

  PlanOptions plan_;
  int steps_of_ = -1;
};

class ExplainAttention final : public Explain {
 public:
  explicit ExplainAttention(CLI::App& parent) {
    CLI::App& app =
        add_to(parent, "attention", "A softmax attention method: costs per rank, proofs, simulated and exposed time",
               "  seqccl explain attention --ranks 8 --tokens 64k --method all\n"
               "  seqccl explain attention --ranks 16 --cluster gpus --between 8,25 --tokens 1m --dtype bf16\n"
               "  seqccl explain attention --ranks 8 --method ring --mesh heads:2,outer:2,inner:2 --head-groups 2 --backward\n"
               "  seqccl explain attention --ranks 4 --method ring --rank 0\n\n"
               "--method all also says where each method wins, from simulations at an eighth of and eight times the link rates and tokens\n"
               "(up to 16 ranks); `seqccl explain crossovers` does so over clusters, masks and ranks.");
    add_common(app);
    shape_.add_to(app);
    choices_.add_to(app, "automatic (the fastest in simulation)|all|");
  }

  int run(const Console& console) override {
    const Cluster cluster = plan_.cluster.cluster(plan_.ranks());
    const AttentionSpec spec = shape_.spec(plan_.num_tokens(), plan_.ranks());
    std::vector<std::string> names = choices_.names();
    if (names.front() == "automatic") names = parse_choices("all");
    std::vector<Planned> candidates;
    std::vector<std::string> refused;
    for (const std::string& choice : names) {
      console.progress(choice + " ...");
      try {
        candidates.push_back(plan_attention(choices_.chosen(spec, choice, cluster.topology), choice, plan_.backward, cluster));
      } catch (const Error& error) {
        if (error.kind() != ErrorKind::argument || names.size() == 1) throw;
        refused.emplace_back(error.what());
      }
    }
    if (choices_.method == "all" && plan_.ranks() <= max_sweep_ranks) {
      const Sweep sweep = sweep_around();
      console.progress("");
      return show(console, candidates, refused, cluster, &sweep);
    }
    console.progress("");
    return show(console, candidates, refused, cluster);
  }

 private:
  static constexpr int max_sweep_ranks = 16;  // beyond it the sweep takes seconds: `explain crossovers` is the place

  /// The methods at other rates of links, lengths and numbers of key heads than asked for.
  [[nodiscard]] Sweep sweep_around() const {
    Sweep sweep({"links", "tokens", "Hkv"}, parse_choices("all"), plan_.backward ? Passes::backward : Passes::forward);
    const Cluster cluster = plan_.cluster.cluster(plan_.ranks());
    const std::int64_t num_tokens = plan_.num_tokens();
    for (const std::int64_t tokens : {num_tokens / 8, num_tokens, num_tokens * 8}) {
      std::int64_t last_heads = 0;
      for (const std::int64_t kv_heads : {shape_.q_heads, shape_.kv_heads, std::int64_t{1}}) {
        if (kv_heads == std::exchange(last_heads, kv_heads)) continue;
        std::vector<Sweep::Machine> machines;
        for (const double rate : {0.125, 1.0, 8.0}) {
          Cluster other = cluster;
          other.inside.bytes_per_s *= rate;
          other.between.bytes_per_s *= rate;
          machines.push_back({{rate < 1 ? "/ 8" : rate > 1 ? "x 8" : "as given", count_text(tokens), std::to_string(kv_heads)}, other});
        }
        AttentionShape shape = shape_;
        shape.kv_heads = kv_heads;
        try {
          sweep.add(shape.spec(tokens, plan_.ranks()), choices_, machines);
        } catch (const Error& error) {  // documents and uneven partitions fit one number of tokens only
          if (error.kind() != ErrorKind::argument) throw;
        }
      }
    }
    return sweep;
  }

  AttentionShape shape_;
  ChoiceOptions choices_{"automatic"};
};

class ExplainLinear final : public Explain {
 public:
  explicit ExplainLinear(CLI::App& parent) {
    CLI::App& app = add_to(parent, "linear", "A scan of states: costs per rank, proofs, simulated and exposed time",
                           "  seqccl explain linear --ranks 8 --tokens 64k --scan all --kind vector_gate\n"
                           "  seqccl explain linear --ranks 4 --scan chain --backward --rank 2");
    add_common(app);
    shape_.add_to(app);
    app.add_option("--scan", scan_, "all|all_gather|chain")->capture_default_str();
  }

  int run(const Console& console) override {
    const Cluster cluster = plan_.cluster.cluster(plan_.ranks());
    const LinearSpec spec = shape_.spec(plan_.num_tokens(), plan_.ranks());
    std::vector<Planned> candidates;
    for (const Scan scan : parse_scans(scan_)) candidates.push_back(plan_linear(spec, scan, plan_.backward, cluster));
    return show(console, candidates, {}, cluster);
  }

 private:
  LinearShape shape_;
  std::string scan_ = "all";
};

}  // namespace

std::unique_ptr<Subcommand> make_explain_attention(CLI::App& parent) { return std::make_unique<ExplainAttention>(parent); }
std::unique_ptr<Subcommand> make_explain_linear(CLI::App& parent) { return std::make_unique<ExplainLinear>(parent); }

}  // namespace seqccl::command
