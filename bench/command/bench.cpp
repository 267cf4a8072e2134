// bench.cpp - `seqccl bench`: sizes x ranks x methods: time, bytes, GB/s, GFLOP/s and wrong elements.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "command/bench_base.hpp"
#include "command/choices.hpp"
#include "command/cluster_file.hpp"
#include "command/linear_options.hpp"
#include "command/number_option.hpp"
#include "command/shape_options.hpp"
#include "seqccl/collectives.hpp"
#include "seqccl/simulate.hpp"

namespace seqccl::command {
namespace {

class BenchAttention final : public Bench {
 public:
  explicit BenchAttention(CLI::App& parent) {
    CLI::App& app =
        add_to(parent, "attention", "Softmax attention methods on random tensors",
               "  seqccl bench attention --ranks 2,4,8 --tokens 4k,16k --method all --repeat 5\n"
               "  seqccl bench attention --ranks 4 --tokens 16k --method ring --backward --dtype bf16 --json\n"
               "  seqccl bench attention --ranks 8 --tokens 16k --method usp --ranks-per-node 4\n"
               "  seqccl bench attention --ranks 2 --tokens 16k --transport shm --overlap --repeat 10\n\n"
               "--overlap runs in turns, on the same ranks, threads and memory: the whole (Overall), its kernels without messages\n"
               "(Compute: they read what the whole left behind), and its messages without kernels (Pure comm.). Medians of --repeat.\n"
               "Overlap % is OSU's max(0, 100 - (Overall - Compute) / Pure comm. 100), above 100 by noise; Slowdown is the sum of\n"
               "all ranks' compute steps, without waits, in the whole divided by the same alone, by their traces.\n"
               "Where Pure comm. is less than the runs of Overall differ by, Overlap % says nothing: want longer messages.");
    add_common(app);
    shape_.add_to(app);
    choices_.add_to(app, "all|");
    add_count(app, "--ranks-per-node", ranks_per_node_, "M ranks share a node (double_ring, mesh, automatic; default: one node)", 1,
              max_ranks);
    app.add_flag("--overlap", settings_.lanes, "Time kernels and messages alone too: how much of the communication is hidden, see below");
    app.add_option("--cluster", cluster_path_,
                   "FILE.json of seqccl calibrate, measured at as many ranks: the simulator's time beside the measured one");
  }

  void measure_all(const Console& console) override {
    const std::vector<std::string> names = choices_.names();
    note_ = choices_.note(shape_.kv_heads);
    problem_ = shape_.json();
    choices_.require_used(parse_dtype(shape_.dtype), backward_, "--backward");
    if (ranks_per_node_ != 0) choices_.require_nodes_used("--ranks-per-node", std::to_string(ranks_per_node_));
    std::optional<ClusterFile> cluster;
    if (!cluster_path_.empty()) {
      cluster = described_cluster();
      table_.add_columns({"predicted", "error"});
    }
    if (settings_.lanes) table_.add_columns({"Overall", "Compute", "Pure comm.", "Overlap %", "Slowdown"});
    const std::vector<Case> all = cases();
    for (const Case& one : all) {  // before the first is measured: its rows would be lost
      (void)shape_.spec(one.num_tokens, one.num_ranks);
      (void)topology(one.num_ranks);
    }
    for (const Case& one : all) {
      const AttentionSpec spec = shape_.spec(one.num_tokens, one.num_ranks);
      settings_.num_ranks = one.num_ranks;
      settings_.topology = topology(one.num_ranks);
      const AttentionTensors tensors = random_attention(spec, backward_, 1);
      std::optional<AttentionReference> reference;
      if (checks_) reference.emplace(tensors, spec, false, CheckLevel::sampled);
      for (const std::string& choice : names) {
        const AttentionSpec chosen = choices_.chosen(spec, choice, settings_.topology);
        if (const std::string why = refusal(chosen); !why.empty()) {
          add_refusal(choice, one, why);
          continue;
        }
        begin_row(console, choice, one);
        const AttentionResult result = run_attention(tensors, chosen, settings_, backward_);
        const std::string label = choice == "automatic" ? published_name(chosen, result.chosen, settings_.topology) : choice;
        const std::optional<CheckOutcome> outcome = reference ? std::optional(reference->judge(result)) : std::nullopt;
        const auto add = [&](const Direction& direction, const CheckOutcome* judged, bool is_backward) {
          if (cluster) predicted_s_ = predicted(result.chosen, *cluster, is_backward);
          add_row(label, one, direction, judged);
        };
        add({"forward", &result.forward, attention_flops(spec, false), settings_.lanes ? &result.forward_lanes : nullptr},
            outcome ? &*outcome : nullptr, false);
        if (backward_)
          add({"backward", &result.backward, attention_flops(spec, true), settings_.lanes ? &result.backward_lanes : nullptr}, nullptr,
              true);
      }
    }
  }

 protected:
  [[nodiscard]] std::string footer(const Json& rows) const override {
    std::vector<double> errors;
    for (const Json& row : rows)
      if (row.contains("prediction_error")) errors.push_back(std::abs(row["prediction_error"].get<double>()));
    std::string text;
    if (settings_.lanes && !rows.empty())
      text =
          "Overall, Compute (kernels alone) and Pure comm. (messages alone) in turns; Overlap % = max(0, 100 - (Overall - Compute) / "
          "Pure comm. 100); Slowdown: compute steps in the whole / alone\n";
    if (errors.empty()) return text;
    std::sort(errors.begin(), errors.end());
    return text + fmt::format("predicted by {}: median of the errors {:.0f}%, largest {:.0f}%\n", cluster_path_,
                              100 * errors[errors.size() / 2], 100 * errors.back());
  }

 private:
  [[nodiscard]] ClusterFile described_cluster() const {
    if (!is_cluster_file(cluster_path_))
      throw Error(ErrorKind::argument,
                  fmt::format("--cluster: '{}' is not right, want a FILE.json that seqccl calibrate has written", cluster_path_));
    ClusterFile file = read_cluster(cluster_path_);
    if (ranks_per_node_ != 0 && !file.has_between)
      throw Error(
          ErrorKind::argument,
          fmt::format("--ranks-per-node: '{}' has no links between nodes; want a file of seqccl calibrate --between PATH", cluster_path_));
    return file;
  }
  [[nodiscard]] double predicted(const AttentionSpec& chosen, const ClusterFile& file, bool is_backward) const {
    const MethodEntry& entry = entry_of(chosen.method);
    Cluster cluster = file.cluster;
    cluster.topology = settings_.topology;
    return simulate(record_all(is_backward ? entry.backward : entry.forward, chosen), cluster).seconds;
  }
  [[nodiscard]] Topology topology(int num_ranks) const {
    if (ranks_per_node_ == 0 || num_ranks == ranks_per_node_) return {};
    if (num_ranks % ranks_per_node_ != 0)
      throw Error(ErrorKind::argument,
                  fmt::format("--ranks-per-node: {} is not right, want a divisor of {} ranks", ranks_per_node_, num_ranks));
    return Topology::nodes(num_ranks / ranks_per_node_, ranks_per_node_);
  }

  AttentionShape shape_;
  ChoiceOptions choices_{"all"};
  int ranks_per_node_ = 0;
  std::string cluster_path_;
};

class BenchLinear final : public Bench {
 public:
  explicit BenchLinear(CLI::App& parent) {
    CLI::App& app = add_to(parent, "linear", "Linear attention scans on random tensors",
                           "  seqccl bench linear --ranks 2,4 --tokens 4k,16k --kind vector_gate --scan all\n"
                           "  seqccl bench linear --ranks 4 --tokens 8k --kind gated_delta --scan zeco --column-blocks 8 --backward\n"
                           "  seqccl bench linear --ranks 8 --tokens 64k --scan lasp2 --backward --json");
    add_common(app);
    shape_.add_to(app);
    linear_.add_to(app, "all|", "a natural number");
  }

  void measure_all(const Console& console) override {
    const std::vector<Scan> scans = linear_.scans();
    problem_ = shape_.json();
    problem_.update({{"documents", linear_.documents},
                     {"not_causal", linear_.not_causal},
                     {"column_blocks", linear_.column_blocks},
                     {"ranks_per_node", linear_.ranks_per_node}});
    const std::vector<Case> all = cases();
    for (const Case& one : all)  // before the first is measured: its rows would be lost
      (void)linear_.chosen(shape_.spec(one.num_tokens, one.num_ranks), scans.front(), {});
    for (const Case& one : all) {
      const LinearSpec given = shape_.spec(one.num_tokens, one.num_ranks);
      settings_.num_ranks = one.num_ranks;
      const LinearTensors tensors = random_linear(given, backward_, 1);
      std::optional<LinearReference> reference;
      for (const Scan scan : scans) {
        const LinearSpec spec = linear_.chosen(given, scan, {});
        if (const std::string why = refusal(spec); !why.empty()) {
          add_refusal(linear_.label(scan), one, why);
          continue;
        }
        begin_row(console, linear_.label(scan), one);
        if (checks_ && !reference) reference.emplace(tensors, spec, false, CheckLevel::sampled);
        const LinearResult result = run_linear(tensors, spec, settings_, backward_);
        const std::optional<CheckOutcome> outcome = reference ? std::optional(reference->judge(result)) : std::nullopt;
        add_row(linear_.label(scan), one, {"forward", &result.forward, result.forward.flops}, outcome ? &*outcome : nullptr);
        if (backward_) add_row(linear_.label(scan), one, {"backward", &result.backward, result.backward.flops}, nullptr);
      }
    }
  }

 private:
  LinearShape shape_;
  LinearOptions linear_{"all"};
};

}  // namespace

std::unique_ptr<Subcommand> make_bench_attention(CLI::App& parent) { return std::make_unique<BenchAttention>(parent); }
std::unique_ptr<Subcommand> make_bench_linear(CLI::App& parent) { return std::make_unique<BenchLinear>(parent); }

}  // namespace seqccl::command
