// linear_delta.cpp - the system of the delta rule in each chunk of a segment.
// SPDX-License-Identifier: Apache-2.0
#include "linear_delta.hpp"

SEQCCL_BEGIN
namespace cuda {

DeltaBuffers::DeltaBuffers(Scratch& scratch, const LinearSizes& s, std::int64_t num_chunks) {
  const std::int64_t items = s.num_runs() * num_chunks;
  for (float** pairs : {&gram, &inverse, &solve}) *pairs = scratch.take(items * chunk_tokens * chunk_tokens);
  w = scratch.take(items * chunk_tokens * s.key_dim);
  u = scratch.take(items * chunk_tokens * s.value_dim);
}

void prepare_delta(const LinearSegment& segment, const LinearSizes& sizes, const LinearSegment::Decays& decays, const ConstTensorView& k,
                   const ConstTensorView& beta, const DeltaBuffers& buffers) {
  const ChunkMatrix keys = segment.tokens(k), betas = segment.tokens(beta);
  segment.scores(decays, keys, {{keys, buffers.gram, true}});
  InverseProblem p;
  p.gram = buffers.gram, p.inverse = buffers.inverse, p.solve = buffers.solve;
  p.beta = static_cast<const float*>(betas.data), p.batch_stride = betas.batch, p.head_stride = betas.head, p.token_stride = betas.row;
  segment.launch(launch_inverse, p);
  segment.product({{.a = segment.pairs(buffers.solve), .b = segment.decayed(keys, decays.tables.queries)}},
                  segment.rows(buffers.w, sizes.key_dim));
}

}  // namespace cuda
SEQCCL_END
