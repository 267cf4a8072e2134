// run_linear.cpp - `seqccl run linear`: linear attention of a file of tensors, by one scan or all of them.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "command/command.hpp"
#include "command/linear_options.hpp"
#include "command/names.hpp"
#include "command/options.hpp"
#include "command/report.hpp"
#include "command/run_options.hpp"
#include "command/subcommand.hpp"

namespace seqccl::command {
namespace {

constexpr const char* examples =
    "  seqccl run linear -i examples/data/linear.safetensors --ranks 4 --scan all --check\n"
    "  seqccl run linear -i examples/data/linear.safetensors -o out.safetensors --ranks 4 --scan lasp1 --partition zigzag\n"
    "  seqccl run linear -i delta.safetensors --ranks 8 --scan zeco --column-blocks 8 --documents 200,112,200 --check\n\n"
    "Input tensors: q, k [B, N, H, Dk], v [B, N, H, Dv]; log_decay [H] (constant_decay), [B, N, H] (scalar_gate, gated_delta) or\n"
    "[B, N, H, Dk] (vector_gate, rwkv6, kda), natural log, <= 0; beta [B, N, H] (delta, gated_delta, kda), bonus [H, Dk] (rwkv6);\n"
    "optional state_in, dstate_out [B, H, Dk, Dv], dout [B, N, H, Dv].\n"
    "Results: out [B, N, H, Dv], state_out [B, H, Dk, Dv] (f32); with dout also dq, dk, dv, dlog_decay, dstate_in, dbeta, dbonus.";

class RunLinear final : public Subcommand {
 public:
  explicit RunLinear(CLI::App& parent) {
    CLI::App& app = add_to(parent, "linear", "Linear attention of whole tensors, sharded over ranks", examples);
    options_.add_to(app);
    app.add_option("--kind", kind_,
                   fmt::format("{} (default: what bonus, beta and the shape of log_decay mean)", fmt::join(kind_list(), "|")));
    linear_.add_to(app, "all|");
  }

  int run(const Console& console) override {
    const RunSettings settings = options_.settings();
    const std::vector<Scan> scans = linear_.scans();
    std::optional<LinearKind> kind;
    if (!kind_.empty()) kind = parse_kind(kind_);
    const LinearTensors tensors = read();
    LinearSpec spec;
    spec.kind = kind ? *kind : kind_of(tensors);
    spec.scale = static_cast<float>(options_.scale.value_or(1));
    describe_shapes(tensors, spec);
    spec.partition = parse_partition(options_.partition, tensors.q.extent(1), settings.num_ranks);
    const bool backward = tensors.dout.present();

    RunReport report({{"B", spec.batch},
                      {"N", spec.partition.num_tokens()},
                      {"H", spec.heads},
                      {"Dk", spec.head_dim},
                      {"Dv", spec.v_head_dim},
                      {"dtype", name(spec.dtype)},
                      {"kind", name(spec.kind)},
                      {"documents", linear_.documents.empty() ? "one" : linear_.documents},
                      {"partition", options_.partition},
                      {"transport", options_.transport}},
                     settings.num_ranks, options_.wants_check());
    report.note_unused(unused_);
    if (!backward && !options_.forward_only) report.note("no dout in the input: forward only");
    std::optional<LinearReference> reference;
    bool is_written = false;
    for (const Scan scan : scans) {
      spec = linear_.chosen(spec, scan, settings.topology);
      if (const std::string why = refusal(spec); !why.empty()) {
        if (scans.size() == 1) throw Error(ErrorKind::argument, why);
        report.refused(linear_.label(scan), why);
        continue;
      }
      console.progress(fmt::format("{} {} on {} ranks ...", name(spec.kind), linear_.label(scan), settings.num_ranks));
      const LinearResult result = run_linear(tensors, spec, settings, backward);
      std::vector<Direction> directions = {{"forward", &result.forward, result.forward.flops}};
      if (backward) directions.push_back({"backward", &result.backward, result.backward.flops});
      if (options_.wants_check()) {
        console.progress("reference ...");
        if (!reference) reference.emplace(tensors, spec, backward, options_.check_level());
        const CheckOutcome outcome = reference->judge(result);
        report.add(linear_.label(scan), directions, &outcome);
      } else {
        report.add(linear_.label(scan), directions, nullptr);
      }
      if (!is_written) write(result, report, linear_.label(scan));
      is_written = true;
    }
    console.progress("");
    if (json())
      console.out << report.json().dump(1) << '\n';
    else
      console.out << report.text();
    if (report.num_results() == 0) throw Error(ErrorKind::argument, "--scan all: every scan refuses this problem");
    return options_.wants_check() && !report.passed() ? exit_check_failed : exit_right;
  }

 private:
  [[nodiscard]] LinearTensors read() {
    SafetensorsFile file(options_.input);
    LinearTensors tensors;
    tensors.q = in_dtype(file.read("q"), options_.dtype);
    tensors.k = in_dtype(file.read("k"), options_.dtype);
    tensors.v = in_dtype(file.read("v"), options_.dtype);
    tensors.log_decay = convert(file.read_if_there("log_decay"), f32);
    tensors.state_in = convert(file.read_if_there("state_in"), f32);
    tensors.beta = convert(file.read_if_there("beta"), f32);
    tensors.bonus = convert(file.read_if_there("bonus"), f32);
    if (!options_.forward_only) {
      tensors.dout = in_dtype(file.read_if_there("dout"), options_.dtype);
      tensors.dstate_out = convert(file.read_if_there("dstate_out"), f32);
    }
    if (tensors.dstate_out.present() && !tensors.dout.present())
      throw Error(ErrorKind::argument,
                  fmt::format("{}: it has dstate_out but no dout; gradients need both, zeros if one is not used", options_.input));
    unused_ = file.unused();
    return tensors;
  }

  void write(const LinearResult& result, RunReport& report, const char* scan) const {
    if (options_.output.empty()) return;
    std::vector<NamedTensor> named = {{"out", &result.out}};
    for (const NamedTensor& each :
         {NamedTensor{"state_out", &result.state_out}, NamedTensor{"dq", &result.dq}, NamedTensor{"dk", &result.dk},
          NamedTensor{"dv", &result.dv}, NamedTensor{"dlog_decay", &result.dlog_decay}, NamedTensor{"dstate_in", &result.dstate_in},
          NamedTensor{"dbeta", &result.dbeta}, NamedTensor{"dbonus", &result.dbonus}})
      if (each.tensor->present()) named.push_back(each);
    write_safetensors(options_.output, named);
    report.note(fmt::format("wrote {} ({})", options_.output, scan));
  }

  RunOptions options_;
  std::vector<std::string> unused_;  // names in the input file
  LinearOptions linear_{"all_gather"};
  std::string kind_;
};

}  // namespace

std::unique_ptr<Subcommand> make_run_linear(CLI::App& parent) { return std::make_unique<RunLinear>(parent); }

}  // namespace seqccl::command
