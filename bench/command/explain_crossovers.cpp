// explain_crossovers.cpp - `seqccl explain crossovers`: which method is the fastest in which setting, by the simulator.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <ostream>

#include "command/command.hpp"
#include "command/names.hpp"
#include "command/number_option.hpp"
#include "command/options.hpp"
#include "command/shape_options.hpp"
#include "command/subcommand.hpp"
#include "command/sweep.hpp"
#include "seqccl/explain.hpp"

namespace seqccl::command {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* explain_crossovers_examples =
    "  seqccl explain crossovers\n"
    "  seqccl explain crossovers --cluster gpus --between 8,25 --ranks 16,32 --tokens 32k,256k --kv-heads 32,8,1 --json\n\n"
    "Heads, head size and dtype are 8, 64, f32 on threads and 32, 128, bf16 on gpus unless they are given. The partition is zigzag for\n"
    "causal, contiguous otherwise. documents: 8 causal ones, the first 8 times as long as the last; window: the last sixteenth of the\n"
    "sequence. Times are of a forward and a backward pass. fastest: the first method, in the order of the list below the table, that is\n"
    "within 1% of the cheapest; as good: how many others are; next: the cheapest that is not.";

/// A mask by its name in the table, for a sequence of num_tokens.
struct NamedMask {
  const char* name;
  const char* partition;
  Mask (*make)(std::int64_t num_tokens);
};
constexpr NamedMask masks[] = {{"causal", "zigzag", [](std::int64_t) { return Mask::causal(); }},
                               {"causal_contiguous", "contiguous", [](std::int64_t) { return Mask::causal(); }},
                               {"full", "contiguous", [](std::int64_t) { return Mask::full(); }},
                               {"window", "contiguous", [](std::int64_t num_tokens) { return Mask::window(num_tokens / 16, 0); }},
                               {"documents", "contiguous", [](std::int64_t num_tokens) {
                                  std::vector<std::int64_t> lengths;
                                  std::int64_t rest = num_tokens;
                                  for (std::int64_t i = 8; i > 1; --i, rest -= lengths.back()) lengths.push_back(num_tokens * i / 36);
                                  lengths.push_back(rest);
                                  return Mask::causal() & Mask::documents(std::move(lengths));
                                }}};

class Crossovers final : public Subcommand {
 public:
  explicit Crossovers(CLI::App& parent) {
    CLI::App& app =
        add_to(parent, "crossovers", "Which softmax method is the fastest in which setting, in simulation", explain_crossovers_examples);
    app.add_option("-p,--ranks", ranks_, "Numbers of ranks, with commas (default: 4,8 on threads, 8,16 on gpus)");
    app.add_option("-n,--tokens", tokens_, "Numbers of tokens, with commas (default: 1k,8k on threads, 8k,64k on gpus)");
    add_count(app, "--q-heads", q_heads_, "Hq", 1, 1 << 20);
    app.add_option("--kv-heads", kv_heads_, "Hkv, with commas: divisors of Hq (default: Hq and Hq / 8)");
    add_count(app, "--head-dim", head_dim_, "D", 1, 1 << 20);
    app.add_option("--dtype", dtype_, "f32|f16|bf16");
    app.add_flag("--forward-only", forward_only_, "Times of the forward pass alone");
    cluster_.add_to(app);
  }

  int run(const Console& console) override {
    Sweep sweep({"cluster", "ranks", "tokens", "Hq:Hkv", "mask"}, parse_choices("all"), forward_only_ ? Passes::forward : Passes::both);
    require_links_used();
    for (const std::string& kind : kinds()) add(console, sweep, kind);
    console.progress("");
    show(console, sweep);
    return exit_right;
  }

 private:
  /// Both kinds of machine, unless one is named or its figures are given.
  [[nodiscard]] std::vector<std::string> kinds() const {
    if (!cluster_.base.empty()) return {cluster_kind(cluster_.base)};
    const bool has_figures = !cluster_.inside.empty() || !cluster_.between.empty() || cluster_.gflops > 0 || cluster_.memory > 0;
    return has_figures || !cluster_.nodes.empty() ? std::vector<std::string>{"threads"} : std::vector<std::string>{"threads", "gpus"};
  }

  static std::vector<std::int64_t> listed(const char* option, const std::string& text, const char* standard) {
    return parse_counts(option, text.empty() ? standard : text);
  }
  [[nodiscard]] std::vector<std::int64_t> rank_counts(const std::string& kind) const {
    std::vector<std::int64_t> counts = listed("--ranks", ranks_, kind == "gpus" ? "8,16" : "4,8");
    for (const std::int64_t num_ranks : counts) require_ranks(num_ranks);
    return counts;
  }
  [[nodiscard]] Cluster cluster(const std::string& kind, std::int64_t num_ranks) const {
    ClusterOptions options = cluster_;
    options.base = kind;
    return options.one_cluster(static_cast<int>(num_ranks));
  }

  void require_links_used() const {
    std::vector<Cluster> clusters;
    for (const std::string& kind : kinds())
      for (const std::int64_t num_ranks : rank_counts(kind)) clusters.push_back(cluster(kind, num_ranks));
    cluster_.require_used(clusters);
  }

  void add(const Console& console, Sweep& sweep, const std::string& kind) const {
    const bool on_gpus = kind == "gpus";
    AttentionSpec spec;
    spec.q_heads = q_heads_ > 0 ? q_heads_ : on_gpus ? 32 : 8;
    spec.head_dim = head_dim_ > 0 ? head_dim_ : on_gpus ? 128 : 64;
    spec.dtype = !dtype_.empty() ? parse_dtype(dtype_) : on_gpus ? bf16 : f32;
    const std::string ratios = spec.q_heads % 8 == 0 ? fmt::format("{},{}", spec.q_heads, spec.q_heads / 8) : std::to_string(spec.q_heads);
    for (const std::int64_t num_ranks : rank_counts(kind)) {
      const Cluster machine_cluster = cluster(kind, num_ranks);
      for (const std::int64_t num_tokens : listed("--tokens", tokens_, on_gpus ? "8k,64k" : "1k,8k"))
        for (const std::int64_t kv_heads : listed("--kv-heads", kv_heads_, ratios.c_str())) {
          if (kv_heads < 1 || spec.q_heads % kv_heads != 0)
            throw Error(ErrorKind::argument, fmt::format("--kv-heads: {} is not right, want a divisor of Hq = {}", kv_heads, spec.q_heads));
          console.progress(fmt::format("{}: {} ranks, {} tokens ...", kind, num_ranks, num_tokens));
          spec.kv_heads = kv_heads;
          for (const NamedMask& mask : masks) {
            require_tokens(num_tokens);
            spec.mask = mask.make(num_tokens);
            spec.partition = parse_partition(mask.partition, num_tokens, static_cast<int>(num_ranks));
            const Sweep::Machine machine{
                {kind, std::to_string(num_ranks), count_text(num_tokens), fmt::format("{}:{}", spec.q_heads, kv_heads), mask.name},
                machine_cluster};
            sweep.add(spec, {}, std::span(&machine, 1));
          }
        }
    }
  }

  void show(const Console& console, const Sweep& sweep) const {
    if (json()) {
      Json rows = Json::array();
      for (const Sweep::Row& row : sweep.rows()) {
        Json one;
        for (std::size_t axis = 0; axis < row.values.size(); ++axis) one[sweep.axes()[axis]] = row.values[axis];
        one["winner"] = sweep.choices()[row.winner];
        one["num_as_good"] = row.num_even;
        one["runner_up"] = row.runner_up ? Json(sweep.choices()[*row.runner_up]) : Json();
        one["runner_up_ratio"] = row.runner_up_ratio();
        for (std::size_t choice = 0; choice < row.seconds.size(); ++choice)
          if (row.seconds[choice] >= 0) one["simulated_s"][sweep.choices()[choice]] = row.seconds[choice];
        rows.push_back(std::move(one));
      }
      console.out << Json{{"settings", rows}, {"wins", sweep.wins_json()}}.dump(1) << '\n';
      return;
    }
    std::vector<std::string> head = sweep.axes();
    head.insert(head.end(), {"simulated", "fastest", "as good", "next", "its time"});
    Table table(head);
    for (const Sweep::Row& row : sweep.rows()) {
      std::vector<std::string> cells = row.values;
      cells.push_back(human_seconds(row.best_s));
      if (row.runner_up)
        cells.insert(cells.end(), {sweep.choices()[row.winner], fmt::format("+ {}", row.num_even), sweep.choices()[*row.runner_up],
                                   fmt::format("{:.2f} x", row.runner_up_ratio())});
      else
        cells.push_back("all within 1%");
      table.add(std::move(cells));
    }
    console.out << table.text() << '\n' << sweep.wins_text();
  }

  ClusterOptions cluster_;
  std::string ranks_, tokens_, kv_heads_, dtype_;
  std::int64_t q_heads_ = 0, head_dim_ = 0;
  bool forward_only_ = false;
};

}  // namespace

std::unique_ptr<Subcommand> make_explain_crossovers(CLI::App& parent) { return std::make_unique<Crossovers>(parent); }

}  // namespace seqccl::command
