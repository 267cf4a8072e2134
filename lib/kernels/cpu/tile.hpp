// tile.hpp - the few SIMD primitives that all CPU kernels are made of; picked at run time for this machine's instruction set.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "seqccl/version.hpp"

SEQCCL_BEGIN
namespace cpu {

/// Everything is f32. Row strides are in elements. No alignment is asked for, no byte beyond the named extents is touched.
struct TileOps {
  /// C (m, n) = A (m, k) B (k, n), or += with `accumulate`. A is read as a[i * a_row + x * a_col], so A may be a transpose;
  /// rows of B and C are contiguous.
  void (*gemm)(std::int64_t m, std::int64_t n, std::int64_t k, const float* a, std::int64_t a_row, std::int64_t a_col, const float* b,
               std::int64_t b_row, float* c, std::int64_t c_row, bool accumulate);
  /// x[i] = exp(x[i] - shift) for i < n; returns their sum. exp(-inf) = 0; NaN stays NaN. Relative error below 1e-6.
  float (*exp_sum)(float* x, std::int64_t n, float shift);
  /// y[i] = exp(x[i]).
  void (*exp)(const float* x, float* y, std::int64_t n);
  /// Largest of x (NaN if one is NaN), -inf if n = 0.
  float (*max)(const float* x, std::int64_t n);
  float (*dot)(const float* x, const float* y, std::int64_t n);
  /// y = a x + y
  void (*axpy)(float a, const float* x, float* y, std::int64_t n);
  /// x *= a
  void (*scale)(float a, float* x, std::int64_t n);
  const char* name;  // of the instruction set
};

/// The table for this machine (chosen once, thread safe).
[[nodiscard]] const TileOps& tile();

}  // namespace cpu
SEQCCL_END
