// linear_chunk.cpp - scratch, stores of token rows, and products with lower triangles of token pairs.
// SPDX-License-Identifier: Apache-2.0
#include "linear_chunk.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "pack.hpp"
#include "seqccl/error.hpp"
#include "tile.hpp"

SEQCCL_BEGIN
namespace cpu::linear {

void* Workspace::bytes(std::int64_t count) {
  thread_local std::vector<std::vector<std::byte>> blocks;
  if (next_ == blocks.size()) blocks.emplace_back();
  std::vector<std::byte>& block = blocks[next_++];
  if (block.size() < static_cast<std::size_t>(count)) {
    block.clear();  // nothing of it is worth a copy
    block.resize(static_cast<std::size_t>(count));
  }
  return block.data();
}

void store_tokens(const float* from, const TensorView& x, std::int64_t batch, std::int64_t head, std::int64_t first, std::int64_t count) {
  const std::int64_t dim = x.extent(3);
  with_element(x.dtype, [&]<class Element>(Element) {
    for (std::int64_t t = first; t < first + count; ++t, from += dim) {
      Element* to = x.as<Element>() + batch * x.stride(0) + t * x.stride(1) + head * x.stride(2);
      for (std::int64_t d = 0; d < dim; ++d) to[d] = Element(from[d]);
    }
  });
}

void pack_readers(const ConstTensorView& x, std::int64_t batch, std::int64_t head, std::int64_t first, std::int64_t count,
                  std::int64_t shift, float factor, float* to) {
  const std::int64_t rows = std::min(count + shift, x.extent(1) - first), dim = x.extent(3);
  pack_rows(x, batch, head, first, rows, factor, to);
  std::fill(to + rows * dim, to + (count + shift) * dim, 0.0f);
}

void bonus_weights(const float* q, const float* k, const float* bonus, std::int64_t count, std::int64_t key_dim, float* scratch,
                   float* weights) {
  for (std::int64_t t = 0; t < count; ++t, q += key_dim, k += key_dim) {
    for (std::int64_t d = 0; d < key_dim; ++d) scratch[d] = bonus[d] * k[d];
    weights[t] = tile().dot(q, scratch, key_dim);
  }
}

void transpose(const float* from, std::int64_t rows, std::int64_t columns, float* to, std::int64_t to_row) {
  constexpr std::int64_t step = 8;  // squares that stay in a few cache lines on both sides
  for (std::int64_t r = 0; r < rows; r += step) {
    for (std::int64_t c = 0; c < columns; c += step) {
      const std::int64_t r_end = std::min(rows, r + step), c_end = std::min(columns, c + step);
      for (std::int64_t y = c; y < c_end; ++y) {
        for (std::int64_t x = r; x < r_end; ++x) to[y * to_row + x] = from[x * columns + y];
      }
    }
  }
}

// Triangles are done in rows of blocks: what lies above the diagonal is skipped, except inside the diagonal blocks, where it is
// zero. NOTE: zero times NaN is NaN, so a NaN value also shows in the up to 15 tokens before it that share its block.

void lower_outer(const float* x, const float* y_transposed, std::int64_t count, std::int64_t width, float* pairs) {
  for (std::int64_t first = 0; first < count; first += block_tokens) {
    const std::int64_t end = std::min(count, first + block_tokens);
    tile().gemm(end - first, end, width, x + first * width, width, 1, y_transposed, chunk_tokens, pairs + first * chunk_tokens,
                chunk_tokens, false);
    for (std::int64_t t = first; t < end; ++t) std::fill(pairs + t * chunk_tokens + t + 1, pairs + t * chunk_tokens + end, 0.0f);
  }
}

void lower_product(const float* pairs, const float* x, std::int64_t count, std::int64_t width, float* y, std::int64_t y_row,
                   bool accumulate) {
  for (std::int64_t first = 0; first < count; first += block_tokens) {
    const std::int64_t end = std::min(count, first + block_tokens);
    tile().gemm(end - first, width, end, pairs + first * chunk_tokens, chunk_tokens, 1, x, width, y + first * y_row, y_row, accumulate);
  }
}

void lower_transposed_product(const float* pairs, const float* x, std::int64_t count, std::int64_t width, float* y, bool accumulate) {
  for (std::int64_t first = 0; first < count; first += block_tokens) {
    const std::int64_t end = std::min(count, first + block_tokens);
    tile().gemm(end - first, width, count - first, pairs + first * chunk_tokens + first, 1, chunk_tokens, x + first * width, width,
                y + first * width, width, accumulate);
  }
}

void load_state(const ConstTensorView& from, std::int64_t batch, std::int64_t head, std::int64_t key_dim, std::int64_t value_dim,
                float* to) {
  if (!from) return static_cast<void>(std::fill_n(to, key_dim * value_dim, 0.0f));
  const float* rows = from.as<float>() + batch * from.stride(0) + head * from.stride(1);
  for (std::int64_t d = 0; d < key_dim; ++d) std::copy_n(rows + d * from.stride(2), value_dim, to + d * value_dim);
}

void advance_state(const ChunkDecay& decay, const float* keys, const float* values, std::int64_t count, std::int64_t key_dim,
                   std::int64_t value_dim, float* state) {
  decay.decay_state(state, value_dim);
  tile().gemm(key_dim, value_dim, count, keys, 1, key_dim, values, value_dim, state, value_dim, true);
}

void decay_rows_by_sum(const double* sum, std::int64_t width, float* x, std::int64_t count, std::int64_t key_dim) {
  for (std::int64_t d = 0; d < width; ++d) {
    const auto factor = static_cast<float>(std::exp(sum[d]));
    if (width == 1) return tile().scale(factor, x, count * key_dim);
    for (std::int64_t t = 0; t < count; ++t) x[t * key_dim + d] *= factor;
  }
}

void check_view(const char* who, const char* what, const ConstTensorView& x, std::int64_t e0, std::int64_t e1, std::int64_t e2,
                std::int64_t e3, bool f32_only) {
  const bool fits = x.geometry.num_axes == 4 && x.extent(0) == e0 && x.extent(1) == e1 && x.extent(2) == e2 && x.extent(3) == e3;
  if (!fits) {
    throw Error(ErrorKind::argument, fmt::format("{}: {} is {}, want ({}, {}, {}, {})", who, what, to_string(x.geometry), e0, e1, e2, e3));
  }
  if (x.dtype == DType::f64 || (f32_only && x.dtype != DType::f32)) {
    throw Error(ErrorKind::argument, fmt::format("{}: {} is {}, want {}", who, what, name(x.dtype), f32_only ? "f32" : "f32, f16 or bf16"));
  }
  if (e3 > 1 && x.stride(3) != 1) {
    throw Error(ErrorKind::argument, fmt::format("{}: the last axis of {} has stride {}, want 1", who, what, x.stride(3)));
  }
}

void check_bonus(const char* who, const ConstTensorView& bonus, std::int64_t batch, std::int64_t tokens, std::int64_t heads,
                 std::int64_t key_dim) {
  if (!bonus) return;
  check_view(who, "bonus", bonus, batch, tokens, heads, key_dim, true);
  if ((batch > 1 && bonus.stride(0) != 0) || (tokens > 1 && bonus.stride(1) != 0)) {
    throw Error(ErrorKind::argument, fmt::format("{}: bonus has strides {} and {} over batch and tokens, want 0: it is one per head", who,
                                                 bonus.stride(0), bonus.stride(1)));
  }
}

void check_log_decay(const char* who, const ConstTensorView& log_decay, std::int64_t batch, std::int64_t tokens, std::int64_t heads,
                     std::int64_t key_dim) {
  if (!log_decay) return;
  const bool scalar = log_decay.geometry.num_axes == 4 && log_decay.extent(3) == 1;
  check_view(who, "log_decay", log_decay, batch, tokens, heads, scalar ? 1 : key_dim, true);
}

bool is_constant(const ConstTensorView& log_decay, const ConstTensorView& dlog_decay, std::int64_t batch, std::int64_t tokens) {
  if (dlog_decay.extent(0) != 1 || dlog_decay.extent(1) != 1 || dlog_decay.extent(3) != 1) return false;
  return batch != 1 || tokens != 1 || (log_decay && log_decay.stride(0) == 0 && log_decay.stride(1) == 0);
}

}  // namespace cpu::linear
SEQCCL_END
