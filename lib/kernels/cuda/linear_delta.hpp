// linear_delta.hpp - the system of the delta rule in each chunk of a segment, solved ahead of the states.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "linear_segment.hpp"

SEQCCL_BEGIN
namespace cuda {

/// With S entering a chunk, k~_t = exp(g_t) k_t, G_ti = sum_d k_td k_id r(t,i)_d below the diagonal and N = (I + diag(beta) G)^-1
///
///     u = N diag(beta) (v - K~ S) = U - W S,    U = N diag(beta) v,    W = N diag(beta) K~
///
/// N is made by substitution, so 64 equal keys do no harm; U and W need no state, so only W S is left for the way from chunk to chunk.
struct DeltaBuffers {
  DeltaBuffers(Scratch& scratch, const LinearSizes& sizes, std::int64_t num_chunks);
  float *gram, *inverse, *solve;  // (items, C, C) G, N, N diag(beta)
  float* w;                       // (items, C, Dk)
  float* u;                       // (items, C, Dv)
};

/// Makes all but u, which is only room.
void prepare_delta(const LinearSegment& segment, const LinearSizes& sizes, const LinearSegment::Decays& decays, const ConstTensorView& k,
                   const ConstTensorView& beta, const DeltaBuffers& buffers);

}  // namespace cuda
SEQCCL_END
