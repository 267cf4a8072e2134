// attend_combine.cuh - merges the parts of attention whose keys were cut, in order, into (out, lse).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "attend_rows.cuh"

SEQCCL_BEGIN
namespace cuda {

/// A warp per row (b, t, h). The largest lse of parts, sink and running state first, then one sum over all of them:
///
///     m = max lse_n    z = m + log(sum e^(lse_n - m))    out = sum e^(lse_n - z) out_n
__global__ void __launch_bounds__(128) attend_combine(const __grid_constant__ AttendProblem p) {
  const std::int64_t num_rows = std::int64_t{p.batch} * p.num_queries * p.q_heads;
  const std::int64_t row = std::int64_t{blockIdx.x} * 4 + threadIdx.x / 32;
  if (row >= num_rows) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const auto head = static_cast<std::int32_t>(row % p.q_heads);
  const std::int64_t token = row / p.q_heads % p.num_queries, batch = row / p.q_heads / p.num_queries;
  float* const out = p.out.at(batch, token, head);
  float* const lse = p.lse.at(batch, token, head);
  const float before = p.fresh ? -INFINITY : *lse;
  const float sink = p.fresh && p.sinks != nullptr ? p.sinks[head * p.sinks_stride] : -INFINITY;
  float high = fmaxf(before, sink);
  for (int part = 0; part < p.num_parts; ++part) high = fmaxf(high, p.part_lse[part * num_rows + row]);
  const float base = high == -INFINITY ? 0.0F : high;
  // NaN: fmaxf leaves it out, the sum does not.
  float total = expf(before - base) + expf(sink - base);
  for (int part = 0; part < p.num_parts; ++part) total += expf(p.part_lse[part * num_rows + row] - base);
  const float inverse = total == 0 ? 0.0F : 1 / total;
  const float keep = before == -INFINITY ? 0.0F : expf(before - base) * inverse;
  __syncwarp();  // all lanes have read lse
  for (int column = lane; column < p.dv; column += 32) {
    float sum = keep != 0 ? keep * out[column] : 0.0F;
    for (int part = 0; part < p.num_parts; ++part) {
      const float weight = expf(p.part_lse[part * num_rows + row] - base) * inverse;
      if (weight != 0) sum += weight * p.part_out[(part * num_rows + row) * p.dv + column];
    }
    if (p.fresh || total != 0) out[column] = sum;
  }
  if (lane == 0) *lse = total == 0 ? -INFINITY : base + logf(total);
}

}  // namespace cuda
SEQCCL_END
