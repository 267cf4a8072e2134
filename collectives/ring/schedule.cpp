// schedule.cpp - ring: keys and values hop towards earlier ranks, queries stay.
// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "visits.hpp"

SEQCCL_BEGIN
namespace collectives {

Schedule ring_forward(const AttentionSpec& spec, Rank rank, const RecordOptions& options) {
  SoftmaxLayer layer("ring forward", SoftmaxLayer::Pass::forward, spec, rank, options);
  const RingPath path(layer, RingPath::Travels::keys);
  record_visits(layer.plan, path, spec.partition, layer.keys,
                [&](Rank owner, const Keys& block) { layer.attend(layer.queries, block, layer.state, /*fresh=*/owner == rank, owner); });
  return std::move(layer).finish();
}

// k, v hop as in forward; their gradients follow one round behind on a lane of their own: each holder adds its part, and the
// last holder of a row sends the sum home.
Schedule ring_backward(const AttentionSpec& spec, Rank rank, const RecordOptions& options) {
  SoftmaxLayer layer("ring backward", SoftmaxLayer::Pass::backward, spec, rank, options);
  const RingPath path(layer, RingPath::Travels::keys);
  const auto num_ranks = layer.num_ranks;
  const std::int64_t largest = path.largest_arrival(), own = spec.partition.tokens_on(rank), kv_heads = spec.num_kv_heads();
  const Keys spare[2] = {layer.scratch_keys(largest, kv_heads), layer.scratch_keys(largest, kv_heads)};
  const KeyGradients sum[2] = {layer.scratch_gradients(largest, kv_heads), layer.scratch_gradients(largest, kv_heads)};
  const KeyGradients arriving = layer.scratch_gradients(largest, kv_heads), homecoming = layer.scratch_gradients(own, kv_heads);
  const Keys mine = {layer.plan.sendable(layer.keys.k), layer.plan.sendable(layer.keys.v), layer.keys.pieces};
  const SoftmaxLayer::QueryGradient with = {layer.dout, layer.state.lse, layer.delta, layer.dq};

  Keys here = mine;
  for (int t = 0; t <= num_ranks; ++t) {
    const Rank owner = layer.right(t % num_ranks);
    Keys next = spare[(t + 1) % 2];
    path.record_hop(t + 1, {here.k, here.v}, {mine.k, mine.v}, {next.k, next.v}, Lane::comm);

    const Rows rows = t < num_ranks ? path.need(rank, owner) : Rows{};
    const KeyGradients part = sum[t % 2].part({0, rows.count});
    if (t == 0)
      layer.attend_backward(layer.queries, with, layer.keys, layer.gradients, layer.heads, true, true, rank);
    else if (rows.count != 0)
      layer.attend_backward(layer.queries, with, here, part, layer.heads, false, true, owner);

    // What the ranks before me on the path have summed for this block, and what has come to its end for my own keys.
    if (t >= 2) {
      const KeyGradients& done = sum[(t - 1) % 2];
      const RingPath::Homecoming home =
          path.record_return(t, {done.dk, done.dv}, {arriving.dk, arriving.dv}, {homecoming.dk, homecoming.dv}, Lane::comm2);
      if (t < num_ranks && path.is_hop(rank, owner)) {
        layer.plan.compute(Add{arriving.dk.tokens(0, rows.count), part.dk}, owner);
        layer.plan.compute(Add{arriving.dv.tokens(0, rows.count), part.dv}, owner);
      }
      for (const Rows& ended : home.rows) {
        layer.plan.compute(Add{homecoming.part(ended).dk, layer.gradients.part(ended).dk}, rank);
        layer.plan.compute(Add{homecoming.part(ended).dv, layer.gradients.part(ended).dv}, rank);
      }
    }
    if (t + 1 >= num_ranks) continue;
    const Rows coming = path.need(rank, layer.right(t + 1));
    here = {next.k.tokens(0, coming.count), next.v.tokens(0, coming.count), layer.pieces(layer.right(t + 1), coming)};
  }
  return std::move(layer).finish();
}

}  // namespace collectives
SEQCCL_END
