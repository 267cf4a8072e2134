// delta_chunk.cpp - the triangular system of a chunk under the delta rule, by substitution over blocks.
// SPDX-License-Identifier: Apache-2.0
#include "delta_chunk.hpp"

#include <algorithm>

#include "pack.hpp"
#include "tile.hpp"

SEQCCL_BEGIN
namespace cpu::linear {
namespace {

/// y_t = factor_t x_t for `count` rows.
void scale_rows(const float* factor, const float* x, std::int64_t count, std::int64_t width, float* y) {
  for (std::int64_t t = 0; t < count; ++t) {
    for (std::int64_t i = 0; i < width; ++i) y[t * width + i] = factor[t] * x[t * width + i];
  }
}

}  // namespace

DeltaChunk::DeltaChunk(const ConstTensorView& k, const ConstTensorView& log_decay, const ConstTensorView& beta, Workspace& workspace)
    : k_view_(k), beta_view_(beta), key_dim_(k.extent(3)), decay_(log_decay, key_dim_, workspace) {
  for (float** rows : {&rows_, &entering_buffer_}) *rows = workspace.take(2 * chunk_tokens * key_dim_);
  leaving_buffer_ = workspace.take(chunk_tokens * key_dim_);
  minus_gram_ = workspace.take(chunk_tokens * chunk_tokens);
  beta_ = workspace.take(chunk_tokens);
  for (float** blocks : {&inverse_, &inverse_rows_}) *blocks = workspace.take(chunk_tokens * block_tokens);
}

void DeltaChunk::load(std::int64_t batch, std::int64_t head, std::int64_t first, std::int64_t count) {
  count_ = count;
  decay_.load(batch, head, first, count, {.queries = true, .keys = true, .pairs = true});
  pack_rows(k_view_, batch, head, first, count, 1, rows_);
  for (std::int64_t t = 0; t < count; ++t) beta_[t] = scalar_at(beta_view_, batch, first + t, head);
  entering_ = decay_.decay_queries(rows_, entering_buffer_);
  leaving_ = decay_.decay_keys(rows_, leaving_buffer_);
  decay_.scores(rows_, rows_, minus_gram_);
  for (std::int64_t t = 0; t < count; ++t) {
    float* row = minus_gram_ + t * chunk_tokens;
    for (std::int64_t i = 0; i < t; ++i) row[i] = -row[i];
    row[t] = 0;
  }
  invert_diagonal_blocks();
}

void DeltaChunk::load_queries(const ConstTensorView& q, std::int64_t batch, std::int64_t head, std::int64_t first, float factor) {
  const std::int64_t keys_size = count_ * key_dim_;
  pack_rows(q, batch, head, first, count_, factor, rows_ + keys_size);
  decay_.decay_queries(rows_ + keys_size, entering_buffer_ + keys_size);
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
        const double value = minus_gram_[(first + t) * chunk_tokens + first + i], by_column = value * beta_[first + i],
                     by_row = value * beta_[first + t];
        for (std::int64_t x = 0; x < block_tokens; ++x) {
          sums[0][x] += by_column * exact[0][i][x];
          sums[1][x] += by_row * exact[1][i][x];
        }
      }
      sums[0][t] = sums[1][t] = 1;
      for (std::int64_t x = 0; x < block_tokens; ++x) {
        exact[0][t][x] = sums[0][x], exact[1][t][x] = sums[1][x];
        inverse_[(first + t) * block_tokens + x] = static_cast<float>(sums[0][x]);
        inverse_rows_[(first + t) * block_tokens + x] = static_cast<float>(sums[1][x]);
      }
    }
  }
}

void DeltaChunk::solve(float* rows, float* y, float* u, std::int64_t width) const {
  for (std::int64_t first = 0; first < count_; first += block_tokens) {
    const std::int64_t count = std::min(block_tokens, count_ - first), at = first * width;
    if (first > 0) tile().gemm(count, width, first, minus_gram_ + first * chunk_tokens, chunk_tokens, 1, u, width, rows + at, width, true);
    tile().gemm(count, width, count, inverse_ + first * block_tokens, block_tokens, 1, rows + at, width, y + at, width, false);
    scale_rows(beta_ + first, y + at, count, width, u + at);
  }
}

void DeltaChunk::solve_transposed(float* rows, float* z, float* dr, std::int64_t width) const {
  for (std::int64_t first = (count_ - 1) / block_tokens * block_tokens; first >= 0; first -= block_tokens) {
    const std::int64_t end = std::min(count_, first + block_tokens), count = end - first, at = first * width;
    if (end < count_) {
      tile().gemm(count, width, count_ - end, minus_gram_ + end * chunk_tokens + first, 1, chunk_tokens, dr + end * width, width, rows + at,
                  width, true);
    }
    tile().gemm(count, width, count, inverse_rows_ + first * block_tokens, 1, block_tokens, rows + at, width, z + at, width, false);
    scale_rows(beta_ + first, z + at, count, width, dr + at);
  }
}

void DeltaChunk::advance(const float* u, std::int64_t width, float* state) const {
  advance_state(decay_, leaving_, u, count_, key_dim_, width, state);
}

}  // namespace cpu::linear
SEQCCL_END
