// schedule.cpp - linear attention: local work on every run, and a scan of states between them.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <utility>

#include "scan.hpp"

SEQCCL_BEGIN
namespace collectives {

namespace {

/// The layer's tensors on one rank.
struct LinearLayer {
  const LinearSpec& spec;
  Recorder plan;
  std::int64_t tokens, runs;
  Block q, k, v, log_decay;

  LinearLayer(const char* name, const LinearSpec& layer_spec, Rank rank)
      : spec(layer_spec),
        plan(name, rank, layer_spec.partition.num_ranks()),
        tokens(layer_spec.partition.tokens_on(rank)),
        runs(static_cast<std::int64_t>(layer_spec.partition.segments(rank).size())) {
    // Only states travel: these are never sent, so they may have any strides.
    q = plan.input(Tensor::q, spec.dtype, {spec.batch, tokens, spec.heads, spec.head_dim});
    k = plan.input(Tensor::k, spec.dtype, {spec.batch, tokens, spec.heads, spec.head_dim});
    v = plan.input(Tensor::v, spec.dtype, {spec.batch, tokens, spec.heads, spec.dim_v()});
    if (spec.kind != LinearKind::basic) log_decay = plan.input(Tensor::log_decay, f32, decay_shape());
  }

  [[nodiscard]] Recorder::Shape decay_shape() const {
    if (spec.kind == LinearKind::constant_decay) return {1, 1, spec.heads, 1};
    return {spec.batch, tokens, spec.heads, spec.kind == LinearKind::vector_gate ? spec.head_dim : 1};
  }
  [[nodiscard]] bool constant() const { return spec.kind == LinearKind::constant_decay; }
  [[nodiscard]] Block decay_of(const Run& run) const {
    return constant() || !log_decay.present() ? log_decay : log_decay.tokens(run.local, run.count);
  }
  [[nodiscard]] Recorder::Shape states(std::int64_t count) const { return {spec.batch, count, spec.heads, spec.head_dim * spec.dim_v()}; }
  [[nodiscard]] static Block rows(const Block& block, const Run& run) { return block.tokens(run.local, run.count); }

  [[nodiscard]] ScanRecorder::Setup scan_setup(const Block& initial) const {
    ScanRecorder::Setup setup{spec.batch, spec.heads, spec.head_dim * spec.dim_v(), 0, {}, initial};
    if (spec.kind == LinearKind::scalar_gate) setup.log_sum_size = 1;
    if (spec.kind == LinearKind::vector_gate) setup.log_sum_size = spec.head_dim;
    if (constant()) setup.constant = log_decay;
    return setup;
  }
};

}  // namespace

Schedule linear_forward(const LinearSpec& spec, Rank rank, const RecordOptions& /*options*/) {
  LinearLayer layer("linear forward", spec, rank);
  Recorder& plan = layer.plan;
  std::vector<Run> runs = runs_of(spec.partition);
  const bool holds_first = !runs.empty() && runs.front().owner == rank, holds_last = !runs.empty() && runs.back().owner == rank;
  const Block state_in = spec.state_in && holds_first ? plan.input(Tensor::state_in, f32, layer.states(1)) : Block{};
  const Block out = plan.output(Tensor::out, spec.dtype, {spec.batch, layer.tokens, spec.heads, spec.dim_v()});
  const Block entering = plan.output(Tensor::entering_state, f32, layer.states(layer.runs));
  const Block state_out = spec.state_out && holds_last ? plan.output(Tensor::state_out, f32, layer.states(1)) : Block{};
  const Block sum = spec.dtype == f32 ? out : plan.scratch(f32, {spec.batch, layer.tokens, spec.heads, spec.dim_v()});

  ScanRecorder scan(plan, std::move(runs), layer.scan_setup(state_in));
  const auto& order = scan.order();
  for (std::size_t v = 0; v < order.size(); ++v) {
    if (!scan.mine(v)) continue;
    const Run& run = order[v];
    const Summary summary = scan.summary(v);
    plan.compute(LinearSummary{layer.rows(layer.k, run), layer.rows(layer.v, run), layer.decay_of(run), summary.update, summary.log_sum},
                 rank);
  }
  scan.exchange(spec.scan);
  for (std::size_t v = 0; v < order.size(); ++v) {  // while the summaries travel
    if (!scan.mine(v)) continue;
    const Run& run = order[v];
    plan.compute(LinearLocal{layer.rows(layer.q, run), layer.rows(layer.k, run), layer.rows(layer.v, run), layer.decay_of(run),
                             layer.rows(sum, run), spec.scale},
                 rank);
  }
  scan.finish(
      spec.scan,
      [&](std::size_t v, const Block& state) {
        const Run& run = order[v];
        const Block kept = entering.tokens(run.index, 1);
        if (!state.present()) return plan.compute(Zero{kept}, rank);
        plan.compute(Copy{state, kept}, rank);
        plan.compute(LinearEnter{layer.rows(layer.q, run), layer.decay_of(run), kept, layer.rows(sum, run), spec.scale}, rank);
      },
      state_out);
  if (spec.dtype != f32 && !out.empty()) plan.compute(Copy{sum, out});
  return std::move(plan).finish(spec.describe());
}

// The gradient of the state runs the other way with the same (diagonal) transitions: the same scan over reversed runs.
Schedule linear_backward(const LinearSpec& spec, Rank rank, const RecordOptions& /*options*/) {
  LinearLayer layer("linear backward", spec, rank);
  Recorder& plan = layer.plan;
  std::vector<Run> reversed = runs_of(spec.partition);
  std::reverse(reversed.begin(), reversed.end());
  const bool holds_first = !reversed.empty() && reversed.back().owner == rank,
             holds_last = !reversed.empty() && reversed.front().owner == rank;
  const Block dout = plan.input(Tensor::dout, spec.dtype, {spec.batch, layer.tokens, spec.heads, spec.dim_v()});
  const Block entering = plan.input(Tensor::entering_state, f32, layer.states(layer.runs));
  const Block dstate_out = spec.state_out && holds_last ? plan.input(Tensor::dstate_out, f32, layer.states(1)) : Block{};
  const Block dq = plan.output(Tensor::dq, spec.dtype, {spec.batch, layer.tokens, spec.heads, spec.head_dim});
  const Block dk = plan.output(Tensor::dk, spec.dtype, {spec.batch, layer.tokens, spec.heads, spec.head_dim});
  const Block dv = plan.output(Tensor::dv, spec.dtype, {spec.batch, layer.tokens, spec.heads, spec.dim_v()});
  const Block dstate_in = spec.state_in && holds_first ? plan.output(Tensor::dstate_in, f32, layer.states(1)) : Block{};
  const Block dlog_decay = spec.kind == LinearKind::basic ? Block{} : plan.output(Tensor::dlog_decay, f32, layer.decay_shape());

  ScanRecorder scan(plan, std::move(reversed), layer.scan_setup(dstate_out));
  const auto& order = scan.order();
  for (std::size_t v = 0; v < order.size(); ++v) {
    if (!scan.mine(v)) continue;
    const Run& run = order[v];
    const Summary summary = scan.summary(v);
    LinearSummaryBackward op{layer.rows(layer.q, run), layer.rows(dout, run), layer.decay_of(run), summary.update, summary.log_sum};
    op.scale = spec.scale;
    plan.compute(op, rank);
  }
  scan.exchange(spec.scan);

  if (layer.constant() && layer.runs == 0) plan.compute(Zero{dlog_decay});
  bool first = true;
  scan.finish(
      spec.scan,
      [&](std::size_t v, const Block& state) {
        const Run& run = order[v];
        LinearBackward op;
        op.q = layer.rows(layer.q, run);
        op.k = layer.rows(layer.k, run);
        op.v = layer.rows(layer.v, run);
        op.log_decay = layer.decay_of(run);
        op.dout = layer.rows(dout, run);
        op.state = entering.tokens(run.index, 1);
        op.dleaving = state;
        op.dq = layer.rows(dq, run);
        op.dk = layer.rows(dk, run);
        op.dv = layer.rows(dv, run);
        op.dlog_decay = layer.constant() || !dlog_decay.present() ? dlog_decay : layer.rows(dlog_decay, run);
        op.scale = spec.scale;
        op.add_constant = layer.constant() && !first;
        first = false;
        plan.compute(op, rank);
      },
      dstate_in);
  return std::move(plan).finish(spec.describe());
}

}  // namespace collectives
SEQCCL_END
