// schedule.cpp - token_ring: queries go round, partial results go straight back to their owner; keys and values stay.
// SPDX-License-Identifier: Apache-2.0
#include "../common/travel.hpp"

SEQCCL_BEGIN
namespace collectives {

namespace {

RingPath query_path(SoftmaxLayer& layer) {
  return {layer.plan, [&](Rank reader, Rank owner) { return layer.query_need(reader, owner); }};
}
/// The two parts of the own block: the first and the last of my keys.
struct OwnKeys {
  Rows first, last;
  explicit OwnKeys(const SoftmaxLayer& layer) {
    const std::int64_t tokens = layer.partition.tokens_on(layer.rank), half = tokens / 2;
    first = {0, tokens - half};
    last = {tokens - half, half};
  }
};
PiecesOf pieces_of(const SoftmaxLayer& layer) {
  return [&](Rank owner, Rows rows) { return layer.partition.pieces(owner, rows); };
}

// Round t: I work on the queries of rank r + t, while those of rank r + t + 1 come in and the partial of round t - 1 goes back.
void forward(SoftmaxLayer& layer) {
  const RingPath path = query_path(layer);
  const std::int64_t largest = path.largest_arrival(), own = layer.partition.tokens_on(layer.rank);
  const OwnKeys own_keys(layer);
  const Cargo queries = {{layer.queries.q}, layer.queries.pieces};
  const State partial[2] = {layer.scratch_state(largest), layer.scratch_state(largest)};

  // On the wire a partial is f32 unless the spec asks for the element type.
  const bool narrow = layer.spec.partials_in_dtype && layer.spec.dtype != f32;
  const auto wire = [&](std::int64_t tokens) {
    return layer.plan.scratch(narrow ? layer.spec.dtype : f32, {layer.spec.batch, tokens, layer.q_heads, layer.spec.dim_v()});
  };
  Spare results;
  for (const int i : {0, 1}) results[i] = {narrow ? wire(largest) : partial[i].out, partial[i].lse};
  const Blocks returned = {wire(own), layer.scratch_f32(own, layer.q_heads, 1)};

  record_errands(
      path, pieces_of(layer), queries, sendable(layer.plan, queries), spare_like(layer.plan, queries.blocks, largest), results, returned,
      Lane::comm, Lane::comm2,
      [&](Rank owner, const Cargo& cargo, Errand errand, int slot) {
        if (errand == Errand::own_first)
          return layer.attend(layer.queries, layer.keys.part(own_keys.first), layer.state, /*fresh=*/true, owner);
        if (errand == Errand::own_last)
          return layer.attend(layer.queries, layer.keys.part(own_keys.last), layer.state, /*fresh=*/false, owner);
        const Queries from = {cargo.blocks[0], cargo.pieces};
        const State part = {partial[slot].out.tokens(0, from.q.num_tokens), partial[slot].lse.tokens(0, from.q.num_tokens)};
        layer.attend_partial(from, layer.keys, part, owner);
        if (narrow && !part.out.empty()) layer.plan.compute(Copy{part.out, results[slot][0].tokens(0, from.q.num_tokens)}, owner);
      },
      [&](Rank worker, Rows rows) {
        const Blocks back = rows_of(returned, rows), sum = rows_of(std::array{layer.state.out, layer.state.lse}, rows);
        if (!back[0].empty()) layer.plan.compute(Merge{back[0], back[1], sum[0], sum[1]}, worker);
      });
}

// The mirror: q, dout, lse, delta go round, dq partials go straight back; dk, dv are summed at home.
void backward(SoftmaxLayer& layer) {
  const RingPath path = query_path(layer);
  const std::int64_t largest = path.largest_arrival(), own = layer.partition.tokens_on(layer.rank);
  const OwnKeys own_keys(layer);
  const Cargo queries = {{layer.queries.q, layer.dout, layer.state.lse, layer.delta}, layer.queries.pieces};
  const Spare results = spare_like(layer.plan, std::array{layer.dq}, largest);
  const Blocks returned = scratch_like(layer.plan, std::array{layer.dq}, own);

  record_errands(
      path, pieces_of(layer), queries, sendable(layer.plan, queries), spare_like(layer.plan, queries.blocks, largest), results, returned,
      Lane::comm, Lane::comm2,
      [&](Rank owner, const Cargo& cargo, Errand errand, int slot) {
        const auto part = [&](Rows rows, bool fresh) {
          layer.attend_backward(layer.queries, layer.query_gradient(), layer.keys.part(rows), layer.gradients.part(rows), fresh, fresh,
                                owner);
        };
        if (errand == Errand::own_first) {
          part(own_keys.first, /*fresh=*/true);
          const KeyGradients rest = layer.gradients.part(own_keys.last);  // others add to it before my own last part comes
          if (rest.dk.empty()) return;
          layer.plan.compute(Zero{rest.dk}, owner);
          layer.plan.compute(Zero{rest.dv}, owner);
          return;
        }
        if (errand == Errand::own_last) return part(own_keys.last, /*fresh=*/false);
        const Blocks& blocks = cargo.blocks;
        layer.attend_backward({blocks[0], cargo.pieces},
                              {blocks[1], blocks[2], blocks[3], results[slot][0].tokens(0, blocks[0].num_tokens)}, layer.keys,
                              layer.gradients, /*fresh_dq=*/true, /*fresh_dkv=*/false, owner);
      },
      [&](Rank worker, Rows rows) { record_adds(layer.plan, rows_of(returned, rows), rows_of(std::array{layer.dq}, rows), worker); });
}

}  // namespace

Schedule token_ring_forward(const AttentionSpec& spec, Rank rank, const RecordOptions& options) {
  return record_softmax("token_ring forward", Pass::forward, forward, spec, rank, options);
}

Schedule token_ring_backward(const AttentionSpec& spec, Rank rank, const RecordOptions& options) {
  return record_softmax("token_ring backward", Pass::backward, backward, spec, rank, options);
}

}  // namespace collectives
SEQCCL_END
