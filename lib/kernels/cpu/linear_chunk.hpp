// linear_chunk.hpp - one chunk of tokens of linear attention: its decays, and the products that carry ratios of decays.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "seqccl/tensor.hpp"

SEQCCL_BEGIN
namespace cpu::linear {

// Letters: C tokens of a chunk, W width of the decay (1 scalar gate, Dk vector gate), l_t its log_decay.
//   g_t    = l_1 + ... + l_t            summed from the first token of the chunk; g_C is the sum over the chunk
//   r(t,i) = exp(l_(i+1) + ... + l_t)   for i <= t; r(t,t) = 1
// Every exponent is <= 0 and is summed outwards from one reference point: a difference of two running sums would lose the small
// decays after a strong one, and would make inf - inf of log_decay = -inf.
inline constexpr std::int64_t chunk_tokens = 64;
inline constexpr std::int64_t block_tokens = 16;  // between two blocks of a chunk, r splits into a row and a column factor
inline constexpr std::int64_t chunk_blocks = chunk_tokens / block_tokens;

/// Scratch of the calling thread, kept and grown from call to call; contents are whatever was left. One Workspace at a time a thread.
class Workspace {
 public:
  template <class T = float>
  [[nodiscard]] T* take(std::int64_t count) {
    return static_cast<T*>(bytes(count * static_cast<std::int64_t>(sizeof(T))));
  }

 private:
  [[nodiscard]] void* bytes(std::int64_t count);
  std::size_t next_ = 0;
};

/// What ChunkDecay::load has to prepare: factors of queries, of keys, and all that scores, add_rows and add_columns need.
struct Need {
  bool queries = false, keys = false, pairs = false;
};

/// The decays of one chunk, of any kind. Token rows are dense (C, Dk), pair matrices (C, C) with rows of chunk_tokens numbers,
/// of which the lower triangle counts and the rest of the diagonal blocks is zero.
class ChunkDecay {
 public:
  /// `log_decay`: absent, (B, T, H, 1) or (B, T, H, Dk).
  ChunkDecay(const ConstTensorView& log_decay, std::int64_t head_dim, Workspace& workspace);

  /// Makes this the chunk of tokens [first, first + count) of one batch and head; count <= chunk_tokens.
  void load(std::int64_t batch, std::int64_t head, std::int64_t first, std::int64_t count, Need need);

  /// y_t = exp(g_t) x_t; returns y, or x itself if nothing decays. x may be y.
  const float* decay_queries(const float* x, float* y) const;
  /// y_i = exp(g_C - g_i) x_i, likewise.
  const float* decay_keys(const float* x, float* y) const;
  /// state <- diag(exp(g_C)) state, rows of Dv.
  void decay_state(float* state, std::int64_t value_dim) const;

  /// scores_ti = sum_d q_td k_id r(t,i)_d for i <= t.
  void scores(const float* q, const float* k, float* scores) const;
  /// y_t += sum_(i<=t) weights_ti r(t,i) x_i.
  void add_rows(const float* weights, const float* x, float* y) const;
  /// y_i += sum_(t>=i) weights_ti r(t,i) x_t.
  void add_columns(const float* weights, const float* x, float* y) const;

  [[nodiscard]] std::int64_t width() const noexcept { return width_; }           // 0: no decay
  [[nodiscard]] const float* logs() const noexcept { return logs_; }             // (C, W)
  [[nodiscard]] const double* log_total() const noexcept { return log_total_; }  // (W)

 private:
  void vector_scores(const float* q, const float* k, float* scores) const;
  void vector_add_rows(const float* weights, const float* x, float* y) const;
  void vector_add_columns(const float* weights, const float* x, float* y) const;
  [[nodiscard]] const float* weigh(const float* weights) const;
  [[nodiscard]] std::int64_t num_blocks() const noexcept { return (count_ + block_tokens - 1) / block_tokens; }
  [[nodiscard]] std::int64_t block_end(std::int64_t block) const noexcept;

  ConstTensorView log_decay_;
  std::int64_t head_dim_ = 0, width_ = 0, count_ = 0;
  float *logs_ = nullptr, *alpha_ = nullptr;     // (C, W) l_t and exp(l_t)
  float *prefix_ = nullptr, *suffix_ = nullptr;  // (C, W) exp of the sum from the block's first token through t; after i to its last
  float* block_total_ = nullptr;                 // (blocks, W) exp of the sum over a block
  float *before_ = nullptr, *after_ = nullptr;   // (blocks, W) products of block_total_ before and after a block
  float* ratio_ = nullptr;                       // (C, C) r(t,i) of a scalar gate
  double* log_total_ = nullptr;                  // (W) g_C
  float *decayed_ = nullptr, *transposed_ = nullptr, *product_ = nullptr, *weighted_ = nullptr;  // scratch
};

// A token reads the state that it leaves, or, with a bonus, the one before it. Then token t + 1 reads where token t would: the same
// products do, with queries, outputs and their gradients `shift` = 1 token further on. The first token reads the entering state as it is.

/// How many tokens read in the chunk [first, first + count) of a run.
[[nodiscard]] inline std::int64_t num_readers(std::int64_t first, std::int64_t count, std::int64_t num_tokens, std::int64_t shift) {
  return std::min(count, num_tokens - first - shift);
}
/// pack_rows for tokens [first, first + count + shift), with zeros behind the last token of x: rows of tokens, and from row `shift`
/// on those of the readers.
void pack_readers(const ConstTensorView& x, std::int64_t batch, std::int64_t head, std::int64_t first, std::int64_t count,
                  std::int64_t shift, float factor, float* to);
/// weights_t = sum_d q_td bonus_d k_td; scratch (Dk).
void bonus_weights(const float* q, const float* k, const float* bonus, std::int64_t count, std::int64_t key_dim, float* scratch,
                   float* weights);

/// The reverse of pack_rows: tokens [first, first + count) of one batch and head of x (B, T, H, D), rounded to x's element type.
void store_tokens(const float* from, const TensorView& x, std::int64_t batch, std::int64_t head, std::int64_t first, std::int64_t count);

/// to (columns, to_row >= rows) = from (rows, columns)^T.
void transpose(const float* from, std::int64_t rows, std::int64_t columns, float* to, std::int64_t to_row);
/// pairs_ti = x_t . y_i for i <= t; y comes as y_transposed (width, chunk_tokens).
void lower_outer(const float* x, const float* y_transposed, std::int64_t count, std::int64_t width, float* pairs);
/// y_t (+)= sum_(i<=t) pairs_ti x_i, rows of `width` numbers, those of y `y_row` apart.
void lower_product(const float* pairs, const float* x, std::int64_t count, std::int64_t width, float* y, std::int64_t y_row,
                   bool accumulate);
/// y_i (+)= sum_(t>=i) pairs_ti x_t.
void lower_transposed_product(const float* pairs, const float* x, std::int64_t count, std::int64_t width, float* y, bool accumulate);

/// to (Dk, Dv) = the state of one batch and head, zero if absent.
void load_state(const ConstTensorView& from, std::int64_t batch, std::int64_t head, std::int64_t key_dim, std::int64_t value_dim,
                float* to);
/// state <- diag(exp(g_C)) state + sum_i (exp(g_C - g_i) k_i) v_i^T; `keys` are already decayed.
void advance_state(const ChunkDecay& decay, const float* keys, const float* values, std::int64_t count, std::int64_t key_dim,
                   std::int64_t value_dim, float* state);

/// x_t <- exp(sum) x_t for `count` rows (Dk); sum (W), W = 0, 1 or Dk.
void decay_rows_by_sum(const double* sum, std::int64_t width, float* x, std::int64_t count, std::int64_t key_dim);

/// @throws Error(argument) unless the view has four axes of these extents and elements of a head lie side by side.
void check_view(const char* who, const char* what, const ConstTensorView& x, std::int64_t e0, std::int64_t e1, std::int64_t e2,
                std::int64_t e3, bool f32_only);
/// The same for a bonus, (B, T, H, Dk) f32 with strides 0 on B, T, or absent.
void check_bonus(const char* who, const ConstTensorView& bonus, std::int64_t batch, std::int64_t tokens, std::int64_t heads,
                 std::int64_t key_dim);
/// The same for log_decay, (B, T, H, 1 or Dk) f32 or absent.
void check_log_decay(const char* who, const ConstTensorView& log_decay, std::int64_t batch, std::int64_t tokens, std::int64_t heads,
                     std::int64_t key_dim);

/// Is dlog_decay one number per head, summed over batch and tokens? One token of one batch has the same extents: there strides of 0 tell
/// a constant decay, whose share may be added to others, from a gate, which has one run.
[[nodiscard]] bool is_constant(const ConstTensorView& log_decay, const ConstTensorView& dlog_decay, std::int64_t batch,
                               std::int64_t tokens);

}  // namespace cpu::linear
SEQCCL_END
