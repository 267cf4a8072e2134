// bench_decode.cpp - `seqccl bench decode`: steps of decoding over a sharded cache, by every form of merge.
// SPDX-License-Identifier: Apache-2.0
#include "command/bench_base.hpp"
#include "command/decode_job.hpp"
#include "command/shape_options.hpp"

namespace seqccl::command {
namespace {

class BenchDecode final : public Bench {
 public:
  explicit BenchDecode(CLI::App& parent) {
    CLI::App& app =
        add_to(parent, "decode", "Steps of decoding over a key/value cache that is sharded over ranks, on random tensors",
               "  seqccl bench decode --ranks 2,4,8 --tokens 16k,64k --merge all\n"
               "  seqccl bench decode --ranks 4 --tokens 64k --new-tokens 4 --page-tokens 64 --result by_heads --dtype bf16 --json\n\n"
               "--tokens counts the cache and the new tokens. One row is one step, in which a new token is stored on its owner too.");
    add_common(app, /*has_backward=*/false);
    settings_.warmup = 3;
    settings_.repeat = 20;
    shape_.add_sizes_to(app);
    app.add_option("--partition", shape_.partition, "Of the cache: contiguous|zigzag|striped|uneven:T0,T1,...")->capture_default_str();
    decode_.add_to(app);
  }

  void measure_all(const Console& console) override {
    const std::vector<DecodeMerge> merges = decode_.merges();
    problem_ = shape_.sizes_json();
    problem_.update({{"partition", shape_.partition},
                     {"result", decode_.result},
                     {"new_tokens", decode_.new_tokens},
                     {"run_tokens", decode_.run_tokens},
                     {"page_tokens", decode_.page_tokens}});
    const std::vector<Case> all = cases();
    for (const Case& one : all) (void)step_of(one);  // before the first is measured: its rows would be lost
    for (const Case& one : all) {
      const AttentionSpec sizes = shape_.sizes(one.num_tokens);
      DecodeStep step = step_of(one);
      settings_.num_ranks = one.num_ranks;
      AttentionTensors tensors;
      tensors.q = random_tensor(sizes.dtype, {sizes.batch, step.spec.q_tokens, sizes.q_heads, sizes.head_dim}, 1);
      tensors.k = random_tensor(sizes.dtype, {sizes.batch, one.num_tokens, sizes.kv_heads, sizes.head_dim}, 2);
      tensors.v = random_tensor(sizes.dtype, {sizes.batch, one.num_tokens, sizes.kv_heads, sizes.dim_v()}, 3);
      std::optional<DecodeReference> reference;
      if (checks_) reference.emplace(tensors, step);
      for (const DecodeMerge merge : merges) {
        step.spec.merge = merge;
        if (const std::string why = refusal(step.spec, one.num_ranks); !why.empty()) {
          add_refusal(name(merge), one, why);
          continue;
        }
        begin_row(console, name(merge), one);
        const DecodeRun run = run_decode(tensors, step, settings_);
        const std::optional<CheckOutcome> outcome = reference ? std::optional(reference->judge(run)) : std::nullopt;
        add_row(name(run.merge), one, {"step", &run.step, step.flops()}, outcome ? &*outcome : nullptr);
      }
    }
  }

 private:
  [[nodiscard]] DecodeStep step_of(const Case& one) const {
    const DecodeSpec spec = decode_.spec(shape_.sizes(one.num_tokens), one.num_tokens);
    return {spec, decode_, shape_.partition, one.num_tokens, one.num_ranks};
  }

  AttentionShape shape_{.partition = "contiguous"};
  DecodeOptions decode_{"all"};
};

}  // namespace

std::unique_ptr<Subcommand> make_bench_decode(CLI::App& parent) { return std::make_unique<BenchDecode>(parent); }

}  // namespace seqccl::command
