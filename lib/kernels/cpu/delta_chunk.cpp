// delta_chunk.cpp - the triangular system of a chunk, by substitution over blocks, and a state's step across the chunk.
// SPDX-License-Identifier: Apache-2.0
#include "delta_chunk.hpp"

#include "pack.hpp"
#include "tile.hpp"

SEQCCL_BEGIN
namespace cpu::linear {

DeltaChunk::DeltaChunk(const ConstTensorView& k, const ConstTensorView& log_decay, const ConstTensorView& beta, Workspace& workspace)
    : keys_view_(k), beta_view_(beta), key_dim_(k.extent(3)), decay_(log_decay, key_dim_, workspace) {
  for (float** rows : {&k_, &entering_buffer_, &leaving_buffer_, &minus_entering_}) *rows = workspace.take(chunk_tokens * key_dim_);
  for (float** pairs : {&minus_gram_, &minus_scaled_}) *pairs = workspace.take(chunk_tokens * chunk_tokens);
  beta_ = workspace.take(chunk_tokens);
}

void DeltaChunk::load(std::int64_t batch, std::int64_t head, std::int64_t first, std::int64_t count) {
  count_ = count;
  decay_.load(batch, head, first, count, {.queries = true, .keys = true, .pairs = true});
  pack_rows(keys_view_, batch, head, first, count, 1, k_);
  for (std::int64_t t = 0; t < count; ++t) beta_[t] = scalar_at(beta_view_, batch, first + t, head);
  entering_ = decay_.decay_queries(k_, entering_buffer_);
  leaving_ = decay_.decay_keys(k_, leaving_buffer_);
  for (std::int64_t x = 0; x < count * key_dim_; ++x) minus_entering_[x] = -entering_[x];

  decay_.scores(k_, k_, minus_gram_);
  for (std::int64_t t = 0; t < count; ++t) {
    float *row = minus_gram_ + t * chunk_tokens, *scaled = minus_scaled_ + t * chunk_tokens;
    const std::int64_t block_end = std::min(count, (t / block_tokens + 1) * block_tokens);
    for (std::int64_t i = 0; i < t; ++i) row[i] = -row[i], scaled[i] = beta_[t] * row[i];
    for (std::int64_t i = t; i < block_end; ++i) row[i] = scaled[i] = 0;
  }
}

void DeltaChunk::solve(float* rows, float* u, std::int64_t width) const {
  for (std::int64_t first = 0; first < count_; first += block_tokens) {
    const std::int64_t end = std::min(count_, first + block_tokens);
    if (first > 0)
      tile().gemm(end - first, width, first, minus_gram_ + first * chunk_tokens, chunk_tokens, 1, u, width, rows + first * width, width,
                  true);
    for (std::int64_t t = first; t < end; ++t) {
      float *row = rows + t * width, *result = u + t * width;
      for (std::int64_t i = first; i < t; ++i) tile().axpy(minus_gram_[t * chunk_tokens + i], u + i * width, row, width);
      for (std::int64_t x = 0; x < width; ++x) result[x] = beta_[t] * row[x];
    }
  }
}

void DeltaChunk::solve_transposed(float* rows, std::int64_t width) const {
  for (std::int64_t first = (count_ - 1) / block_tokens * block_tokens; first >= 0; first -= block_tokens) {
    const std::int64_t end = std::min(count_, first + block_tokens);
    if (end < count_)
      tile().gemm(end - first, width, count_ - end, minus_scaled_ + end * chunk_tokens + first, 1, chunk_tokens, rows + end * width, width,
                  rows + first * width, width, true);
    for (std::int64_t t = end - 1; t >= first; --t)
      for (std::int64_t s = t + 1; s < end; ++s)
        tile().axpy(minus_scaled_[s * chunk_tokens + t], rows + s * width, rows + t * width, width);
  }
}

void DeltaChunk::subtract_entering(const float* state, std::int64_t width, float* rows) const {
  tile().gemm(count_, width, key_dim_, minus_entering_, key_dim_, 1, state, width, rows, width, true);
}

void DeltaChunk::advance(const float* u, std::int64_t width, float* state) const {
  advance_state(decay_, leaving_, u, count_, key_dim_, width, state);
}

void DeltaChunk::retreat(const float* rows, std::int64_t width, float* state) const {
  advance_state(decay_, minus_entering_, rows, count_, key_dim_, width, state);
}

}  // namespace cpu::linear
SEQCCL_END
