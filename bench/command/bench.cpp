// bench.cpp - `seqccl bench`: sizes x ranks x methods: time, bytes, GB/s, GFLOP/s and wrong elements.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <ostream>

#include "command/choices.hpp"
#include "command/command.hpp"
#include "command/options.hpp"
#include "command/report.hpp"
#include "command/shape_options.hpp"
#include "command/subcommand.hpp"
#include "seqccl/explain.hpp"

namespace seqccl::command {
namespace {

/// Options and rows that both kinds of bench share.
class Bench : public Subcommand {
 protected:
  void add_common(CLI::App& app) {
    app.add_option("-p,--ranks", ranks_, "Numbers of ranks, with commas")->capture_default_str();
    app.add_option("-n,--tokens", tokens_, "Numbers of tokens, with commas; k, m mean 2^10, 2^20")->capture_default_str();
    app.add_option("-x,--transport", transport_, "threads")->capture_default_str();
    app.add_option("--repeat", settings_.repeat, "Timed runs")->capture_default_str()->check(CLI::Range(1, 1000000));
    app.add_option("--warmup", settings_.warmup, "Runs before the timed ones")->capture_default_str()->check(CLI::Range(0, 1000000));
    app.add_option("--threads", settings_.num_threads, "Kernel threads per rank (default: cores / ranks)")->check(CLI::Range(1, 4096));
    app.add_flag("--backward", backward_, "Time the backward pass too");
    app.add_flag("!--no-check", checks_, "Leave out the sampled check (#wrong)");
  }

  struct Case {
    int num_ranks;
    std::int64_t num_tokens;
  };
  [[nodiscard]] std::vector<Case> cases() const {
    require_transport(transport_);
    std::vector<Case> all;
    for (const std::int64_t num_tokens : parse_counts("--tokens", tokens_))
      for (const std::int64_t num_ranks : parse_counts("--ranks", ranks_)) {
        require_ranks(num_ranks);
        all.push_back({static_cast<int>(num_ranks), num_tokens});
      }
    return all;
  }

  void add_row(const std::string& method, const Case& one, const Direction& direction, const CheckOutcome* outcome) {
    const Measurement& m = *direction.measurement;
    const double seconds = m.median_s() > 0 ? m.median_s() : 1e-9;
    const std::string wrong = outcome != nullptr ? std::to_string(outcome->num_wrong()) : "-";
    table_.add({method, direction.name, std::to_string(one.num_ranks), std::to_string(one.num_tokens), human_seconds(m.median_s()),
                human_seconds(m.min_s()), human_seconds(m.max_s()), human_bytes(static_cast<double>(m.moved_bytes)),
                short_number(static_cast<double>(m.moved_bytes) / seconds / 1e9), short_number(direction.flops / seconds / 1e9), wrong});
    Json row = {{"method", method}, {"pass", direction.name}, {"ranks", one.num_ranks}, {"tokens", one.num_tokens}};
    row.update(to_json(m, direction.flops));
    row["gb_per_s"] = static_cast<double>(m.moved_bytes) / seconds / 1e9;
    if (outcome != nullptr) {
      row["check"] = to_json(*outcome);
      all_right_ = all_right_ && outcome->passed();
    }
    results_.push_back(std::move(row));
  }
  void add_refusal(const std::string& method, const Case& one, const std::string& why) {
    refused_.push_back({{"method", method}, {"ranks", one.num_ranks}, {"tokens", one.num_tokens}, {"why", why}});
  }

  int show(const Console& console) const {
    console.progress("");
    if (json()) {
      console.out << Json{{"results", results_}, {"refused", refused_}}.dump(1) << '\n';
    } else {
      console.out << table_.text();
      for (const Json& one : refused_)
        console.out << fmt::format("not run: {} on {} ranks, {} tokens: {}\n", one["method"].get<std::string>(), one["ranks"].get<int>(),
                                   one["tokens"].get<std::int64_t>(), one["why"].get<std::string>());
    }
    return all_right_ ? exit_right : exit_check_failed;
  }

  std::string ranks_ = "2,4", tokens_ = "2k,8k", transport_ = "threads";
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

class BenchAttention final : public Bench {
 public:
  explicit BenchAttention(CLI::App& parent) {
    CLI::App& app = add_to(parent, "attention", "Softmax attention methods on random tensors",
                           "  seqccl bench attention --ranks 2,4,8 --tokens 4k,16k --method all --repeat 5\n"
                           "  seqccl bench attention --ranks 4 --tokens 16k --method ring --backward --dtype bf16 --json\n"
                           "  seqccl bench attention --ranks 8 --tokens 16k --method usp --ranks-per-node 4");
    add_common(app);
    shape_.add_to(app);
    choices_.add_to(app, "all|");
    app.add_option("--ranks-per-node", ranks_per_node_, "M ranks share a node, for methods that look at nodes (default: one node)")
        ->check(CLI::Range(1, 1024));
  }

  int run(const Console& console) override {
    const std::vector<std::string> names = choices_.names();
    for (const Case& one : cases()) {
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
        console.progress(fmt::format("{}: {} ranks, {} tokens ...", choice, one.num_ranks, one.num_tokens));
        const AttentionResult result = run_attention(tensors, chosen, settings_, backward_);
        const std::string label = choice == "automatic" ? name(result.method) : choice;
        const std::optional<CheckOutcome> outcome = reference ? std::optional(reference->judge(result)) : std::nullopt;
        add_row(label, one, {"forward", &result.forward, attention_flops(spec, false)}, outcome ? &*outcome : nullptr);
        if (backward_) add_row(label, one, {"backward", &result.backward, attention_flops(spec, true)}, nullptr);
      }
    }
    return show(console);
  }

 private:
  [[nodiscard]] Topology topology(int num_ranks) const {
    if (ranks_per_node_ == 0 || num_ranks % ranks_per_node_ != 0 || num_ranks == ranks_per_node_) return {};
    return Topology::nodes(num_ranks / ranks_per_node_, ranks_per_node_);
  }

  AttentionShape shape_;
  ChoiceOptions choices_{"all"};
  int ranks_per_node_ = 0;
};

class BenchLinear final : public Bench {
 public:
  explicit BenchLinear(CLI::App& parent) {
    CLI::App& app = add_to(parent, "linear", "Linear attention scans on random tensors",
                           "  seqccl bench linear --ranks 2,4 --tokens 4k,16k --kind vector_gate --scan all\n"
                           "  seqccl bench linear --ranks 8 --tokens 64k --scan lasp2 --backward --json");
    add_common(app);
    shape_.add_to(app);
    app.add_option("--scan", scan_, "all|all_gather|chain")->capture_default_str();
  }

  int run(const Console& console) override {
    const std::vector<Scan> scans = parse_scans(scan_);
    for (const Case& one : cases()) {
      LinearSpec spec = shape_.spec(one.num_tokens, one.num_ranks);
      settings_.num_ranks = one.num_ranks;
      const LinearTensors tensors = random_linear(spec, backward_, 1);
      std::optional<LinearReference> reference;
      if (checks_) reference.emplace(tensors, spec, false, CheckLevel::sampled);
      for (const Scan scan : scans) {
        spec.scan = scan;
        if (const std::string why = refusal(spec); !why.empty()) {
          add_refusal(name(scan), one, why);
          continue;
        }
        console.progress(fmt::format("{}: {} ranks, {} tokens ...", name(scan), one.num_ranks, one.num_tokens));
        const LinearResult result = run_linear(tensors, spec, settings_, backward_);
        const std::optional<CheckOutcome> outcome = reference ? std::optional(reference->judge(result)) : std::nullopt;
        add_row(name(scan), one, {"forward", &result.forward, result.forward.flops}, outcome ? &*outcome : nullptr);
        if (backward_) add_row(name(scan), one, {"backward", &result.backward, result.backward.flops}, nullptr);
      }
    }
    return show(console);
  }

 private:
  LinearShape shape_;
  std::string scan_ = "all";
};

}  // namespace

std::unique_ptr<Subcommand> make_bench_attention(CLI::App& parent) { return std::make_unique<BenchAttention>(parent); }
std::unique_ptr<Subcommand> make_bench_linear(CLI::App& parent) { return std::make_unique<BenchLinear>(parent); }

}  // namespace seqccl::command
