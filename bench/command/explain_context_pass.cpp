// explain_context_pass.cpp - `seqccl explain context_pass`: what it costs, and that every rank sees exactly its keys.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <numeric>

#include "command/context_pass_job.hpp"
#include "command/explain_base.hpp"

namespace seqccl::command {
namespace {

/// What the schedules claim. Anchor and selections are copies: to the checker they are keys of their own, behind the N tokens of the
/// sequence, first the anchor, then what rank 0, 1, ... passes.
class ContextPassClaim {
 public:
  explicit ContextPassClaim(const ContextPassSpec& spec)
      : spec_(spec), num_tokens_(std::accumulate(spec.tokens.begin(), spec.tokens.end(), std::int64_t{0})) {
    const std::int64_t selections = num_tokens_ + spec.anchor_tokens;
    std::vector<BandSlice> slices;
    std::int64_t own = 0, passed = selections;
    for (Rank rank = 0; rank < spec.num_ranks(); ++rank) {
      const std::int64_t count = spec.tokens_on(rank), anchor = spec.anchor_on(rank);
      first_.push_back(own);
      passed_first_.push_back(passed);
      if (count != 0) slices.push_back({own, count, own, count, -unbounded, 0});
      if (count != 0 && anchor != 0) slices.push_back({own, count, num_tokens_, anchor});
      if (count != 0 && passed != selections) slices.push_back({own, count, selections, passed - selections});
      own += count;
      passed += spec.passed_by(rank);
    }
    std::vector<std::int64_t> held = spec.tokens;
    held.back() += passed - num_tokens_;
    partition_ = Partition::uneven(held);
    mask_ = Mask::slices(std::move(slices));
  }

  [[nodiscard]] CheckReport check(std::span<const Schedule> schedules) const {
    return seqccl::check(schedules, {.partition = &partition_,
                                     .mask = &mask_,
                                     .batch = spec_.batch,
                                     .q_heads = spec_.q_heads,
                                     .kv_heads = spec_.num_kv_heads(),
                                     .names = [this](Rank rank, Tensor tensor, int nth) { return names(rank, tensor, nth); }});
  }

 private:
  [[nodiscard]] SlotNames names(Rank rank, Tensor tensor, int nth) const {
    const auto at = static_cast<std::size_t>(rank);
    const bool is_key = tensor == Tensor::k || tensor == Tensor::v;
    if (!is_key || nth == 0) return {{{0, {first_[at], spec_.tokens_on(rank), 1}}}, 0};
    if (nth == 1) return {{{0, {num_tokens_, spec_.anchor_on(rank), 1}}}, 0};
    return {{{0, {passed_first_[at], spec_.passed_by(rank), 1}}}, 0};
  }

  const ContextPassSpec& spec_;
  std::int64_t num_tokens_;
  std::vector<std::int64_t> first_, passed_first_;  // per rank: first own token, first key that it passes
  Partition partition_;
  Mask mask_;
};

Planned plan_context_pass(const ContextPassSpec& spec, const Cluster& cluster) {
  if (const std::string why = refusal(spec); !why.empty()) throw Error(ErrorKind::argument, why);
  Planned planned{"context_pass", {}, {}, {}, {}};
  for (Rank rank = 0; rank < spec.num_ranks(); ++rank) planned.schedules.push_back(collectives::context_pass(spec, rank));
  planned.report = ContextPassClaim(spec).check(planned.schedules);
  if (planned.report.ok()) planned.simulation = simulate(planned.schedules, cluster);
  return planned;
}

class ExplainContextPass final : public Explain {
 public:
  explicit ExplainContextPass(CLI::App& parent) {
    CLI::App& app =
        add_to(parent, "context_pass", "Prefill with an anchor and selected keys of earlier ranks: costs, proofs, simulated time",
               "  seqccl explain context_pass --ranks 8 --tokens 64k --anchor 1024 --passed 1024\n"
               "  seqccl explain context_pass --ranks 4 --passed 0 --rank 3");
    add_common(app, /*has_backward=*/false);
    shape_.add_sizes_to(app);
    app.add_option("--partition", shape_.partition, "contiguous|uneven:T0,T1,...")->capture_default_str();
    pass_.add_to(app);
  }

  int run(const Console& console) override {
    const Cluster cluster = plan_.cluster.cluster(plan_.num_ranks);
    const Partition partition = parse_runs(shape_.partition, plan_.num_tokens, plan_.num_ranks);
    const ContextPassSpec spec = pass_.spec(shape_.sizes(plan_.num_tokens), partition);
    return show(console, {plan_context_pass(spec, cluster)}, {}, cluster);
  }

 private:
  AttentionShape shape_{.partition = "contiguous"};
  ContextPassOptions pass_;
};

}  // namespace

std::unique_ptr<Subcommand> make_explain_context_pass(CLI::App& parent) { return std::make_unique<ExplainContextPass>(parent); }

}  // namespace seqccl::command
