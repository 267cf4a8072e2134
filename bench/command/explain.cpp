// explain.cpp - `seqccl explain`: costs, proofs and simulated time of a method, without running it.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <utility>

#include "command/choices.hpp"
#include "command/explain_base.hpp"
#include "command/linear_options.hpp"
#include "command/options.hpp"

namespace seqccl::command {
namespace {

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
    choices_.add_to(app, "automatic (the fastest in simulation, both passes together)|all|");
  }

  int run(const Console& console) override {
    const Cluster cluster = plan_.cluster.cluster(plan_.num_ranks);
    const AttentionSpec spec = shape_.spec(plan_.num_tokens, plan_.num_ranks);
    choices_.require_used(spec.dtype, plan_.backward, "--backward");
    std::vector<std::string> names = choices_.names();
    const bool automatic = names.front() == "automatic";
    if (automatic) names = parse_choices("all");
    note_ = choices_.note(spec.num_kv_heads());
    std::vector<Planned> candidates;
    std::vector<Refused> refused;
    for (const std::string& choice : names) {
      console.progress(fmt::format("{}: {} ranks, {} of {} methods are done ...", choice, plan_.num_ranks,
                                   candidates.size() + refused.size(), names.size()));
      try {
        const AttentionSpec chosen = choices_.chosen(spec, choice, cluster.topology);
        candidates.push_back(plan_attention(chosen, choice, plan_.backward, cluster));
        if (automatic) {  // decides by both passes, as Method::automatic does
          const MethodEntry& entry = entry_of(chosen.method);
          candidates.back().both_s = candidates.back().simulation.seconds +
                                     simulate(record_all(plan_.backward ? entry.forward : entry.backward, chosen), cluster).seconds;
        }
      } catch (const Error& error) {
        if (error.kind() != ErrorKind::argument || names.size() == 1) throw;
        refused.push_back({choice, error.what()});
      }
    }
    if (choices_.method == "all" && plan_.num_ranks <= max_sweep_ranks) {
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
    const Cluster cluster = plan_.cluster.cluster(plan_.num_ranks);
    const std::int64_t num_tokens = plan_.num_tokens;
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
          sweep.add(shape.spec(tokens, plan_.num_ranks), choices_, machines);
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
                           "  seqccl explain linear --ranks 16 --nodes 4x4 --between 8,2 --scan all --kind kda --tokens 64k\n"
                           "  seqccl explain linear --ranks 4 --scan chain --backward --rank 2");
    add_common(app);
    shape_.add_to(app);
    linear_.add_to(app, "all|");
  }

  int run(const Console& console) override {
    const Cluster cluster = plan_.cluster.cluster(plan_.num_ranks);
    const LinearSpec spec = shape_.spec(plan_.num_tokens, plan_.num_ranks);
    std::vector<Planned> candidates;
    std::vector<Refused> refused;
    const std::vector<Scan> scans = linear_.scans();
    for (const Scan scan : scans) {
      console.progress(fmt::format("{}: {} ranks ...", linear_.label(scan), plan_.num_ranks));
      try {
        candidates.push_back(plan_linear(linear_.chosen(spec, scan, cluster.topology), plan_.backward, cluster));
      } catch (const Error& error) {
        if (error.kind() != ErrorKind::argument || scans.size() == 1) throw;
        refused.push_back({linear_.label(scan), error.what()});
      }
    }
    console.progress("");
    return show(console, candidates, refused, cluster);
  }

 private:
  LinearShape shape_;
  LinearOptions linear_{"all"};
};

}  // namespace

std::unique_ptr<Subcommand> make_explain_attention(CLI::App& parent) { return std::make_unique<ExplainAttention>(parent); }
std::unique_ptr<Subcommand> make_explain_linear(CLI::App& parent) { return std::make_unique<ExplainLinear>(parent); }

}  // namespace seqccl::command
