// schedule.cpp - ring: keys and values go round, queries stay; burst: in the backward pass queries go round, keys stay.
// SPDX-License-Identifier: Apache-2.0
#include <tuple>

#include "../common/rings.hpp"

SEQCCL_BEGIN
namespace collectives {

namespace {

void forward(SoftmaxLayer& layer) {
  const Rings rings(layer, [&](Rank reader, Rank owner) { return layer.key_need(reader, owner); });
  rings.visit({{layer.keys.k, layer.keys.v}, layer.keys.pieces}, [&](Rank owner, const Cargo& cargo) {
    layer.attend(layer.queries, {cargo.blocks[0], cargo.blocks[1], cargo.pieces}, layer.state, /*fresh=*/owner == layer.rank, owner);
  });
}

// k, v as in forward; dk, dv follow them one round behind.
void backward_with_keys(SoftmaxLayer& layer) {
  const Rings rings(layer, [&](Rank reader, Rank owner) { return layer.key_need(reader, owner); });
  rings.round_trip({{layer.keys.k, layer.keys.v}, layer.keys.pieces}, {layer.gradients.dk, layer.gradients.dv},
                   [&](Rank owner, const Cargo& cargo, const Blocks& sums) {
                     const Keys keys = {cargo.blocks[0], cargo.blocks[1], cargo.pieces};
                     layer.attend_backward(layer.queries, layer.query_gradient(), keys, {sums[0], sums[1]},
                                           /*fresh_dq=*/owner == layer.rank, /*fresh_dkv=*/true, owner);
                   });
}

// The mirror: q, dout, lse, delta go round, dq follows; dk, dv are summed at home.
void backward_with_queries(SoftmaxLayer& layer) {
  const Rings rings(layer, [&](Rank reader, Rank owner) { return layer.query_need(reader, owner); });
  rings.round_trip({{layer.queries.q, layer.dout, layer.state.lse, layer.delta}, layer.queries.pieces}, {layer.dq},
                   [&](Rank owner, const Cargo& cargo, const Blocks& sums) {
                     const auto& [q, dout, lse, delta] = std::tie(cargo.blocks[0], cargo.blocks[1], cargo.blocks[2], cargo.blocks[3]);
                     layer.attend_backward({q, cargo.pieces}, {dout, lse, delta, sums[0]}, layer.keys, layer.gradients,
                                           /*fresh_dq=*/true, /*fresh_dkv=*/owner == layer.rank, owner);
                   });
}

}  // namespace

Schedule ring_forward(const AttentionSpec& spec, Rank rank, const RecordOptions& options) {
  return record_softmax("ring forward", Pass::forward, forward, spec, rank, options);
}

Schedule ring_backward(const AttentionSpec& spec, Rank rank, const RecordOptions& options) {
  const Body body = spec.backward == Backward::burst ? backward_with_queries : backward_with_keys;
  return record_softmax("ring backward", Pass::backward, body, spec, rank, options);
}

}  // namespace collectives
SEQCCL_END
