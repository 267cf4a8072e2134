// delta_chunk.hpp - one chunk of tokens under the delta rule: its decays, its triangular system, and one step of a state across it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "linear_chunk.hpp"

SEQCCL_BEGIN
namespace cpu::linear {

/// Delta chunk
/// ===========
///
///     S_t = (I - beta_t k_t k_t^T) D_t S_(t-1) + beta_t k_t v_t^T = D_t S_(t-1) + k_t u_t^T
///     u_t = beta_t (v_t - sum_(i<t) G_ti u_i - k~_t^T S),   G_ti = sum_d k_td k_id r(t,i)_d,   k~_t = exp(g_t) k_t
///     S' = diag(exp g_C) S + sum_i k^_i u_i^T,   k^_i = exp(g_C - g_i) k_i
///
/// S enters the chunk, S' leaves it; D_t = diag(exp(log_decay_t)). Letters and r: linear_chunk.hpp. Rows u are found by forward
/// substitution, in blocks whose coupling is a matrix product: exact for any keys, also for 64 equal ones.
class DeltaChunk {
 public:
  DeltaChunk(const ConstTensorView& k, const ConstTensorView& log_decay, const ConstTensorView& beta, Workspace& workspace);

  /// Makes this the chunk of tokens [first, first + count) of one batch and head.
  void load(std::int64_t batch, std::int64_t head, std::int64_t first, std::int64_t count);

  /// rows (C, width) = v - K~ state on the way in, on the way out beta-free: rows_t - sum_(i<t) G_ti u_i; u_t = beta_t times that.
  void solve(float* rows, float* u, std::int64_t width) const;
  /// rows <- (I + diag(beta) G)^-T rows, backward substitution.
  void solve_transposed(float* rows, std::int64_t width) const;

  /// rows_t -= k~_t^T state, state (Dk, width).
  void subtract_entering(const float* state, std::int64_t width, float* rows) const;
  /// state <- diag(exp g_C) state + K^^T u.
  void advance(const float* u, std::int64_t width, float* state) const;
  /// state <- diag(exp g_C) state - K~^T rows: what the gradient of a state takes on the way back, without the outputs' part.
  void retreat(const float* rows, std::int64_t width, float* state) const;

  [[nodiscard]] const ChunkDecay& decay() const noexcept { return decay_; }
  [[nodiscard]] std::int64_t count() const noexcept { return count_; }
  [[nodiscard]] const float* keys() const noexcept { return k_; }                 // (C, Dk)
  [[nodiscard]] const float* leaving_keys() const noexcept { return leaving_; }   // k^
  [[nodiscard]] const float* minus_gram() const noexcept { return minus_gram_; }  // -G (C, C), strictly lower
  [[nodiscard]] const float* beta() const noexcept { return beta_; }              // (C)

 private:
  ConstTensorView keys_view_, beta_view_;
  std::int64_t key_dim_, count_ = 0;
  ChunkDecay decay_;
  float *k_, *entering_buffer_, *leaving_buffer_, *minus_entering_;  // (C, Dk)
  const float *entering_ = nullptr, *leaving_ = nullptr;
  float *minus_gram_, *minus_scaled_;  // (C, C) -G and -diag(beta) G, strictly lower
  float* beta_;
};

}  // namespace cpu::linear
SEQCCL_END
