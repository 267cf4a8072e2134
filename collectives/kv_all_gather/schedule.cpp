// schedule.cpp - kv_all_gather: every rank gets exactly the keys that its mask lets it see, and attends once.
// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "gather.hpp"

SEQCCL_BEGIN
namespace collectives {

Schedule kv_all_gather_forward(const AttentionSpec& spec, Rank rank, const RecordOptions& options) {
  SoftmaxLayer layer("kv_all_gather forward", SoftmaxLayer::Pass::forward, spec, rank, options);
  Gather gather(layer.plan, spec.partition, layer.mask, spec.batch, options.native_collectives);
  const Keys remote = gather.gather(layer.keys);
  layer.attend(layer.queries, layer.keys, layer.state, /*fresh=*/true, rank);  // while the others' keys come in
  for (const Keys& keys : gather.parts(remote)) layer.attend(layer.queries, keys, layer.state, false, -1);
  return std::move(layer).finish();
}

Schedule kv_all_gather_backward(const AttentionSpec& spec, Rank rank, const RecordOptions& options) {
  SoftmaxLayer layer("kv_all_gather backward", SoftmaxLayer::Pass::backward, spec, rank, options);
  Gather gather(layer.plan, spec.partition, layer.mask, spec.batch, options.native_collectives);
  const SoftmaxLayer::QueryGradient with = {layer.dout, layer.state.lse, layer.delta, layer.dq};
  const Keys remote = gather.gather(layer.keys);
  const KeyGradients sums = layer.scratch_gradients(gather.num_rows(), spec.num_kv_heads());
  layer.attend_backward(layer.queries, with, layer.keys, layer.gradients, layer.heads, true, true, rank);
  for (const Keys& keys : gather.parts(remote))
    layer.attend_backward(layer.queries, with, keys, sums.part({keys.k.token_first, keys.k.num_tokens}), layer.heads, false, true, -1);
  gather.reduce(sums, layer.gradients);
  return std::move(layer).finish();
}

}  // namespace collectives
SEQCCL_END
