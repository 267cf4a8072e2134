// schedule.cpp - kv_all_gather: every rank gets exactly the keys that its mask lets it see, and attends once per group of heads.
// SPDX-License-Identifier: Apache-2.0
#include "gather.hpp"

SEQCCL_BEGIN
namespace collectives {

namespace {

Gather gather_of(SoftmaxLayer& layer) { return {layer.plan, layer.partition, layer.mask, layer.spec.batch, layer.native_collectives}; }

/// All groups of heads on their way, one exchange after the other: the next travels while one is attended to.
std::vector<Keys> gathered(SoftmaxLayer& layer, Gather& gather, const std::vector<HeadGroup>& groups) {
  std::vector<Keys> result;
  for (const HeadGroup& group : groups)
    result.push_back(gather.gather({group.of_keys(layer.keys.k), group.of_keys(layer.keys.v), layer.keys.pieces}));
  return result;
}

void forward(SoftmaxLayer& layer) {
  Gather gather = gather_of(layer);
  const std::vector<HeadGroup> groups = layer.head_groups(layer.num_head_groups);
  const std::vector<Keys> remote = gathered(layer, gather, groups);
  layer.attend(layer.queries, layer.keys, layer.state, /*fresh=*/true, layer.rank);  // while the first comes in
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const Queries queries = {groups[i].of_queries(layer.queries.q), layer.queries.pieces};
    const State state = {groups[i].of_queries(layer.state.out), groups[i].of_queries(layer.state.lse)};
    for (const Keys& keys : gather.parts(remote[i])) layer.attend(queries, keys, state, layer.map_of(groups[i]), false, -1);
  }
}

// The gradients of one group go back while the next is worked on, and are added only then: the compute lane keeps its order.
void backward(SoftmaxLayer& layer) {
  Gather gather = gather_of(layer);
  const std::vector<HeadGroup> groups = layer.head_groups(layer.num_head_groups);
  const std::vector<Keys> remote = gathered(layer, gather, groups);
  layer.attend_backward(layer.queries, layer.query_gradient(), layer.keys, layer.gradients, true, true, layer.rank);
  KeyGradients arriving;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const HeadGroup& group = groups[i];
    const SoftmaxLayer::QueryGradient with = {group.of_queries(layer.dout), group.of_queries(layer.state.lse),
                                              group.of_queries(layer.delta), group.of_queries(layer.dq)};
    const KeyGradients sums = layer.scratch_gradients(gather.num_rows(), group.keys.count);
    for (const Keys& keys : gather.parts(remote[i]))
      layer.attend_backward({group.of_queries(layer.queries.q), layer.queries.pieces}, with, keys,
                            sums.part({keys.k.token_first, keys.k.num_tokens}), layer.map_of(group), false, true, -1);
    if (i > 0) gather.add(arriving, groups[i - 1].of(layer.gradients));
    arriving = gather.send_home(sums);
  }
  if (!groups.empty()) gather.add(arriving, groups.back().of(layer.gradients));
}

}  // namespace

Schedule kv_all_gather_forward(const AttentionSpec& spec, Rank rank, const RecordOptions& options) {
  return record_softmax("kv_all_gather forward", Pass::forward, forward, spec, rank, options);
}

Schedule kv_all_gather_backward(const AttentionSpec& spec, Rank rank, const RecordOptions& options) {
  return record_softmax("kv_all_gather backward", Pass::backward, backward, spec, rank, options);
}

}  // namespace collectives
SEQCCL_END
