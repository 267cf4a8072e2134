// run_decode.cpp - `seqccl run decode`: the last tokens of a file of tensors, decoded over a cache of the others.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "command/command.hpp"
#include "command/decode_job.hpp"
#include "command/report.hpp"
#include "command/run_options.hpp"
#include "command/subcommand.hpp"

namespace seqccl::command {
namespace {

constexpr const char* examples =
    "  seqccl run decode -i examples/data/text.safetensors --ranks 4 --merge all --check\n"
    "  seqccl run decode -i text.safetensors -o out.safetensors --ranks 8 --new-tokens 4 --page-tokens 16 --result by_heads --check\n\n"
    "Input tensors: q [B, N, Hq, D], k [B, N, Hkv, D], v [B, N, Hkv, Dv]. All but the last Tq tokens lie in the ranks' caches as\n"
    "--partition says; the last Tq are new: each is stored on its owner, and sees every token up to itself.\n"
    "Results: out [B, Tq, Hq, Dv], lse [B, Hq, Tq] (f32, natural log).";

class RunDecode final : public Subcommand {
 public:
  explicit RunDecode(CLI::App& parent) {
    CLI::App& app =
        add_to(parent, "decode", "The last tokens of whole tensors, over a cache of the others that is sharded over ranks", examples);
    options_.add_to(app, /*has_backward=*/false);
    decode_.add_to(app);
    app.add_option("--softcap", softcap_, "Scores become C tanh(score / C); 0: none")->capture_default_str();
    app.add_option("--trace", options_.trace, "Write what every rank did when, as Chrome trace JSON");
  }

  int run(const Console& console) override {
    const RunSettings settings = options_.settings();
    const std::vector<DecodeMerge> merges = decode_.merges();
    AttentionSpec sizes;
    sizes.softcap = softcap_;
    if (!(softcap_ >= 0)) throw Error(ErrorKind::argument, fmt::format("--softcap: {} is not right, want a number >= 0", softcap_));
    if (options_.scale) sizes.scale = static_cast<float>(*options_.scale);
    AttentionTensors tensors = read();
    describe_shapes(tensors, sizes);
    const std::int64_t num_tokens = tensors.q.extent(1);
    DecodeStep step(decode_.spec(sizes, num_tokens), decode_, options_.partition, num_tokens, settings.num_ranks);
    tensors.q = last_tokens(tensors.q, step.spec.q_tokens);

    RunReport report({{"B", sizes.batch},
                      {"cache", step.cache.num_tokens()},
                      {"Tq", step.spec.q_tokens},
                      {"Hq", sizes.q_heads},
                      {"Hkv", sizes.kv_heads},
                      {"D", sizes.head_dim},
                      {"Dv", sizes.v_head_dim},
                      {"dtype", name(sizes.dtype)},
                      {"partition", options_.partition},
                      {"result", decode_.result},
                      {"transport", options_.transport}},
                     settings.num_ranks, options_.wants_check());
    report.note_unused(unused_);
    std::optional<DecodeReference> reference;
    if (options_.wants_check()) reference.emplace(tensors, step);
    bool is_written = false;
    for (const DecodeMerge merge : merges) {
      step.spec.merge = merge;
      if (const std::string why = refusal(step.spec, settings.num_ranks); !why.empty()) throw Error(ErrorKind::argument, why);
      console.progress(fmt::format("{} on {} ranks ...", name(merge), settings.num_ranks));
      const DecodeRun run = run_decode(tensors, step, settings);
      const std::optional<CheckOutcome> outcome = reference ? std::optional(reference->judge(run)) : std::nullopt;
      report.add(name(run.merge), {{"step", &run.step, step.flops()}}, outcome ? &*outcome : nullptr);
      if (!is_written) write(run, report);
      is_written = true;
    }
    console.progress("");
    if (json())
      console.out << report.json().dump(1) << '\n';
    else
      console.out << report.text();
    return options_.wants_check() && !report.passed() ? exit_check_failed : exit_right;
  }

 private:
  [[nodiscard]] AttentionTensors read() {
    SafetensorsFile file(options_.input);
    if (file.has("sinks"))
      throw Error(ErrorKind::argument, fmt::format("{}: it has sinks, and decode has none; want a file without", options_.input));
    AttentionTensors tensors;
    tensors.q = in_dtype(file.read("q"), options_.dtype);
    tensors.k = in_dtype(file.read("k"), options_.dtype);
    tensors.v = in_dtype(file.read("v"), options_.dtype);
    unused_ = file.unused();
    return tensors;
  }

  static HostTensor last_tokens(const HostTensor& whole, std::int64_t count) {
    HostTensor part(whole.dtype, {whole.extent(0), count, whole.extent(2), whole.extent(3)});
    const Partition one = Partition::contiguous(count, 1);
    one.shard(tokens_of(whole.view(), whole.extent(1) - count, count), 0, part.view());
    return part;
  }

  /// Results of the first merge that ran, on rank 0 if every rank has them.
  void write(const DecodeRun& run, RunReport& report) const {
    if (!options_.trace.empty()) {
      write_chrome_trace(options_.trace, run.trace);
      report.note(fmt::format("wrote {} ({})", options_.trace, name(run.merge)));
    }
    if (options_.output.empty()) return;
    write_safetensors(options_.output, {{"out", &run.out.front()}, {"lse", &run.lse.front()}});
    report.note(fmt::format("wrote {} ({})", options_.output, name(run.merge)));
  }

  RunOptions options_;
  std::vector<std::string> unused_;  // names in the input file
  DecodeOptions decode_{"automatic"};
  float softcap_ = 0;
};

}  // namespace

std::unique_ptr<Subcommand> make_run_decode(CLI::App& parent) { return std::make_unique<RunDecode>(parent); }

}  // namespace seqccl::command
