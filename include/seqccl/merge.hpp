// merge.hpp - the one rule that joins two partial results of softmax attention, host and device.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <limits>

#include "seqccl/version.hpp"

#if defined(__CUDACC__)
#define SEQCCL_HOST_DEVICE __host__ __device__
#else
#define SEQCCL_HOST_DEVICE
#endif

SEQCCL_BEGIN

/// Merge of (out_a, lse_a) and (out_b, lse_b)
///
///     m = max(lse_a, lse_b)    z = m + log(e^(lse_a - m) + e^(lse_b - m))
///     out = e^(lse_a - z) out_a + e^(lse_b - z) out_b,   lse = z                  natural logarithms
///
/// Identity (0, -inf), exact; commutative, exact; associative up to rounding; not idempotent. Two empty partials give an
/// empty one: -inf minus -inf never happens. NaN stays NaN. Source: Milakov, Gimelshein, arXiv:1805.02867.
struct MergeWeights {
  float a, b;  ///< factors of out_a, out_b
  float lse;
};

[[nodiscard]] SEQCCL_HOST_DEVICE inline MergeWeights merge_weights(float lse_a, float lse_b) {
  const float infinity = std::numeric_limits<float>::infinity();
  if (lse_b == -infinity) return {1, 0, lse_a};
  if (lse_a == -infinity) return {0, 1, lse_b};
  const float high = lse_a > lse_b ? lse_a : lse_b;
  const float a = std::exp(lse_a - high), b = std::exp(lse_b - high);
  const float sum = a + b;
  return {a / sum, b / sum, high + std::log(sum)};
}

SEQCCL_END
