// delta_chunk.hpp - one chunk of tokens under the delta rule: decays, pairs of keys, the triangular system, and a state's way across.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>

#include "linear_decay.hpp"

SEQCCL_BEGIN
namespace cpu::linear {

/// To change the sign of rows.
inline constexpr auto minus_ones_array = [] {
  std::array<float, chunk_tokens> all{};
  all.fill(-1);
  return all;
}();
inline constexpr const float* minus_ones = minus_ones_array.data();

/// S enters the chunk, S' leaves it; g, r(t,i) and C as in linear_chunk.hpp.
///
///     S_t = (I - beta_t k_t k_t^T) D_t S_(t-1) + beta_t k_t v_t^T = D_t S_(t-1) + k_t u_t^T,   D_t = diag(exp(log_decay_t))
///     y_t = v_t - k~_t^T S - sum_(i<t) G_ti u_i,   u_t = beta_t y_t,   G_ti = sum_d k_td k_id r(t,i)_d,   k~_t = exp(g_t) k_t
///     S'  = diag(exp(g_C)) S + sum_i k^_i u_i^T,   k^_i = exp(g_C - g_i) k_i
///
/// y solves (I + G diag(beta)) y = v - K~ S. Blocks of 16 tokens are substituted one after the other; the triangles on the diagonal are
/// inverted, by substitution too, so that all work on rows is matrix products. Good for any keys, also for 64 equal ones.
/// The kind of decay (none, scalar, vector) is ChunkDecay's: nothing here asks for it.
class DeltaChunk {
 public:
  DeltaChunk(const ConstTensorView& k, const ConstTensorView& log_decay, const ConstTensorView& beta, Workspace& workspace);

  /// Makes this the chunk of tokens [first, first + count) of one batch and head, without queries.
  void load(std::int64_t batch, std::int64_t head, std::int64_t first, std::int64_t count) { load(batch, head, first, count, nullptr, 1); }
  /// The same with queries q (B, T, H, Dk), times `factor`, and their scores.
  void load(std::int64_t batch, std::int64_t head, std::int64_t first, std::int64_t count, const ConstTensorView* q, float factor);

  /// y from rows = v - K~ S, and u = diag(beta) y; (C, width) each. Rows are used up; u may be rows.
  void solve(RowsOut rows, RowsOut y, RowsOut u, std::int64_t width) const;
  /// z = (I + diag(beta) G)^-T rows, and dr = diag(beta) z. Rows are used up; dr may be rows.
  void solve_transposed(RowsOut rows, RowsOut z, RowsOut dr, std::int64_t width) const;
  /// to = diag(exp(g_C)) from + K^^T u, states (Dk, width); `to` may be `from`.
  void advance(Rows u, std::int64_t width, Rows from, RowsOut to) const { decay_.advance_state(leaving_, u, count_, width, from, to); }

  [[nodiscard]] const ChunkDecay& decay() const noexcept { return decay_; }
  [[nodiscard]] std::int64_t count() const noexcept { return count_; }
  [[nodiscard]] Rows keys() const noexcept { return rows_; }              // (C, Dk) k
  [[nodiscard]] Rows queries() const noexcept { return rows_ + count_; }  // (C, Dk) q
  [[nodiscard]] Rows entering() const noexcept { return entering_; }      // (2 C, Dk) k~, behind it q~ = exp(g) q
  [[nodiscard]] Rows leaving() const noexcept { return leaving_; }        // (C, Dk) k^
  [[nodiscard]] Rows gram() const noexcept { return gram_; }              // (C, C) G below the diagonal
  [[nodiscard]] Rows scores() const noexcept { return scores_; }          // (C, C) sum_d q_td k_id r(t,i)_d for i <= t

 private:
  void invert_diagonal_blocks();

  ConstTensorView k_view_, beta_view_;
  std::int64_t key_dim_, count_ = 0;
  ChunkDecay decay_;
  RowsOut rows_, entering_buffer_, leaving_buffer_;  // (2 C, Dk) k, behind it q; (2 C, Dk); (C, Dk)
  Rows entering_{}, leaving_{};
  RowsOut gram_, scores_, minus_gram_;  // (C, C)
  float* beta_;                         // (C)
  RowsOut inverse_, inverse_rows_;      // (C, 16) of I + G diag(beta), of I + diag(beta) G: their diagonal blocks
};

}  // namespace cpu::linear
SEQCCL_END
