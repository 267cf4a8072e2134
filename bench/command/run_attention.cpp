// run_attention.cpp - `seqccl run attention`: softmax attention of a file of tensors, by one method or all of them.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "command/choices.hpp"
#include "command/command.hpp"
#include "command/options.hpp"
#include "command/report.hpp"
#include "command/run_options.hpp"
#include "command/subcommand.hpp"

namespace seqccl::command {
namespace {

constexpr const char* examples =
    "  seqccl run attention -i examples/data/text.safetensors -o out.safetensors --ranks 4 --method ring --mask causal --partition zigzag "
    "--check\n"
    "  seqccl run attention -i text.safetensors --ranks 8 --method all --mask causal+window:128,0 --check --json\n"
    "  seqccl run attention -i text.safetensors --ranks 4 --mask documents:200,112,200 --trace trace.json\n"
    "  seqccl run attention -i text.safetensors --ranks 8 --method ring --mesh heads:2,outer:2,inner:2 --burst --check\n\n"
    "Input tensors: q [B, N, Hq, D], k [B, N, Hkv, D], v [B, N, Hkv, Dv], optional dout [B, N, Hq, Dv], sinks [Hq] (f32).\n"
    "Results: out [B, N, Hq, Dv], lse [B, Hq, N] (f32, natural log); with dout also dq, dk, dv (and dsinks).";

class RunAttention final : public Subcommand {
 public:
  explicit RunAttention(CLI::App& parent) {
    CLI::App& app = add_to(parent, "attention", "Softmax attention of whole tensors, sharded over ranks", examples);
    options_.add_to(app);
    choices_.add_to(app, "automatic|all|");
    app.add_option("--mask", mask_, mask_help)->capture_default_str();
    app.add_option("--softcap", softcap_, "Scores become C tanh(score / C); 0: none")->capture_default_str();
    app.add_option("--trace", options_.trace, "Write what every rank did when, as Chrome trace JSON");
  }

  int run(const Console& console) override {
    const RunSettings settings = options_.settings();
    const std::vector<std::string> names = choices_.names();
    AttentionSpec spec;
    spec.mask = parse_mask(mask_);
    spec.softcap = softcap_;
    if (!(softcap_ >= 0)) throw Error(ErrorKind::argument, fmt::format("--softcap: {} is not right, want a number >= 0", softcap_));
    if (options_.scale) spec.scale = static_cast<float>(*options_.scale);
    const AttentionTensors tensors = read();
    describe_shapes(tensors, spec);
    spec.partition = parse_partition(options_.partition, tensors.q.extent(1), settings.num_ranks);
    const bool has_dout = tensors.dout.present();

    RunReport report({{"B", spec.batch},
                      {"N", spec.partition.num_tokens()},
                      {"Hq", spec.q_heads},
                      {"Hkv", spec.kv_heads},
                      {"D", spec.head_dim},
                      {"Dv", spec.v_head_dim},
                      {"dtype", name(spec.dtype)},
                      {"mask", spec.mask.describe()},
                      {"partition", options_.partition},
                      {"transport", options_.transport}},
                     settings.num_ranks, options_.wants_check());
    report.note_unused(unused_);
    if (!has_dout && !options_.forward_only) report.note("no dout in the input: forward only");
    std::optional<AttentionReference> reference;
    bool is_written = false;
    for (const std::string& choice : names) {
      const AttentionSpec chosen = choices_.chosen(spec, choice, settings.topology);
      if (const std::string why = refusal(chosen); !why.empty()) {
        if (names.size() == 1) throw Error(ErrorKind::argument, why);
        report.refused(choice, why);
        continue;
      }
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
      if (!is_written) write(result, report, label);
      is_written = true;
    }
    console.progress("");
    if (json())
      console.out << report.json().dump(1) << '\n';
    else
      console.out << report.text();
    if (report.num_results() == 0) throw Error(ErrorKind::argument, "--method all: every method refuses this problem");
    return options_.wants_check() && !report.passed() ? exit_check_failed : exit_right;
  }

 private:
  [[nodiscard]] AttentionTensors read() {
    SafetensorsFile file(options_.input);
    AttentionTensors tensors;
    tensors.q = in_dtype(file.read("q"), options_.dtype);
    tensors.k = in_dtype(file.read("k"), options_.dtype);
    tensors.v = in_dtype(file.read("v"), options_.dtype);
    if (!options_.forward_only) tensors.dout = in_dtype(file.read_if_there("dout"), options_.dtype);
    tensors.sinks = convert(file.read_if_there("sinks"), f32);
    unused_ = file.unused();
    return tensors;
  }

  /// Results of the first method that ran; with `all` the others are compared, not kept.
  void write(const AttentionResult& result, RunReport& report, const std::string& label) const {
    if (!options_.trace.empty()) {
      write_chrome_trace(options_.trace, result.trace);
      report.note(fmt::format("wrote {} ({})", options_.trace, label));
    }
    if (options_.output.empty()) return;
    std::vector<NamedTensor> named = {{"out", &result.out}, {"lse", &result.lse}};
    for (const NamedTensor& gradient : {NamedTensor{"dq", &result.dq}, NamedTensor{"dk", &result.dk}, NamedTensor{"dv", &result.dv},
                                        NamedTensor{"dsinks", &result.dsinks}})
      if (gradient.tensor->present()) named.push_back(gradient);
    write_safetensors(options_.output, named);
    report.note(fmt::format("wrote {} ({})", options_.output, label));
  }

  RunOptions options_;
  std::vector<std::string> unused_;  // names in the input file
  ChoiceOptions choices_{"automatic"};
  std::string mask_ = "full";
  float softcap_ = 0;
};

}  // namespace

std::unique_ptr<Subcommand> make_run_attention(CLI::App& parent) { return std::make_unique<RunAttention>(parent); }

}  // namespace seqccl::command
