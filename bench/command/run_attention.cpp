// run_attention.cpp - `seqccl run attention`: softmax attention of a file of tensors, by one method or all of them.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <optional>
#include <string>
#include <vector>

#include "command/attention_job.hpp"
#include "command/choices.hpp"
#include "command/names.hpp"
#include "command/options.hpp"
#include "command/run_base.hpp"

namespace seqccl::command {
namespace {

constexpr const char* run_attention_examples =
    "  seqccl run attention -i examples/data/text.safetensors -o out.safetensors --ranks 4 --method ring --mask causal --partition zigzag "
    "--check\n"
    "  seqccl run attention -i text.safetensors --ranks 8 --method all --mask causal+window:128,0 --check --json\n"
    "  seqccl run attention -i text.safetensors --ranks 4 --mask documents:200,112,200 --trace trace.json\n"
    "  seqccl run attention -i text.safetensors --ranks 8 --method ring --mesh heads:2,outer:2,inner:2 --burst --check\n\n"
    "Input tensors: q [B, N, Hq, D], k [B, N, Hkv, D], v [B, N, Hkv, Dv], optional dout [B, N, Hq, Dv], sinks [Hq] (f32).\n"
    "Results: out [B, N, Hq, Dv], lse [B, Hq, N] (f32, natural log); with dout also dq, dk, dv (and dsinks).";

class RunAttention final : public Run {
 public:
  explicit RunAttention(CLI::App& parent) {
    CLI::App& app = add_to(parent, "attention", "Softmax attention of whole tensors, sharded over ranks", run_attention_examples);
    options_.add_to(app);
    options_.add_nodes_to(app, "double_ring, mesh, automatic");
    choices_.add_to(app, "automatic|all|");
    app.add_option("--mask", mask_, mask_help)->capture_default_str();
    add_softmax(app);
  }

  int run(const Console& console) override {
    const RunSettings settings = options_.settings();
    const std::vector<std::string> names = choices_.names();
    if (!options_.nodes.empty()) choices_.require_nodes_used("--nodes", options_.nodes);
    AttentionSpec spec;
    spec.mask = parse_mask(mask_);
    spec.softcap = softcap_;
    if (options_.scale) spec.scale = static_cast<float>(*options_.scale);
    SafetensorsFile file(options_.input);
    const AttentionTensors tensors = read(file);
    describe_shapes(tensors, spec);
    spec.partition = parse_partition(options_.partition, tensors.q.extent(1), settings.num_ranks);
    (void)parse_mask(mask_, tensors.q.extent(1));  // now that the length is known
    const bool has_dout = tensors.dout.present();
    choices_.require_used(spec.dtype, has_dout, "an input with dout, without --forward-only");

    RunReport report({{"B", spec.batch},
                      {"N", spec.partition.num_tokens()},
                      {"Hq", spec.q_heads},
                      {"Hkv", spec.kv_heads},
                      {"D", spec.head_dim},
                      {"Dv", spec.v_head_dim},
                      {"dtype", name(spec.dtype)},
                      {"mask", spec.mask.describe()},
                      {"partition", options_.partition},
                      {"transport", name(settings.transport)},
                      {"wait", settings.wait_text()}},
                     settings.num_ranks, options_.wants_check());
    note_input(report, file, !options_.forward_only);
    if (const std::string note = choices_.note(spec.num_kv_heads()); !note.empty()) report.note(note);
    std::optional<AttentionReference> reference;
    keep_failure(report, [&] {
      for (const std::string& choice : names) {
        const AttentionSpec chosen = choices_.chosen(spec, choice, settings.topology);
        if (is_refused(report, choice, refusal(chosen), names.size() == 1)) continue;
        report.begin(choice);
        console.progress(fmt::format("{} on {} ranks ...", choice, settings.num_ranks));
        const AttentionResult result = run_attention(tensors, chosen, settings, has_dout);
        const std::string label = choice == "automatic" ? published_name(chosen, result.chosen, settings.topology) : choice;

        std::vector<Direction> directions = {{"forward", &result.forward, attention_flops(spec, false)}};
        if (has_dout) directions.push_back({"backward", &result.backward, attention_flops(spec, true)});
        if (options_.wants_check()) {
          console.progress("reference ...");
          if (!reference) reference.emplace(tensors, spec, has_dout, options_.check_level());
          const CheckOutcome outcome = reference->judge(result);
          report.add(label, directions, &outcome);
        } else {
          report.add(label, directions, nullptr);
        }
        write_once(report, label,
                   {{"out", &result.out},
                    {"lse", &result.lse},
                    {"dq", &result.dq},
                    {"dk", &result.dk},
                    {"dv", &result.dv},
                    {"dsinks", &result.dsinks}},
                   result.trace);
      }
    });
    return show(console, report);
  }

 private:
  [[nodiscard]] AttentionTensors read(SafetensorsFile& file) const {
    AttentionTensors tensors;
    read_qkv(file, tensors);
    if (!options_.forward_only) tensors.dout = in_dtype(file.read_if_there("dout"), options_.dtype);
    tensors.sinks = convert(file.read_if_there("sinks"), f32);
    return tensors;
  }

  ChoiceOptions choices_{"automatic"};
  std::string mask_ = "full";
};

}  // namespace

std::unique_ptr<Subcommand> make_run_attention(CLI::App& parent) { return std::make_unique<RunAttention>(parent); }

}  // namespace seqccl::command
