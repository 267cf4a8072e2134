// explain_balance.cpp - `seqccl explain balance`: which ranks share which sequence of a batch, and what that gains.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <ostream>

#include "command/command.hpp"
#include "command/number_option.hpp"
#include "command/options.hpp"
#include "command/shape_options.hpp"
#include "command/subcommand.hpp"
#include "seqccl/balance.hpp"

namespace seqccl::command {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* explain_balance_examples =
    "  seqccl explain balance --lengths 64k,16k,16k,8k,4k,4k,2k,2k,1k,1k --ranks 16 --cluster gpus --max-tokens 16k\n"
    "  seqccl explain balance --lengths lengths.txt --ranks 16 --cluster gpus --max-tokens 64k --q-heads 32 --head-dim 128 --dtype bf16 "
    "--json\n\n"
    "A file has one length a line, or several with commas or blanks between them; '#' begins a comment. Times are of one attention\n"
    "layer, forward and backward unless --forward-only; keys and values travel as in ring or kv_all_gather.";

std::vector<std::int64_t> require_lengths(std::vector<std::int64_t> lengths) {
  for (std::size_t i = 0; i < lengths.size(); ++i)
    if (lengths[i] < 0 || lengths[i] > max_size)
      throw Error(ErrorKind::argument, fmt::format("--lengths: length {} is {}, want 0 to 2^40", i, lengths[i]));
  return lengths;
}

/// L0,L1,... or the name of a file of lengths.
std::vector<std::int64_t> read_lengths(const std::string& text) {
  std::ifstream stream(text);
  const bool may_be_lengths = ((text[0] >= '0' && text[0] <= '9') || text[0] == '-') && text.find('/') == std::string::npos;
  if (may_be_lengths && (!stream || text.find(',') != std::string::npos))  // a file may be named 2024
    return require_lengths(parse_counts("--lengths", text));
  if (!stream) throw Error(ErrorKind::argument, fmt::format("--lengths: {}: cannot be opened: {}", text, std::strerror(errno)));
  std::vector<std::int64_t> lengths;
  int number = 0;
  for (std::string line; std::getline(stream, line);) {
    ++number;
    line.resize(std::min(line.find('#'), line.size()));
    for (std::size_t begin = 0; (begin = line.find_first_not_of(", \t\r", begin)) != std::string::npos;) {
      const std::size_t end = std::min(line.find_first_of(", \t\r", begin), line.size());
      lengths.push_back(
          parse_count(fmt::format("--lengths: {}, line {}", text, number), std::string_view(line).substr(begin, end - begin)));
      begin = end;
    }
  }
  if (lengths.empty()) throw Error(ErrorKind::argument, fmt::format("--lengths: {}: there are no lengths in it", text));
  return require_lengths(std::move(lengths));
}

class ExplainBalance final : public Subcommand {
 public:
  explicit ExplainBalance(CLI::App& parent) {
    CLI::App& app =
        add_to(parent, "balance", "Assign the sequences of a batch to micro-batches and groups of ranks", explain_balance_examples);
    app.add_option("--lengths", lengths_, "Tokens of every sequence: L0,L1,... or a file of them")->required();
    add_count(app, "-p,--ranks", num_ranks_, "Number of ranks", 1, max_ranks);
    add_count(app, "--max-tokens", max_tokens_, "Tokens that a rank has room for in one micro-batch (default: no limit)", 1, max_size);
    app.add_flag("--forward-only", forward_only_, "Times of the forward pass alone");
    app.add_flag("--not-causal", not_causal_, "Every token sees its whole sequence");
    app.add_flag("--overlap", overlap_, "Transfers of a micro-batch hide behind its compute");
    add_count(app, "--q-heads", shape_.q_heads, "Hq", 1, max_size);
    add_count(app, "--kv-heads", shape_.kv_heads, "Hkv, a divisor of Hq", 1, max_size);
    add_count(app, "--head-dim", shape_.head_dim, "D", 1, max_size);
    app.add_option("--dtype", shape_.dtype, "f32|f16|bf16")->capture_default_str();
    cluster_.add_to(app, /*has_memory=*/false);  // a sequence's cost is its arithmetic and its transfers
  }

  int run(const Console& console) override {
    const BatchPlan plan = balance(problem());
    if (json())
      console.out << to_json(plan).dump(1) << '\n';
    else
      console.out << plan.describe();
    return exit_right;
  }

 private:
  [[nodiscard]] BalanceProblem problem() const {
    BalanceProblem problem;
    problem.num_ranks = static_cast<int>(num_ranks_);
    problem.lengths = read_lengths(lengths_);
    if (max_tokens_ > 0) problem.max_tokens_per_rank = max_tokens_;
    const Cluster cluster = cluster_.cluster(problem.num_ranks);
    const AttentionSpec sizes = shape_.sizes(1);
    problem.topology = cluster.topology;
    problem.cost = BatchCost::attention(sizes.q_heads, sizes.kv_heads, sizes.head_dim, size_bytes(sizes.dtype), !forward_only_);
    problem.cost.flops_per_s = cluster.flops_per_s;
    problem.cost.inside_latency_s = cluster.inside.latency_s;
    problem.cost.inside_bytes_per_s = cluster.inside.bytes_per_s;
    problem.cost.between_latency_s = cluster.between.latency_s;
    problem.cost.between_bytes_per_s = cluster.between.bytes_per_s;
    problem.cost.sequence_s = problem.cost.micro_batch_s = cluster.step_overhead_s;
    problem.cost.causal = !not_causal_;
    problem.cost.overlap = overlap_;
    return problem;
  }

  static Json to_json(const BatchPlan& plan) {
    Json micro_batches = Json::array();
    for (const MicroBatch& micro : plan.micro_batches) {
      Json sequences = Json::array();
      for (std::size_t i = 0; i < micro.sequences.size(); ++i)
        sequences.push_back({{"sequence", micro.sequences[i]}, {"first_token", micro.first_token[i]}, {"ranks", micro.groups[i]}});
      std::vector<std::int64_t> tokens;
      for (Rank rank = 0; rank < micro.partition.num_ranks(); ++rank) tokens.push_back(micro.partition.tokens_on(rank));
      micro_batches.push_back(
          {{"seconds", micro.seconds}, {"rank_seconds", micro.rank_seconds}, {"rank_tokens", tokens}, {"sequences", sequences}});
    }
    return {{"seconds", plan.seconds},
            {"lower_bound_s", plan.lower_bound_s},
            {"uniform_seconds", plan.uniform_seconds},
            {"micro_batches", micro_batches}};
  }

  AttentionShape shape_;
  ClusterOptions cluster_;
  std::string lengths_;
  std::int64_t num_ranks_ = 4, max_tokens_ = 0;
  bool forward_only_ = false, not_causal_ = false, overlap_ = false;
};

}  // namespace

std::unique_ptr<Subcommand> make_explain_balance(CLI::App& parent) { return std::make_unique<ExplainBalance>(parent); }

}  // namespace seqccl::command
