// schedule.cpp - token_ring: queries hop towards earlier ranks, partial results go straight back; keys and values stay.
// SPDX-License-Identifier: Apache-2.0
#include "../common/ring_path.hpp"

SEQCCL_BEGIN
namespace collectives {

// Round t: I work on the queries of rank r + t, while those of rank r + t + 1 come in and the partial of round t - 1 goes back.
Schedule token_ring_forward(const AttentionSpec& spec, Rank rank, const RecordOptions& options) {
  SoftmaxLayer layer("token_ring forward", SoftmaxLayer::Pass::forward, spec, rank, options);
  const RingPath path(layer, RingPath::Travels::queries);
  const auto num_ranks = layer.num_ranks;
  const std::int64_t largest = path.largest_arrival(), own = spec.partition.tokens_on(rank), heads = spec.q_heads;
  const auto scratch_queries = [&] { return layer.plan.scratch(spec.dtype, {spec.batch, largest, heads, spec.head_dim}); };
  const Block spare[2] = {scratch_queries(), scratch_queries()};
  const State partial[2] = {layer.scratch_state(largest, heads), layer.scratch_state(largest, heads)};
  const Block mine = layer.plan.sendable(layer.queries.q);

  // On the wire a partial is f32 unless the spec asks for the element type.
  const bool narrow = spec.partials_in_dtype && spec.dtype != f32;
  const auto wire = [&](std::int64_t tokens) {
    return layer.plan.scratch(narrow ? spec.dtype : f32, {spec.batch, tokens, heads, spec.dim_v()});
  };
  const Block narrowed[2] = {narrow ? wire(largest) : partial[0].out, narrow ? wire(largest) : partial[1].out};
  const State returned = {wire(own), layer.scratch_f32(own, heads, 1)};

  Queries here{mine, layer.queries.pieces};
  for (int t = 0; t <= num_ranks; ++t) {
    const Block& next = spare[(t + 1) % 2];
    path.record_hop(t + 1, {here.q}, {mine}, {next}, Lane::comm);

    const Rank owner = layer.right(t % num_ranks);
    if (t == 0) {
      layer.attend(layer.queries, layer.keys, layer.state, /*fresh=*/true, rank);
    } else if (const Rows rows = t < num_ranks ? path.need(rank, owner) : Rows{}; rows.count != 0) {
      const State part = {partial[t % 2].out.tokens(0, rows.count), partial[t % 2].lse.tokens(0, rows.count)};
      layer.attend_partial(here, layer.keys, part, owner);
      if (narrow) layer.plan.compute(Copy{part.out, narrowed[t % 2].tokens(0, rows.count)}, owner);
    }
    if (t >= 2) {
      const Rows back =
          path.record_straight_return(t, {narrowed[(t - 1) % 2], partial[(t - 1) % 2].lse}, {returned.out, returned.lse}, Lane::comm2);
      const auto rows_of = [&](const Block& block) { return block.tokens(back.first, back.count); };
      if (back.count != 0)
        layer.plan.compute(Merge{rows_of(returned.out), rows_of(returned.lse), rows_of(layer.state.out), rows_of(layer.state.lse)},
                           layer.left(t - 1));
    }
    if (t + 1 >= num_ranks) continue;
    const Rank coming = layer.right(t + 1);
    const Rows rows = path.need(rank, coming);
    here = {next.tokens(0, rows.count), layer.pieces(coming, rows)};
  }
  return std::move(layer).finish();
}

}  // namespace collectives
SEQCCL_END
