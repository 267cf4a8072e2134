// linear_decay.cpp - ChunkDecay: tables of decays of one chunk, and the three products that carry ratios of decays.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "linear_chunk.hpp"
#include "pack.hpp"
#include "tile.hpp"

SEQCCL_BEGIN
namespace cpu::linear {
namespace {

/// y_x = a_x b_x
void multiply(const float* a, const float* b, float* y, std::int64_t count) {
  for (std::int64_t x = 0; x < count; ++x) y[x] = a[x] * b[x];
}

/// y_x += a_x b_x
void multiply_add(const float* a, const float* b, float* y, std::int64_t count) {
  for (std::int64_t x = 0; x < count; ++x) y[x] += a[x] * b[x];
}

/// y = decay * y + weight * x: one step of Horner's rule.
void horner(const float* decay, float weight, const float* x, float* y, std::int64_t count) {
  for (std::int64_t d = 0; d < count; ++d) y[d] = decay[d] * y[d] + weight * x[d];
}

/// y_t = within_t * outside_block(t) * x_t.
void decay_rows(const float* x, const float* within, const float* outside, std::int64_t count, std::int64_t head_dim, std::int64_t width,
                float* y) {
  for (std::int64_t t = 0; t < count; ++t) {
    const float *from = x + t * head_dim, *inner = within + t * width, *outer = outside + t / block_tokens * width;
    float* to = y + t * head_dim;
    if (width == 1) {
      const float factor = *inner * *outer;
      for (std::int64_t d = 0; d < head_dim; ++d) to[d] = from[d] * factor;
    } else {
      for (std::int64_t d = 0; d < head_dim; ++d) to[d] = from[d] * (inner[d] * outer[d]);
    }
  }
}

}  // namespace

ChunkDecay::ChunkDecay(const ConstTensorView& log_decay, std::int64_t head_dim, Workspace& workspace)
    : log_decay_(log_decay), head_dim_(head_dim), width_(log_decay ? log_decay.extent(3) : 0) {
  for (float** rows : {&logs_, &alpha_, &prefix_, &suffix_}) *rows = workspace.take(chunk_tokens * width_);
  for (float** blocks : {&block_total_, &before_, &after_}) *blocks = workspace.take(chunk_blocks * width_);
  log_total_ = workspace.take<double>(width_);
  for (float** rows : {&decayed_, &transposed_, &product_}) *rows = workspace.take(chunk_tokens * head_dim_);
  for (float** pairs : {&ratio_, &weighted_}) *pairs = workspace.take(chunk_tokens * chunk_tokens);
}

std::int64_t ChunkDecay::block_end(std::int64_t block) const noexcept { return std::min(count_, (block + 1) * block_tokens); }

void ChunkDecay::load(std::int64_t batch, std::int64_t head, std::int64_t first, std::int64_t count, Need need) {
  count_ = count;
  if (width_ == 0) return;
  const std::int64_t width = width_;
  pack_rows(log_decay_, batch, head, first, count, 1, logs_);

  // sums over the chunk: g_C in double, because a long run multiplies its state by exp(g_C) many times
  std::fill_n(log_total_, width, 0.0);
  std::fill_n(block_total_, num_blocks() * width, 0.0f);
  for (std::int64_t t = 0; t < count; ++t) {
    float* total = block_total_ + t / block_tokens * width;
    for (std::int64_t d = 0; d < width; ++d) {
      log_total_[d] += logs_[t * width + d];
      total[d] += logs_[t * width + d];
    }
  }
  tile().exp_sum(block_total_, num_blocks() * width, 0);
  std::fill_n(before_, width, 1.0f);
  for (std::int64_t a = 1; a < num_blocks(); ++a) {
    multiply(before_ + (a - 1) * width, block_total_ + (a - 1) * width, before_ + a * width, width);
  }
  std::fill_n(after_ + (num_blocks() - 1) * width, width, 1.0f);
  for (std::int64_t a = num_blocks() - 1; a > 0; --a) {
    multiply(after_ + a * width, block_total_ + a * width, after_ + (a - 1) * width, width);
  }

  // sums inside a block, from its first token through t, and after i to its last
  if (need.queries || need.pairs) {
    for (std::int64_t t = 0; t < count; ++t) {
      const bool starts = t % block_tokens == 0;
      for (std::int64_t d = 0; d < width; ++d) {
        prefix_[t * width + d] = logs_[t * width + d] + (starts ? 0 : prefix_[(t - 1) * width + d]);
      }
    }
    tile().exp_sum(prefix_, count * width, 0);
  }
  if (need.keys || need.pairs) {
    for (std::int64_t i = count - 1; i >= 0; --i) {
      const bool ends = i + 1 == count || (i + 1) % block_tokens == 0;
      for (std::int64_t d = 0; d < width; ++d) {
        suffix_[i * width + d] = ends ? 0 : logs_[(i + 1) * width + d] + suffix_[(i + 1) * width + d];
      }
    }
    tile().exp_sum(suffix_, count * width, 0);
  }
  if (!need.pairs) return;
  if (width > 1) {
    tile().exp(logs_, alpha_, count * width);
    return;
  }
  // scalar gate: all ratios, each exponent summed row by row
  for (std::int64_t t = 0; t < count; ++t) {
    float* row = weighted_ + t * chunk_tokens;
    for (std::int64_t i = 0; i < t; ++i) row[i] = row[i - chunk_tokens] + logs_[t];
    row[t] = 0;
    tile().exp(row, ratio_ + t * chunk_tokens, t + 1);
  }
}

const float* ChunkDecay::decay_queries(const float* x, float* y) const {
  if (width_ == 0) return x;
  decay_rows(x, prefix_, before_, count_, head_dim_, width_, y);
  return y;
}

const float* ChunkDecay::decay_keys(const float* x, float* y) const {
  if (width_ == 0) return x;
  decay_rows(x, suffix_, after_, count_, head_dim_, width_, y);
  return y;
}

void ChunkDecay::decay_state(float* state, std::int64_t value_dim) const {
  if (width_ == 0) return;
  float factor = 0;
  for (std::int64_t d = 0; d < head_dim_; ++d) {
    if (d < width_) factor = static_cast<float>(std::exp(log_total_[d]));
    tile().scale(factor, state + d * value_dim, value_dim);
  }
}

void ChunkDecay::scores(const float* q, const float* k, float* scores) const {
  if (width_ > 1) return vector_scores(q, k, scores);
  transpose(k, count_, head_dim_, transposed_, chunk_tokens);
  lower_outer(q, transposed_, count_, head_dim_, scores);
  if (width_ == 0) return;
  for (std::int64_t t = 0; t < count_; ++t) {
    multiply(scores + t * chunk_tokens, ratio_ + t * chunk_tokens, scores + t * chunk_tokens, t + 1);
  }
}

void ChunkDecay::add_rows(const float* weights, const float* x, float* y) const {
  if (width_ > 1) return vector_add_rows(weights, x, y);
  lower_product(weigh(weights), x, count_, head_dim_, y, head_dim_, true);
}

void ChunkDecay::add_columns(const float* weights, const float* x, float* y) const {
  if (width_ > 1) return vector_add_columns(weights, x, y);
  lower_transposed_product(weigh(weights), x, count_, head_dim_, y, true);
}

/// weights_ti r(t,i) of a scalar gate.
const float* ChunkDecay::weigh(const float* weights) const {
  if (width_ == 0) return weights;
  for (std::int64_t t = 0; t < count_; ++t) {
    const std::int64_t row = t * chunk_tokens;
    multiply(weights + row, ratio_ + row, weighted_ + row, t + 1);
    std::fill(weighted_ + row + t + 1, weighted_ + row + block_end(t / block_tokens), 0.0f);
  }
  return weighted_;
}

// Vector gate. For t in block a and i in block b < a, with reference points at the ends of blocks b and a - 1:
//   r(t,i) = prefix_t (product of block_total_c, b < c < a) suffix_i
// so that blocks below the diagonal are matrix products; the factor in the middle grows as a (or b) moves on. Inside a diagonal
// block r is built up token by token as a product of at most 15 factors exp(l_t).

void ChunkDecay::vector_scores(const float* q, const float* k, float* scores) const {
  const std::int64_t dim = head_dim_;
  multiply(k, suffix_, product_, count_ * dim);
  transpose(product_, count_, dim, transposed_, chunk_tokens);  // (Dk, C)
  multiply(q, prefix_, decayed_, count_ * dim);
  for (std::int64_t a = 0; a < num_blocks(); ++a) {
    const std::int64_t first = a * block_tokens, end = block_end(a);
    for (std::int64_t d = 0; d < dim && a > 1; ++d) {
      float* row = transposed_ + d * chunk_tokens;
      const float total = block_total_[(a - 1) * dim + d];
      for (std::int64_t i = 0; i < first - block_tokens; ++i) row[i] *= total;
    }
    if (a > 0) {
      tile().gemm(end - first, first, dim, decayed_ + first * dim, dim, 1, transposed_, chunk_tokens, scores + first * chunk_tokens,
                  chunk_tokens, false);
    }
    for (std::int64_t i = first; i < end; ++i) {
      float* key = product_;
      std::copy_n(k + i * dim, dim, key);
      std::fill(scores + i * chunk_tokens + i + 1, scores + i * chunk_tokens + end, 0.0f);
      scores[i * chunk_tokens + i] = tile().dot(q + i * dim, key, dim);
      for (std::int64_t t = i + 1; t < end; ++t) {
        multiply(key, alpha_ + t * dim, key, dim);
        scores[t * chunk_tokens + i] = tile().dot(q + t * dim, key, dim);
      }
    }
  }
}

void ChunkDecay::vector_add_rows(const float* weights, const float* x, float* y) const {
  const std::int64_t dim = head_dim_;
  multiply(x, suffix_, decayed_, count_ * dim);
  for (std::int64_t a = 0; a < num_blocks(); ++a) {
    const std::int64_t first = a * block_tokens, end = block_end(a);
    for (std::int64_t i = 0; i < first - block_tokens; ++i) {
      multiply(decayed_ + i * dim, block_total_ + (a - 1) * dim, decayed_ + i * dim, dim);
    }
    if (a > 0) {
      tile().gemm(end - first, dim, first, weights + first * chunk_tokens, chunk_tokens, 1, decayed_, dim, product_, dim, false);
      multiply_add(prefix_ + first * dim, product_, y + first * dim, (end - first) * dim);
    }
    for (std::int64_t t = first; t < end; ++t) {
      float* sum = product_;
      for (std::int64_t d = 0; d < dim; ++d) sum[d] = weights[t * chunk_tokens + first] * x[first * dim + d];
      for (std::int64_t i = first + 1; i <= t; ++i) horner(alpha_ + i * dim, weights[t * chunk_tokens + i], x + i * dim, sum, dim);
      tile().axpy(1, sum, y + t * dim, dim);
    }
  }
}

void ChunkDecay::vector_add_columns(const float* weights, const float* x, float* y) const {
  const std::int64_t dim = head_dim_;
  multiply(x, prefix_, decayed_, count_ * dim);
  for (std::int64_t b = num_blocks() - 1; b >= 0; --b) {
    const std::int64_t first = b * block_tokens, end = block_end(b);
    for (std::int64_t t = end + block_tokens; t < count_; ++t) {
      multiply(decayed_ + t * dim, block_total_ + (b + 1) * dim, decayed_ + t * dim, dim);
    }
    if (end < count_) {
      tile().gemm(end - first, dim, count_ - end, weights + end * chunk_tokens + first, 1, chunk_tokens, decayed_ + end * dim, dim,
                  product_, dim, false);
      multiply_add(suffix_ + first * dim, product_, y + first * dim, (end - first) * dim);
    }
    for (std::int64_t i = first; i < end; ++i) {
      float* sum = product_;
      for (std::int64_t d = 0; d < dim; ++d) sum[d] = weights[(end - 1) * chunk_tokens + i] * x[(end - 1) * dim + d];
      for (std::int64_t t = end - 2; t >= i; --t) horner(alpha_ + (t + 1) * dim, weights[t * chunk_tokens + i], x + t * dim, sum, dim);
      tile().axpy(1, sum, y + i * dim, dim);
    }
  }
}

}  // namespace cpu::linear
SEQCCL_END
