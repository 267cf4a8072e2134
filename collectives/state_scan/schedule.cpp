// schedule.cpp - linear attention: local work on every run, and a scan of states between them.
// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "bidirectional.hpp"
#include "layer.hpp"
#include "scan.hpp"

SEQCCL_BEGIN
namespace collectives {

namespace {

ScanRecorder::Setup setup_of(const LinearLayer& layer, const Block& initial, const Block& leaving) {
  const LinearSpec& spec = layer.spec;
  ScanRecorder::Setup setup{spec.batch, spec.heads, spec.head_dim, spec.dim_v(), spec.kind};
  if (layer.is_constant()) setup.constant = layer.log_decay;
  setup.initial = initial;
  setup.leaving = leaving;
  setup.column_blocks = spec.column_blocks;
  setup.ranks_per_node = natural_ranks_per_node(spec.ranks_per_node, spec.partition);
  return setup;
}

}  // namespace

Schedule linear_forward(const LinearSpec& spec, Rank rank, const RecordOptions& /*options*/) {
  if (!spec.causal) return bidirectional_forward(spec, rank);
  LinearLayer layer("linear forward", spec, rank);
  Recorder& plan = layer.plan;
  const bool holds_first = !layer.runs.empty() && layer.runs.front().owner == rank;
  const bool holds_last = !layer.runs.empty() && layer.runs.back().owner == rank;
  const States states = layer.states();
  const Block state_in = spec.state_in && holds_first ? plan.input(Tensor::state_in, f32, states.shape(1)) : Block{};
  const Block out = plan.output(Tensor::out, spec.dtype, layer.rows(spec.dim_v()));
  const Block entering = plan.output(Tensor::entering_state, f32, states.shape(layer.segments));
  const Block state_out = spec.state_out && holds_last ? plan.output(Tensor::state_out, f32, states.shape(1)) : Block{};
  const Block sum = layer.sums_for(out);

  ScanRecorder scan(plan, layer.runs, setup_of(layer, state_in, state_out));
  const std::vector<Run>& order = scan.order();
  for (std::size_t v = 0; v < order.size(); ++v) {
    if (!scan.mine(v) || !scan.wants_summary(v)) continue;
    const Summary summary = scan.summary(v);
    LinearSummary op{layer.of(layer.k, order[v]), layer.of(layer.v, order[v]), layer.decay_of(layer.log_decay, order[v]), summary.update};
    op.beta = layer.of(layer.beta, order[v]);
    (is_delta(spec.kind) ? op.transition : op.log_sum) = summary.transition;
    plan.compute(op, rank);
  }

  const auto outputs = [&](const Run& run, const Block& state) {  // of a run that `state` enters
    LinearLocal op;
    op.q = layer.of(layer.q, run);
    op.k = layer.of(layer.k, run);
    op.v = layer.of(layer.v, run);
    op.log_decay = layer.decay_of(layer.log_decay, run);
    op.out = layer.of(sum, run);
    op.scale = spec.scale;
    op.beta = layer.of(layer.beta, run);
    op.bonus = layer.bonus;
    op.state = state;
    plan.compute(op, rank);
  };
  const bool is_split = !is_delta(spec.kind);  // what the entering state adds can be added later
  const auto local_work = [&] {
    for (std::size_t v = 0; v < order.size(); ++v)
      if (scan.mine(v) && is_split) outputs(order[v], {});
  };
  scan.record(spec.scan, local_work, [&](std::size_t v, const Block& state) {
    const Run& run = order[v];
    const Block kept = run.opens_segment ? entering.tokens(run.segment, 1) : Block{};  // else it opens a document: zero
    if (!state.present()) {
      if (kept.present()) plan.compute(Zero{kept}, rank);
      if (!is_split) outputs(run, {});
      return;
    }
    plan.compute(Copy{state, kept}, rank);
    if (!is_split) return outputs(run, kept);
    LinearEnter op{layer.of(layer.q, run), layer.decay_of(layer.log_decay, run), kept, layer.of(sum, run), spec.scale};
    op.before = layer.has_bonus();
    plan.compute(op, rank);
  });
  layer.copy_out(sum, out);
  return std::move(plan).finish(spec.describe());
}

// The gradient of the state runs the other way with transposed transitions: the same scan over reversed runs.
Schedule linear_backward(const LinearSpec& spec, Rank rank, const RecordOptions& /*options*/) {
  if (!spec.causal) return bidirectional_backward(spec, rank);
  LinearLayer layer("linear backward", spec, rank);
  Recorder& plan = layer.plan;
  const bool holds_first = !layer.runs.empty() && layer.runs.front().owner == rank;
  const bool holds_last = !layer.runs.empty() && layer.runs.back().owner == rank;
  const States states = layer.states();
  const Block dout = plan.input(Tensor::dout, spec.dtype, layer.rows(spec.dim_v()));
  const Block entering = plan.input(Tensor::entering_state, f32, states.shape(layer.segments));
  const Block dstate_out = spec.state_out && holds_last ? plan.input(Tensor::dstate_out, f32, states.shape(1)) : Block{};
  const Block dq = plan.output(Tensor::dq, spec.dtype, layer.rows(spec.head_dim));
  const Block dk = plan.output(Tensor::dk, spec.dtype, layer.rows(spec.head_dim));
  const Block dv = plan.output(Tensor::dv, spec.dtype, layer.rows(spec.dim_v()));
  const Block dstate_in = spec.state_in && holds_first ? plan.output(Tensor::dstate_in, f32, states.shape(1)) : Block{};
  const Block dlog_decay = layer.has_decay() ? plan.output(Tensor::dlog_decay, f32, layer.decay_shape()) : Block{};
  const Block dbeta = is_delta(spec.kind) ? plan.output(Tensor::dbeta, f32, layer.rows(1)) : Block{};
  const Block dbonus = layer.has_bonus() ? plan.output(Tensor::dbonus, f32, layer.bonus_shape()) : Block{};

  ScanRecorder scan(plan, reversed(layer.runs), setup_of(layer, dstate_out, dstate_in));
  const std::vector<Run>& order = scan.order();
  for (std::size_t v = 0; v < order.size(); ++v) {
    if (!scan.mine(v) || !scan.wants_summary(v)) continue;
    const Summary summary = scan.summary(v);
    LinearSummaryBackward op{layer.of(layer.q, order[v]), layer.of(dout, order[v]), layer.decay_of(layer.log_decay, order[v]),
                             summary.update};
    op.scale = spec.scale;
    op.before = layer.has_bonus();
    if (is_delta(spec.kind)) {
      op.k = layer.of(layer.k, order[v]);
      op.beta = layer.of(layer.beta, order[v]);
      op.transition = summary.transition;
    } else {
      op.log_sum = summary.transition;
    }
    plan.compute(op, rank);
  }

  // Shares of gradients that all tokens have a part in: a rank without tokens has none.
  if (layer.is_constant() && layer.segments == 0) plan.compute(Zero{dlog_decay}, rank);
  if (layer.has_bonus() && layer.segments == 0) plan.compute(Zero{dbonus}, rank);
  bool is_first = true;
  scan.record(
      spec.scan, [] {},
      [&](std::size_t v, const Block& state) {
        const Run& run = order[v];
        const bool is_entered = run.first == 0 ? spec.state_in : !run.closes_document;  // it closes where forward opens
        LinearBackward op;
        op.q = layer.of(layer.q, run);
        op.k = layer.of(layer.k, run);
        op.v = layer.of(layer.v, run);
        op.log_decay = layer.decay_of(layer.log_decay, run);
        op.beta = layer.of(layer.beta, run);
        op.bonus = layer.bonus;
        op.dout = layer.of(dout, run);
        if (is_entered) op.state = entering.tokens(run.segment, 1);
        op.dleaving = state;
        op.dq = layer.of(dq, run);
        op.dk = layer.of(dk, run);
        op.dv = layer.of(dv, run);
        op.dlog_decay = layer.decay_of(dlog_decay, run);
        op.dbeta = layer.of(dbeta, run);
        op.dbonus = dbonus;
        op.scale = spec.scale;
        op.add_constant = !is_first && (layer.is_constant() || layer.has_bonus());
        is_first = false;
        plan.compute(op, rank);
      });
  return std::move(plan).finish(spec.describe());
}

}  // namespace collectives
SEQCCL_END
