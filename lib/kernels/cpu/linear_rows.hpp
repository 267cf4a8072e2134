// linear_rows.hpp - SIMD passes over rows of tokens: what the linear kinds do between their matrix products.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "seqccl/version.hpp"

SEQCCL_BEGIN
namespace cpu::linear {

/// A block of token rows in scratch: aligned to cache lines, rows an odd number of them apart, filled up to whole vectors with numbers
/// that may be computed with. `row` 0: one row for all.
struct Rows {
  const float* data;
  std::int64_t row;
  [[nodiscard]] Rows operator+(std::int64_t rows) const noexcept { return {data + rows * row, row}; }
};
struct RowsOut {
  float* data;
  std::int64_t row;
  [[nodiscard]] RowsOut operator+(std::int64_t rows) const noexcept { return {data + rows * row, row}; }
  operator Rows() const noexcept { return {data, row}; }  // NOLINT: as float* is a const float*
};

/// Everything is f32 but the sums of `decay_gradient`. `count` rows of `width` numbers, rounded up to whole vectors.
struct RowOps {
  /// y = a x
  void (*multiply)(std::int64_t count, std::int64_t width, Rows a, Rows x, RowsOut y);
  /// y = (a b) x
  void (*multiply_twice)(std::int64_t count, std::int64_t width, Rows a, Rows b, Rows x, RowsOut y);
  /// y += a x
  void (*multiply_add)(std::int64_t count, std::int64_t width, Rows a, Rows x, RowsOut y);
  /// y = a x + b y
  void (*combine)(std::int64_t count, std::int64_t width, float a, Rows x, float b, RowsOut y);
  /// y_t = factor_t x_t
  void (*scale)(std::int64_t count, std::int64_t width, const float* factor, Rows x, RowsOut y);
  /// y_t += factor_t x_t
  void (*scale_add)(std::int64_t count, std::int64_t width, const float* factor, Rows x, RowsOut y);
  /// to_t = x_t . y_t over exactly `width` numbers
  void (*dots)(std::int64_t count, std::int64_t width, Rows x, Rows y, float* to);

  /// One block of a vector gate: prefix_t = alpha_0 ... alpha_t, suffix_i = alpha_(i+1) ... alpha_(count - 1), log_total = sum of logs.
  void (*gate_block)(std::int64_t count, std::int64_t width, Rows logs, Rows alpha, RowsOut prefix, RowsOut suffix, float* log_total);
  /// pairs_ti = sum_d q_td k_id alpha_(i+1)d ... alpha_td for i <= t, over exactly `width` numbers. At most 16 rows.
  void (*pair_scores)(std::int64_t count, std::int64_t width, Rows q, Rows k, Rows alpha, RowsOut pairs);
  /// y_t += sum_(i<=t) pairs_ti alpha_(i+1) ... alpha_t x_i.
  void (*pair_rows)(std::int64_t count, std::int64_t width, Rows pairs, Rows x, Rows alpha, RowsOut y);
  /// y_i += sum_(t>=i) pairs_ti alpha_(i+1) ... alpha_t x_t.
  void (*pair_columns)(std::int64_t count, std::int64_t width, Rows pairs, Rows x, Rows alpha, RowsOut y);
  /// to_s = start + sum_(i<s) k_i leave_i + sum_(t>=s) (q_t x_t + sign k_t y_t), 0 where logs are -inf. Sums in double; start (width).
  void (*decay_gradient)(std::int64_t count, std::int64_t width, Rows logs, const double* start, Rows k, Rows leave, Rows q, Rows x, Rows y,
                         float sign, RowsOut to);
};

/// The table for this machine (chosen once, thread safe).
[[nodiscard]] const RowOps& row_ops();

}  // namespace cpu::linear
SEQCCL_END
