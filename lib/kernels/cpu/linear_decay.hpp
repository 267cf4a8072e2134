// linear_decay.hpp - the decays of one chunk of linear attention, and the products that carry ratios of decays.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "linear_chunk.hpp"

SEQCCL_BEGIN
namespace cpu::linear {

// Letters: W width of the decay (1 scalar gate, Dk vector gate), l_t its log_decay.
//   g_t    = l_1 + ... + l_t            summed from the first token of the chunk; g_C is the sum over the chunk
//   r(t,i) = exp(l_(i+1) + ... + l_t)   for i <= t; r(t,t) = 1
// Every exponent is <= 0 and is summed outwards from one reference point: a difference of two running sums would lose the small
// decays after a strong one, and would make inf - inf of log_decay = -inf. Inside a block of 16 tokens the sum of logs is a product of
// at most 16 decays; sums over blocks, and over the chunk, are sums of logs, which stay right where a decay is within a rounding of 1.

/// What ChunkDecay::load has to prepare: factors of queries, of keys, and all that scores, add_rows and add_columns need.
struct Need {
  bool queries = false, keys = false, pairs = false;
};

/// Scores to compute against the same keys.
struct Scores {
  Rows queries;   // (C, Dk)
  RowsOut pairs;  // (C, C)
};

/// The decays of one chunk, of any kind.
class ChunkDecay {
 public:
  /// `log_decay`: absent, (B, T, H, 1) or (B, T, H, Dk).
  ChunkDecay(const ConstTensorView& log_decay, std::int64_t head_dim, Workspace& workspace);

  /// Makes this the chunk of tokens [first, first + count) of one batch and head; count <= chunk_tokens.
  void load(std::int64_t batch, std::int64_t head, std::int64_t first, std::int64_t count, Need need);

  /// y_t = exp(g_t) x_t; returns y, or x itself if nothing decays. x may be y.
  Rows decay_queries(Rows x, RowsOut y) const;
  /// y_i = exp(g_C - g_i) x_i, likewise.
  Rows decay_keys(Rows x, RowsOut y) const;
  /// to = diag(exp(g_C)) from, rows of Dv; `to` may be `from`.
  void decay_state(Rows from, RowsOut to, std::int64_t value_dim) const;
  /// to = diag(exp(g_C)) from + sum_i (exp(g_C - g_i) k_i) v_i^T; `keys` are already decayed.
  void advance_state(Rows keys, Rows values, std::int64_t count, std::int64_t value_dim, Rows from, RowsOut to) const;

  /// pairs_ti = sum_d q_td k_id r(t,i)_d for i <= t.
  void scores(Rows k, std::span<const Scores> scores) const;
  /// dq_t += sum_(i<=t) weights_ti r(t,i) k_i    and    dk_i += sum_(t>=i) weights_ti r(t,i) q_t.
  void add_pairs(Rows weights, Rows k, RowsOut dq, Rows q, RowsOut dk) const;

  [[nodiscard]] std::int64_t width() const noexcept { return width_; }           // 0: no decay
  [[nodiscard]] Rows logs() const noexcept { return logs_; }                     // (C, W)
  [[nodiscard]] const double* log_total() const noexcept { return log_total_; }  // (W) g_C
  [[nodiscard]] const float* total() const noexcept { return total_; }           // (Dk) exp(g_C), of a scalar gate the same for all

 private:
  void load_scalar(std::int64_t batch, std::int64_t head, std::int64_t first, Need need);
  void load_vector(std::int64_t batch, std::int64_t head, std::int64_t first, Need need);
  void vector_scores(Rows k, std::span<const Scores> scores) const;
  void vector_add_rows(Rows weights, Rows x, RowsOut y) const;
  void vector_add_columns(Rows weights, Rows x, RowsOut y) const;
  [[nodiscard]] Rows weigh(Rows weights) const;
  [[nodiscard]] std::int64_t num_blocks() const noexcept { return (count_ + block_tokens - 1) / block_tokens; }
  [[nodiscard]] std::int64_t block_end(std::int64_t block) const noexcept { return std::min(count_, (block + 1) * block_tokens); }

  ConstTensorView log_decay_;
  std::int64_t head_dim_ = 0, width_ = 0, count_ = 0;
  RowsOut logs_{}, alpha_{};                               // (C, W) l_t and exp(l_t)
  RowsOut prefix_{}, suffix_{};                            // (C, W) decay from the block's first token through t; after i to its last token
  RowsOut block_logs_{}, block_total_{};                   // (blocks, W) sum over a block, and its exp
  RowsOut before_{}, after_{};                             // (blocks, W) products of block_total_ before and after a block
  float *query_factor_ = nullptr, *key_factor_ = nullptr;  // (C) of a scalar gate: exp(g_t) and exp(g_C - g_i)
  RowsOut ratio_{};                                        // (C, C) r(t,i) of a scalar gate, zero above the diagonal inside a block
  double* log_total_ = nullptr;                            // (W)
  float* total_ = nullptr;                                 // (Dk)
  RowsOut decayed_{}, product_{}, turned_{}, weighted_{};  // scratch
};

/// x_t <- exp(sum) x_t for `count` rows (Dk); sum (W), W = 0, 1 or Dk; scratch (Dk).
void decay_rows_by_sum(const double* sum, std::int64_t width, RowsOut x, std::int64_t count, std::int64_t key_dim, float* scratch);

}  // namespace cpu::linear
SEQCCL_END
