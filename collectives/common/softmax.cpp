// softmax.cpp - the layer's tensors, needs, attend and merge, as every softmax method records them.
// SPDX-License-Identifier: Apache-2.0
#include "softmax.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

SEQCCL_BEGIN
namespace collectives {

Keys Keys::part(Rows rows) const { return {k.tokens(rows.first, rows.count), v.tokens(rows.first, rows.count), part_of(pieces, rows)}; }

Block scratch_like(Recorder& plan, const Block& like, std::int64_t tokens) {
  const Slot slot = plan.slot(like);
  return plan.scratch(slot.dtype, {slot.batch, tokens, like.num_heads, slot.dim});
}

std::vector<Rank> all_ranks(int num_ranks) {
  std::vector<Rank> ranks(num_ranks);
  std::iota(ranks.begin(), ranks.end(), 0);
  return ranks;
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

SoftmaxLayer::SoftmaxLayer(Recorder& recorder, const AttentionSpec& layer_spec, const BoundMask& bound_mask, Partition group_partition,
                           Rank group_rank, const Mesh& mesh)
    : spec(layer_spec),
      plan(recorder),
      mask(bound_mask),
      partition(std::move(group_partition)),
      rank(group_rank),
      num_ranks(partition.num_ranks()),
      outer(mesh.outer),
      inner(mesh.inner) {}

Rows SoftmaxLayer::query_need(Rank reader, Rank owner) const {
  return hull(mask.seeing_queries(partition.pieces(owner), partition.pieces(reader)));
}

std::vector<HeadGroup> SoftmaxLayer::head_groups(int count) const {
  const std::int64_t num_groups = std::clamp<std::int64_t>(count, 1, std::max<std::int64_t>(kv_heads, 1));
  std::vector<HeadGroup> groups;
  for (std::int64_t i = 0, query = 0; i < num_groups; ++i) {
    const std::int64_t first = i * kv_heads / num_groups, end = (i + 1) * kv_heads / num_groups;
    // Query heads that use a key head below `end`: (first_q + h) / group - first_kv < end.
    const std::int64_t query_end =
        i + 1 == num_groups ? q_heads : std::min<std::int64_t>(q_heads, (heads.first_kv + end) * heads.group - heads.first_q);
    groups.push_back({{query, query_end - query}, {first, end - first}});
    query = query_end;
  }
  return groups;
}

HeadMap SoftmaxLayer::map_of(const HeadGroup& group) const {
  return {heads.first_q + static_cast<std::int32_t>(group.queries.first), heads.first_kv + static_cast<std::int32_t>(group.keys.first),
          heads.group};
}

Block SoftmaxLayer::scratch_f32(std::int64_t tokens, std::int64_t num_heads, std::int64_t dim) {
  return plan.scratch(f32, {spec.batch, tokens, num_heads, dim});
}

State SoftmaxLayer::scratch_state(std::int64_t tokens) {
  return {scratch_f32(tokens, q_heads, spec.dim_v()), scratch_f32(tokens, q_heads, 1)};
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
    const State part = {scratch_f32(from.q.num_tokens, from.q.num_heads, spec.dim_v()),
                        scratch_f32(from.q.num_tokens, from.q.num_heads, 1)};
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

}  // namespace collectives
SEQCCL_END
