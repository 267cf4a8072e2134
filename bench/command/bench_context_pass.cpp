// bench_context_pass.cpp - `seqccl bench context_pass`: prefill with an anchor, selections of earlier ranks and own keys.
// SPDX-License-Identifier: Apache-2.0
#include "command/bench_base.hpp"
#include "command/context_pass_job.hpp"
#include "command/shape_options.hpp"

namespace seqccl::command {
namespace {

class BenchContextPass final : public Bench {
 public:
  explicit BenchContextPass(CLI::App& parent) {
    CLI::App& app =
        add_to(parent, "context_pass", "Prefill with an anchor and selected keys of earlier ranks, on random tensors and selections",
               "  seqccl bench context_pass --ranks 2,4,8 --tokens 16k,64k\n"
               "  seqccl bench context_pass --ranks 4 --tokens 16k --anchor 512 --passed 0    # phase 1 of star attention\n\n"
               "#wrong counts against exact attention over the keys that each rank was given: what is left out is the\n"
               "selection's approximation, not this library's.");
    add_common(app, /*has_backward=*/false);
    shape_.add_sizes_to(app);
    app.add_option("--partition", shape_.partition, "contiguous|uneven:T0,T1,...")->capture_default_str();
    pass_.add_to(app);
  }

  void measure_all(const Console& console) override {
    const std::vector<Case> all = cases();
    problem_ = shape_.sizes_json();
    problem_.update({{"partition", shape_.partition}, {"anchor", pass_.anchor}, {"passed", pass_.passed}});
    for (const Case& one : all)  // before the first is measured: its rows would be lost
      (void)pass_.spec(shape_.sizes(one.num_tokens), parse_runs(shape_.partition, one.num_tokens, one.num_ranks));
    for (const Case& one : all) {
      const AttentionSpec sizes = shape_.sizes(one.num_tokens);
      const Partition partition = parse_runs(shape_.partition, one.num_tokens, one.num_ranks);
      const ContextPassSpec spec = pass_.spec(sizes, partition);
      settings_.num_ranks = one.num_ranks;
      if (const std::string why = refusal(spec); !why.empty()) {
        add_refusal("context_pass", one, why);
        continue;
      }
      AttentionTensors tensors;
      tensors.q = random_tensor(sizes.dtype, {sizes.batch, one.num_tokens, sizes.q_heads, sizes.head_dim}, 1);
      tensors.k = random_tensor(sizes.dtype, {sizes.batch, one.num_tokens, sizes.kv_heads, sizes.head_dim}, 2);
      tensors.v = random_tensor(sizes.dtype, {sizes.batch, one.num_tokens, sizes.kv_heads, sizes.dim_v()}, 3);
      const Selections selections = random_selections(spec, 4);
      begin_row(console, "context_pass", one);
      const ContextPassRun run = run_context_pass(tensors, spec, partition, selections, settings_);
      std::optional<CheckOutcome> outcome;
      if (checks_) outcome = judge_context_pass(tensors, spec, partition, selections, run);
      add_row("context_pass", one, {"forward", &run.forward, context_pass_flops(spec)}, outcome ? &*outcome : nullptr);
    }
  }

 private:
  AttentionShape shape_{.partition = "contiguous"};
  ContextPassOptions pass_;
};

}  // namespace

std::unique_ptr<Subcommand> make_bench_context_pass(CLI::App& parent) { return std::make_unique<BenchContextPass>(parent); }

}  // namespace seqccl::command
