// schedule.cpp - head_swap: a mesh whose group of heads is everybody; each rank attends to the whole sequence with its heads.
// SPDX-License-Identifier: Apache-2.0
#include "../common/softmax.hpp"

SEQCCL_BEGIN
namespace collectives {

namespace {

void forward(SoftmaxLayer& layer) { layer.attend(layer.queries, layer.keys, layer.state, /*fresh=*/true, -1); }

void backward(SoftmaxLayer& layer) {
  layer.attend_backward(layer.queries, layer.query_gradient(), layer.keys, layer.gradients, /*fresh_dq=*/true, /*fresh_dkv=*/true, -1);
}

Mesh all_heads(const AttentionSpec& spec) { return {.heads = spec.partition.num_ranks(), .outer = 1, .inner = 1}; }

}  // namespace

Schedule head_swap_forward(const AttentionSpec& spec, Rank rank, const RecordOptions& options) {
  return record_softmax("head_swap forward", Pass::forward, forward, spec, all_heads(spec), rank, options);
}

Schedule head_swap_backward(const AttentionSpec& spec, Rank rank, const RecordOptions& options) {
  return record_softmax("head_swap backward", Pass::backward, backward, spec, all_heads(spec), rank, options);
}

}  // namespace collectives
SEQCCL_END
