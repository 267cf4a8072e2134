// delta_chunk.cpp - the triangular system of a chunk under the delta rule, by substitution over blocks.
// SPDX-License-Identifier: Apache-2.0
#include "delta_chunk.hpp"

#include <algorithm>
#include <span>

#include "pack.hpp"

SEQCCL_BEGIN
namespace cpu::linear {

DeltaChunk::DeltaChunk(const ConstTensorView& k, const ConstTensorView& log_decay, const ConstTensorView& beta, Workspace& workspace)
    : k_view_(k), beta_view_(beta), key_dim_(k.extent(3)), decay_(log_decay, key_dim_, workspace) {
  for (RowsOut* rows : {&rows_, &entering_buffer_}) *rows = workspace.rows(2 * chunk_tokens, key_dim_);
  leaving_buffer_ = workspace.rows(chunk_tokens, key_dim_);
  for (RowsOut* pairs : {&gram_, &scores_, &minus_gram_}) *pairs = workspace.pairs();
  beta_ = workspace.take(chunk_tokens);
  for (RowsOut* blocks : {&inverse_, &inverse_rows_}) *blocks = workspace.rows(chunk_tokens, block_tokens);
}

void DeltaChunk::load(std::int64_t batch, std::int64_t head, std::int64_t first, std::int64_t count, const ConstTensorView* q,
                      float factor) {
  count_ = count;
  decay_.load(batch, head, first, count, {.queries = true, .keys = true, .pairs = true});
  load_tokens(k_view_, batch, head, first, count, 1, rows_);
  for (std::int64_t t = 0; t < count; ++t) beta_[t] = scalar_at(beta_view_, batch, first + t, head);
  entering_ = decay_.decay_queries(rows_, entering_buffer_);
  leaving_ = decay_.decay_keys(rows_, leaving_buffer_);
  if (q != nullptr) {
    load_tokens(*q, batch, head, first, count, factor, rows_ + count);
    (void)decay_.decay_queries(queries(), entering_buffer_ + count);
  }
  const Scores both[] = {{rows_, gram_}, {queries(), scores_}};
  decay_.scores(rows_, std::span(both).first(q != nullptr ? 2 : 1));
  for (std::int64_t t = 0; t < count; ++t)
    for (std::int64_t i = 0; i < t; ++i) minus_gram_.data[t * minus_gram_.row + i] = -gram_.data[t * gram_.row + i];
  invert_diagonal_blocks();
}

/// Row by row: with X = N diag(beta) or diag(beta) N, N = -G, the inverse of I - X has row_t = e_t + sum_(i<t) X_ti row_i. In double: a
/// row is made of all rows before it.
void DeltaChunk::invert_diagonal_blocks() {
  double exact[2][block_tokens][block_tokens];
  for (std::int64_t first = 0; first < count_; first += block_tokens) {
    const std::int64_t count = std::min(block_tokens, count_ - first);
    for (std::int64_t t = 0; t < count; ++t) {
      double sums[2][block_tokens] = {};
      for (std::int64_t i = 0; i < t; ++i) {
        const double value = minus_gram_.data[(first + t) * minus_gram_.row + first + i], by_column = value * beta_[first + i],
                     by_row = value * beta_[first + t];
        for (std::int64_t x = 0; x < block_tokens; ++x) {
          sums[0][x] += by_column * exact[0][i][x];
          sums[1][x] += by_row * exact[1][i][x];
        }
      }
      sums[0][t] = sums[1][t] = 1;
      for (std::int64_t x = 0; x < block_tokens; ++x) {
        exact[0][t][x] = sums[0][x], exact[1][t][x] = sums[1][x];
        inverse_.data[(first + t) * inverse_.row + x] = static_cast<float>(sums[0][x]);
        inverse_rows_.data[(first + t) * inverse_rows_.row + x] = static_cast<float>(sums[1][x]);
      }
    }
  }
}

void DeltaChunk::solve(RowsOut rows, RowsOut y, RowsOut u, std::int64_t width) const {
  for (std::int64_t first = 0; first < count_; first += block_tokens) {
    const std::int64_t count = std::min(block_tokens, count_ - first);
    if (first > 0) product(count, width, first, minus_gram_ + first, u, rows + first, true);
    product(count, width, count, inverse_ + first, rows + first, y + first, false);
    row_ops().scale(count, width, beta_ + first, y + first, u + first);
  }
}

void DeltaChunk::solve_transposed(RowsOut rows, RowsOut z, RowsOut dr, std::int64_t width) const {
  for (std::int64_t first = (count_ - 1) / block_tokens * block_tokens; first >= 0; first -= block_tokens) {
    const std::int64_t end = std::min(count_, first + block_tokens), count = end - first;
    const Rows below{minus_gram_.data + end * minus_gram_.row + first, minus_gram_.row};
    if (end < count_) turned_product(count, width, count_ - end, below, dr + end, rows + first, true);
    turned_product(count, width, count, inverse_rows_ + first, rows + first, z + first, false);
    row_ops().scale(count, width, beta_ + first, z + first, dr + first);
  }
}

}  // namespace cpu::linear
SEQCCL_END
