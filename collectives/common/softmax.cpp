// softmax.cpp - the layer's tensors, needs, attend and merge, as every softmax method records them.
// SPDX-License-Identifier: Apache-2.0
#include "softmax.hpp"

#include <algorithm>
#include <utility>

SEQCCL_BEGIN
namespace collectives {

Keys Keys::part(Rows rows) const { return {k.tokens(rows.first, rows.count), v.tokens(rows.first, rows.count), part_of(pieces, rows)}; }

Block scratch_like(Recorder& plan, const Block& like, std::int64_t tokens) {
  const Slot slot = plan.slot(like);
  return plan.scratch(slot.dtype, {slot.batch, tokens, slot.heads, slot.dim});
}

Keys scratch_like(Recorder& plan, const Keys& like, std::int64_t tokens) {
  return {scratch_like(plan, like.k, tokens), scratch_like(plan, like.v, tokens), {}};
}

Rows hull(std::span<const Rows> rows) {
  if (rows.empty()) return {};
  return {rows.front().first, rows.back().end() - rows.front().first};
}

Rows key_need(const Partition& partition, const BoundMask& mask, Rank reader, Rank owner) {
  return hull(mask.visible_keys(partition.pieces(reader), partition.pieces(owner)));
}

std::vector<Piece> part_of(std::span<const Piece> pieces, Rows rows) {
  std::vector<Piece> result;
  for (const Piece& piece : pieces) {
    const std::int64_t first = std::max(piece.row, rows.first), end = std::min(piece.row + piece.tokens.count, rows.end());
    if (first >= end) continue;
    result.push_back({first - rows.first, {piece.tokens[first - piece.row], end - first, piece.tokens.step}});
  }
  return result;
}

SoftmaxLayer::SoftmaxLayer(const char* name, Pass pass, const AttentionSpec& layer_spec, Rank my_rank, const RecordOptions& options,
                           Direct direct)
    : spec(layer_spec),
      rank(my_rank),
      num_ranks(layer_spec.partition.num_ranks()),
      plan(name, my_rank, num_ranks),
      mask(layer_spec.mask, layer_spec.partition.num_tokens(), layer_spec.batch) {
  const std::int64_t batch = spec.batch, tokens = spec.partition.tokens_on(rank);
  const std::int64_t q_heads = spec.q_heads, kv_heads = spec.num_kv_heads(), dim = spec.head_dim, dim_v = spec.dim_v();
  heads.group = static_cast<std::int32_t>(q_heads / kv_heads);

  const bool sendable = options.inputs_sendable;
  queries = {plan.input(Tensor::q, spec.dtype, {batch, tokens, q_heads, dim}, sendable), pieces(rank)};
  keys = {plan.input(Tensor::k, spec.dtype, {batch, tokens, kv_heads, dim}, sendable),
          plan.input(Tensor::v, spec.dtype, {batch, tokens, kv_heads, dim_v}, sendable), pieces(rank)};
  if (spec.sinks) sinks = plan.input(Tensor::sinks, f32, {1, 1, q_heads, 1});

  if (pass == Pass::forward) {
    state.out = result(Tensor::out, {batch, tokens, q_heads, dim_v}, direct.queries);
    state.lse = plan.output(Tensor::lse, f32, {batch, tokens, q_heads, 1});
    return;
  }
  dout = plan.input(Tensor::dout, spec.dtype, {batch, tokens, q_heads, dim_v}, sendable);
  state.out = plan.input(Tensor::out, spec.dtype, {batch, tokens, q_heads, dim_v}, sendable);
  state.lse = plan.input(Tensor::lse, f32, {batch, tokens, q_heads, 1});
  dq = result(Tensor::dq, {batch, tokens, q_heads, dim}, direct.queries);
  gradients.dk = result(Tensor::dk, {batch, tokens, kv_heads, dim}, direct.keys);
  gradients.dv = result(Tensor::dv, {batch, tokens, kv_heads, dim_v}, direct.keys);
  delta = scratch_f32(tokens, q_heads, 1);
  plan.compute(RowDot{dout, state.out, delta});
  if (spec.sinks) plan.compute(SinkGradient{sinks, state.lse, delta, plan.output(Tensor::dsinks, f32, {1, 1, q_heads, 1})});
}

// Sums: f32 outputs in place, 16-bit ones in scratch.
Block SoftmaxLayer::result(Tensor tensor, Recorder::Shape shape, bool direct) {
  const Block to = plan.output(tensor, spec.dtype, shape);
  if (direct || spec.dtype == f32) return to;
  const Block from = plan.scratch(f32, shape);
  conversions_.push_back({from, to});
  return from;
}

Rows SoftmaxLayer::query_need(Rank reader, Rank owner) const { return hull(mask.seeing_queries(pieces(owner), pieces(reader))); }

Keys SoftmaxLayer::scratch_keys(std::int64_t tokens, std::int64_t num_heads) {
  return {plan.scratch(spec.dtype, {spec.batch, tokens, num_heads, spec.head_dim}),
          plan.scratch(spec.dtype, {spec.batch, tokens, num_heads, spec.dim_v()}),
          {}};
}

Block SoftmaxLayer::scratch_f32(std::int64_t tokens, std::int64_t num_heads, std::int64_t dim) {
  return plan.scratch(f32, {spec.batch, tokens, num_heads, dim});
}

State SoftmaxLayer::scratch_state(std::int64_t tokens, std::int64_t num_heads) {
  return {scratch_f32(tokens, num_heads, spec.dim_v()), scratch_f32(tokens, num_heads, 1)};
}

KeyGradients SoftmaxLayer::scratch_gradients(std::int64_t tokens, std::int64_t num_heads) {
  return {scratch_f32(tokens, num_heads, spec.head_dim), scratch_f32(tokens, num_heads, spec.dim_v())};
}

Attend SoftmaxLayer::attend_op(const Queries& from, const Keys& over, const State& into, const HeadMap& map, bool fresh) {
  Attend op{.q = from.q, .k = over.k, .v = over.v, .out = into.out, .lse = into.lse};
  op.slices = plan.slices(visible_);
  op.heads = map;
  op.scale = spec.scale_or_default();
  op.softcap = spec.softcap;
  op.fresh = fresh;
  return op;
}

void SoftmaxLayer::attend(const Queries& from, const Keys& over, const State& into, const HeadMap& map, bool fresh, Rank about) {
  if (from.q.empty()) return;
  visible_.clear();
  mask.between(from.pieces, over.pieces, visible_);
  if (visible_.empty() && !fresh) return;

  // A kernel of the user's that cannot add to a running state yields a fresh one, which is merged.
  if (spec.kernel && !spec.kernel.accumulates && !fresh) {
    const State part = scratch_state(from.q.num_tokens, from.q.num_heads);
    plan.compute(attend_op(from, over, part, map, true), about);
    plan.compute(Merge{part.out, part.lse, into.out, into.lse}, about);
    return;
  }
  Attend op = attend_op(from, over, into, map, fresh);
  if (fresh && spec.sinks) op.sinks = sinks.heads(map.first_q, from.q.num_heads);
  plan.compute(op, about);
}

void SoftmaxLayer::attend_partial(const Queries& from, const Keys& over, const State& into, Rank about) {
  if (from.q.empty()) return;
  visible_.clear();
  mask.between(from.pieces, over.pieces, visible_);
  plan.compute(attend_op(from, over, into, heads, true), about);
}

void SoftmaxLayer::attend_backward(const Queries& from, const QueryGradient& with, const Keys& over, const KeyGradients& into,
                                   const HeadMap& map, bool fresh_dq, bool fresh_dkv, Rank about) {
  visible_.clear();
  if (!from.q.empty() && !over.k.empty()) mask.between(from.pieces, over.pieces, visible_);
  if (visible_.empty()) {
    if (fresh_dq && !with.dq.empty()) plan.compute(Zero{with.dq}, about);
    if (fresh_dkv && !into.dk.empty()) {
      plan.compute(Zero{into.dk}, about);
      plan.compute(Zero{into.dv}, about);
    }
    return;
  }
  AttendBackward op{.q = from.q, .k = over.k, .v = over.v, .dout = with.dout, .lse = with.lse, .delta = with.delta};
  op.dq = with.dq;
  op.dk = into.dk;
  op.dv = into.dv;
  op.slices = plan.slices(visible_);
  op.heads = map;
  op.scale = spec.scale_or_default();
  op.softcap = spec.softcap;
  op.fresh_dq = fresh_dq;
  op.fresh_dkv = fresh_dkv;
  plan.compute(op, about);
}

Schedule SoftmaxLayer::finish() && {
  for (const Conversion& conversion : conversions_)
    if (!conversion.to.empty()) plan.compute(Copy{conversion.from, conversion.to});
  return std::move(plan).finish(spec.describe());
}

}  // namespace collectives
SEQCCL_END
