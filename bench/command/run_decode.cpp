// run_decode.cpp - `seqccl run decode`: the last tokens of a file of tensors, decoded over a cache of the others.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <optional>
#include <string>
#include <vector>

#include "command/decode_job.hpp"
#include "command/run_base.hpp"

namespace seqccl::command {
namespace {

constexpr const char* run_decode_examples =
    "  seqccl run decode -i examples/data/text.safetensors --ranks 4 --merge all --check\n"
    "  seqccl run decode -i text.safetensors -o out.safetensors --ranks 8 --new-tokens 4 --page-tokens 16 --result by_heads --check\n\n"
    "Input tensors: q [B, N, Hq, D], k [B, N, Hkv, D], v [B, N, Hkv, Dv]. All but the last Tq tokens lie in the ranks' caches as\n"
    "--partition says; the last Tq are new: each is stored on its owner, and sees every token up to itself.\n"
    "Results: out [B, Tq, Hq, Dv], lse [B, Hq, Tq] (f32, natural log).";

class RunDecode final : public Run {
 public:
  explicit RunDecode(CLI::App& parent) {
    CLI::App& app = add_to(parent, "decode", "The last tokens of whole tensors, over a cache of the others that is sharded over ranks",
                           run_decode_examples);
    options_.add_to(app, /*has_backward=*/false);
    decode_.add_to(app);
    add_softmax(app);
  }

  int run(const Console& console) override {
    const RunSettings settings = options_.settings();
    const std::vector<DecodeMerge> merges = decode_.merges();
    AttentionSpec sizes;
    sizes.softcap = softcap_;
    if (options_.scale) sizes.scale = static_cast<float>(*options_.scale);
    SafetensorsFile file(options_.input);
    AttentionTensors tensors = read(file);
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
                      {"transport", name(settings.transport)},
                      {"wait", settings.wait_text()}},
                     settings.num_ranks, options_.wants_check());
    note_input(report, file, /*wants_dout=*/false);
    std::optional<DecodeReference> reference;
    if (options_.wants_check()) reference.emplace(tensors, step);
    keep_failure(report, [&] {
      for (const DecodeMerge merge : merges) {
        step.spec.merge = merge;
        if (is_refused(report, name(merge), refusal(step.spec, settings.num_ranks), merges.size() == 1)) continue;
        report.begin(name(merge));
        console.progress(fmt::format("{} on {} ranks ...", name(merge), settings.num_ranks));
        const DecodeRun run = run_decode(tensors, step, settings);
        const std::optional<CheckOutcome> outcome = reference ? std::optional(reference->judge(run)) : std::nullopt;
        report.add(name(run.merge), {{"step", &run.step, step.flops()}}, outcome ? &*outcome : nullptr);
        write_once(report, name(run.merge), {{"out", &run.out.front()}, {"lse", &run.lse.front()}}, run.trace);  // every rank has them
      }
    });
    return show(console, report);
  }

 private:
  [[nodiscard]] AttentionTensors read(SafetensorsFile& file) const {
    if (file.has("sinks"))
      throw Error(ErrorKind::argument, fmt::format("{}: it has sinks, and decode has none; want a file without", options_.input));
    AttentionTensors tensors;
    read_qkv(file, tensors);
    return tensors;
  }

  static HostTensor last_tokens(const HostTensor& whole, std::int64_t count) {
    HostTensor part(whole.dtype, {whole.extent(0), count, whole.extent(2), whole.extent(3)});
    const Partition one = Partition::contiguous(count, 1);
    one.shard(tokens_of(whole.view(), whole.extent(1) - count, count), 0, part.view());
    return part;
  }

  DecodeOptions decode_{"automatic"};
};

}  // namespace

std::unique_ptr<Subcommand> make_run_decode(CLI::App& parent) { return std::make_unique<RunDecode>(parent); }

}  // namespace seqccl::command
