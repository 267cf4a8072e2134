// explain_decode.cpp - `seqccl explain decode`: what a step of decoding costs by every form of merge, and that it is right.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "command/decode_job.hpp"
#include "command/explain_base.hpp"

namespace seqccl::command {
namespace {

/// The tokens that a rank's cache holds after the step, by row.
std::vector<Piece> keys_of(const DecodeStep& step, Rank rank) {
  std::vector<Piece> pieces = step.cache.pieces(rank);
  std::int64_t row = step.cache.tokens_on(rank);
  for (std::int64_t t = 0; t < step.spec.q_tokens; ++t)
    if (step.owners[static_cast<std::size_t>(t)] == rank) pieces.push_back({row++, {step.cache.num_tokens() + t, 1, 1}});
  return pieces;
}

Planned plan_decode(const DecodeStep& step, const Cluster& cluster) {
  const DecodeSpec& spec = step.spec;
  const int num_ranks = step.cache.num_ranks();
  if (const std::string why = refusal(spec, num_ranks); !why.empty()) throw Error(ErrorKind::argument, why);
  Planned planned{name(spec.merge), {}, {}, {}, {}};
  for (Rank rank = 0; rank < num_ranks; ++rank) {
    collectives::CacheStep cache_step;
    const std::vector<std::int64_t> lengths(static_cast<std::size_t>(spec.batch), step.cache.tokens_on(rank));
    const std::int64_t capacity = step.tokens_after(rank);
    collectives::plan_cache_step(spec, num_ranks, rank, {.capacity = capacity}, lengths, step.owners, cache_step);
    planned.schedules.push_back(collectives::decode(spec, num_ranks, rank, capacity, cache_step.slices));
  }
  const Partition all = Partition::contiguous(step.num_tokens(), num_ranks);
  const Mask causal = Mask::causal();
  const auto names = [&step, &spec, num_ranks](Rank rank, Tensor tensor, int) -> SlotNames {
    if (tensor == Tensor::k || tensor == Tensor::v) return {keys_of(step, rank), 0};
    return {{{0, {step.cache.num_tokens(), spec.q_tokens, 1}}}, tensor == Tensor::q ? 0 : spec.heads_of(rank, num_ranks).first};
  };
  planned.report = check(
      planned.schedules,
      {.partition = &all, .mask = &causal, .batch = spec.batch, .q_heads = spec.q_heads, .kv_heads = spec.num_kv_heads(), .names = names});
  if (planned.report.ok()) planned.simulation = simulate(planned.schedules, cluster);
  return planned;
}

class ExplainDecode final : public Explain {
 public:
  explicit ExplainDecode(CLI::App& parent) {
    CLI::App& app =
        add_to(parent, "decode", "A step of decoding: costs per rank, proofs, simulated time of every form of merge",
               "  seqccl explain decode --ranks 8 --tokens 64k\n"
               "  seqccl explain decode --ranks 16 --cluster gpus --tokens 1m --batch 8 --q-heads 32 --kv-heads 8 --head-dim 128 "
               "--dtype bf16\n"
               "  seqccl explain decode --ranks 5 --merge butterfly --rank 4");
    add_common(app, /*has_backward=*/false);
    shape_.add_sizes_to(app);
    app.add_option("--partition", shape_.partition, "Of the cache: contiguous|zigzag|striped|uneven:T0,T1,...")->capture_default_str();
    decode_.add_to(app, /*has_pages=*/false);
  }

  int run(const Console& console) override {
    const Cluster cluster = plan_.cluster.cluster(plan_.num_ranks);
    const std::int64_t num_tokens = plan_.num_tokens;
    DecodeStep step(decode_.spec(shape_.sizes(num_tokens), num_tokens), decode_, shape_.partition, num_tokens, plan_.num_ranks);
    std::vector<Planned> candidates;
    DecodeOptions options = decode_;
    if (options.merges().front() == DecodeMerge::automatic) options.merge = "all";  // the fastest in simulation is shown in full
    for (const DecodeMerge merge : options.merges()) {
      step.spec.merge = merge;
      candidates.push_back(plan_decode(step, cluster));
    }
    return show(console, candidates, {}, cluster);
  }

 private:
  AttentionShape shape_{.partition = "contiguous"};
  DecodeOptions decode_{"all"};
};

}  // namespace

std::unique_ptr<Subcommand> make_explain_decode(CLI::App& parent) { return std::make_unique<ExplainDecode>(parent); }

}  // namespace seqccl::command
