// run_linear.cpp - `seqccl run linear`: linear attention of a file of tensors, by one scan or all of them.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "command/check.hpp"
#include "command/linear_job.hpp"
#include "command/linear_options.hpp"
#include "command/names.hpp"
#include "command/options.hpp"
#include "command/run_base.hpp"

namespace seqccl::command {
namespace {

constexpr const char* run_linear_examples =
    "  seqccl run linear -i examples/data/linear.safetensors --ranks 4 --scan all --check\n"
    "  seqccl run linear -i examples/data/linear.safetensors -o out.safetensors --ranks 4 --scan lasp1 --partition zigzag\n"
    "  seqccl run linear -i delta.safetensors --ranks 8 --scan zeco --column-blocks 8 --documents 200,112,200 --check\n\n"
    "Input tensors: q, k [B, N, H, Dk], v [B, N, H, Dv]; log_decay [H] (constant_decay), [B, N, H] (scalar_gate, gated_delta) or\n"
    "[B, N, H, Dk] (vector_gate, rwkv6, kda), natural log, <= 0; beta [B, N, H] (delta, gated_delta, kda), bonus [H, Dk] (rwkv6);\n"
    "optional state_in, dstate_out [B, H, Dk, Dv], dout [B, N, H, Dv].\n"
    "Results: out [B, N, H, Dv], state_out [B, H, Dk, Dv] (f32); with dout also dq, dk, dv, dlog_decay, dstate_in, dbeta, dbonus.";

class RunLinear final : public Run {
 public:
  explicit RunLinear(CLI::App& parent) {
    CLI::App& app = add_to(parent, "linear", "Linear attention of whole tensors, sharded over ranks", run_linear_examples);
    options_.add_to(app, /*has_backward=*/true, "contiguous|zigzag|uneven:T0,T1,...");
    options_.add_nodes_to(app, "hierarchical");
    app.add_option("--kind", kind_,
                   fmt::format("{} (default: what bonus, beta and the shape of log_decay mean)", fmt::join(kind_list(), "|")));
    linear_.add_to(app, "all|");
  }

  int run(const Console& console) override {
    const RunSettings settings = options_.settings();
    const std::vector<Scan> scans = linear_.scans();
    if (!options_.nodes.empty()) linear_.require_nodes_used(options_.nodes);
    std::optional<LinearKind> kind;
    if (!kind_.empty()) kind = parse_kind(kind_);
    SafetensorsFile file(options_.input);
    const LinearTensors tensors = read(file);
    LinearSpec spec;
    spec.kind = kind ? *kind : kind_of(tensors);
    if (linear_.not_causal) require_no_order(tensors, spec.kind);
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
                      {"transport", name(settings.transport)},
                      {"wait", settings.wait_text()}},
                     settings.num_ranks, options_.wants_check());
    note_input(report, file, !options_.forward_only);
    std::optional<LinearReference> reference;
    keep_failure(report, [&] {
      for (const Scan scan : scans) {
        spec = linear_.chosen(spec, scan, settings.topology);
        if (is_refused(report, linear_.label(scan), refusal(spec), scans.size() == 1)) continue;
        report.begin(linear_.label(scan));
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
        write_once(report, linear_.label(scan),
                   {{"out", &result.out},
                    {"state_out", &result.state_out},
                    {"dq", &result.dq},
                    {"dk", &result.dk},
                    {"dv", &result.dv},
                    {"dlog_decay", &result.dlog_decay},
                    {"dstate_in", &result.dstate_in},
                    {"dbeta", &result.dbeta},
                    {"dbonus", &result.dbonus}},
                   {});
      }
    });
    return show(console, report);
  }

 private:
  [[nodiscard]] LinearTensors read(SafetensorsFile& file) const {
    LinearTensors tensors;
    read_qkv(file, tensors);
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
    return tensors;
  }

  /// The library would only say which field of its spec is wrong, and these come from the file.
  void require_no_order(const LinearTensors& tensors, LinearKind kind) const {
    const auto refuse = [&](const std::string& cause) {
      throw Error(ErrorKind::argument,
                  fmt::format("--not-causal: {} {}; a sum over a whole document has no order, want a file without", options_.input, cause));
    };
    for (const auto& [tensor, tensor_name] : {std::pair{&tensors.state_in, "state_in"}, std::pair{&tensors.dstate_out, "dstate_out"}})
      if (tensor->present()) refuse(fmt::format("has {}", tensor_name));
    if (kind != LinearKind::basic && kind_.empty())
      refuse(fmt::format("has {}, which means kind {}",
                         tensors.bonus.present()  ? "bonus"
                         : tensors.beta.present() ? "beta"
                                                  : "log_decay",
                         name(kind)));
  }

  LinearOptions linear_{"all_gather"};
  std::string kind_;
};

}  // namespace

std::unique_ptr<Subcommand> make_run_linear(CLI::App& parent) { return std::make_unique<RunLinear>(parent); }

}  // namespace seqccl::command
