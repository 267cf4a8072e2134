// linear_chunk.hpp - one chunk of tokens of linear attention: its rows in scratch, and its products with states and token pairs.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "linear_rows.hpp"
#include "panel.hpp"
#include "seqccl/tensor.hpp"

SEQCCL_BEGIN
namespace cpu::linear {

// Letters: C tokens of a chunk, Dk, Dv numbers of a key and a value. Everything in scratch is f32 in rows padded_row apart, so that a
// product may read it by rows or by columns:
//
//     rows of tokens (C, Dk) or (C, Dv)      states (Dk, Dv)      pairs of tokens (C, C), of which the lower triangle counts
//     turned rows (Dk, C) or (Dv, C)
inline constexpr std::int64_t chunk_tokens = 64;
inline constexpr std::int64_t block_tokens = 16;  // between two blocks of a chunk, ratios of decays split into a row and a column factor
inline constexpr std::int64_t chunk_blocks = chunk_tokens / block_tokens;
inline constexpr std::int64_t pair_row = padded_row(chunk_tokens);

/// Scratch of the calling thread, whole cache lines, kept and grown from call to call; contents are whatever was left. One Workspace at a
/// time a thread.
class Workspace {
 public:
  template <class T = float>
  [[nodiscard]] T* take(std::int64_t count) {
    return reinterpret_cast<T*>(floats(count * static_cast<std::int64_t>(sizeof(T) / sizeof(float))));
  }
  /// `count` rows for `size` numbers each.
  [[nodiscard]] RowsOut rows(std::int64_t count, std::int64_t size) { return {take(count * padded_row(size)), padded_row(size)}; }
  [[nodiscard]] RowsOut pairs() { return rows(chunk_tokens, chunk_tokens); }
  /// For turn: `size` rows that hold up to `count` numbers, in whole panels.
  [[nodiscard]] RowsOut turned(std::int64_t size, std::int64_t count) { return rows(size, round_up(count, panel_ops().panel)); }

 private:
  [[nodiscard]] float* floats(std::int64_t count);
  std::size_t next_ = 0;
};

// --- tokens -----------------------------------------------------------------------------------------------------------

/// to = factor * tokens [first, first + count) of one batch and head of x (B, T, H, D); those behind them are prefetched.
void load_tokens(const ConstTensorView& x, std::int64_t batch, std::int64_t head, std::int64_t first, std::int64_t count, float factor,
                 RowsOut to);
/// The reverse, rounded to x's element type.
void store_tokens(Rows from, const TensorView& x, std::int64_t batch, std::int64_t head, std::int64_t first, std::int64_t count);
/// to (width, count) = from (count, width)^T; `to` from Workspace::turned.
void turn(std::int64_t count, std::int64_t width, Rows from, RowsOut to);

// A token reads the state that it leaves, or, with a bonus, the one before it. Then token t + 1 reads where token t would: the same
// products do, with queries, outputs and their gradients `shift` = 1 token further on. The first token reads the entering state as it is.

/// How many tokens read in the chunk [first, first + count) of a run.
[[nodiscard]] inline std::int64_t num_readers(std::int64_t first, std::int64_t count, std::int64_t num_tokens, std::int64_t shift) {
  return std::min(count, num_tokens - first - shift);
}
/// load_tokens for [first, first + count + shift), with zeros behind the last token of x: rows of tokens, and from row `shift` on those of
/// the readers.
void load_readers(const ConstTensorView& x, std::int64_t batch, std::int64_t head, std::int64_t first, std::int64_t count,
                  std::int64_t shift, float factor, RowsOut to);

// --- products ---------------------------------------------------------------------------------------------------------

/// c (m, n) (+)= a (m, k) b (k, n).
void product(std::int64_t m, std::int64_t n, std::int64_t k, Rows a, Rows b, RowsOut c, bool accumulate);
/// c (m, n) (+)= a (k, m)^T b (k, n).
void turned_product(std::int64_t m, std::int64_t n, std::int64_t k, Rows a, Rows b, RowsOut c, bool accumulate);

/// pairs_ti = x_t . y_i for i <= t, times factors_ti if given; y comes turned. See clear_above.
void lower_outer(Rows x, Rows y_turned, std::int64_t count, std::int64_t width, const Rows* factors, RowsOut pairs);
/// y_t (+)= sum_(i<=t) pairs_ti x_i.
void lower_product(Rows pairs, Rows x, std::int64_t count, std::int64_t width, RowsOut y, bool accumulate);
/// y_i (+)= sum_(t>=i) pairs_ti x_t.
void lower_turned_product(Rows pairs, Rows x, std::int64_t count, std::int64_t width, RowsOut y, bool accumulate);
/// Zeros above the diagonal of `pairs`, as far as the two products above read them: they take rows in small blocks. NOTE: zero times NaN is
/// NaN, so a NaN value also shows in the few tokens before it that share its block.
void clear_above(std::int64_t count, RowsOut pairs);

// --- states -----------------------------------------------------------------------------------------------------------

/// to (Dk, Dv) = the state of one batch and head, zero if absent.
void load_state(const ConstTensorView& from, std::int64_t batch, std::int64_t head, std::int64_t key_dim, std::int64_t value_dim,
                RowsOut to);
void store_state(Rows from, const TensorView& state, std::int64_t batch, std::int64_t head);

}  // namespace cpu::linear
SEQCCL_END
