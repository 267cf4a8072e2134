// linear_chunk.cuh - how kernels of linear attention read and write the matrices of a chunk.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "instructions.cuh"
#include "linear_problem.hpp"

SEQCCL_BEGIN
namespace cuda {

inline constexpr unsigned all_lanes_of_warp = 0xffffffffU;

/// A ChunkMatrix as one item has it.
struct ItemMatrix {
  const void* data;
  std::int64_t row;
  const float* factor;
  int factor_width, rows, columns;
  float scale;
  DType type;

  __device__ ItemMatrix(const ChunkMatrix& m, const Segment& segment, const Item& item)
      : data(nullptr),
        row(m.row),
        factor(m.factor == nullptr ? nullptr : m.factor + item.index * chunk_tokens * m.factor_width),
        factor_width(m.factor_width),
        rows(m.rows_are_tokens ? segment.count(item.chunk) : m.rows),
        columns(m.columns_are_tokens ? segment.count(item.chunk) : m.columns),
        scale(m.scale),
        type(m.type) {
    const std::int64_t offset = item.b * m.batch + item.h * m.head + item.chunk * m.chunk;
    data = static_cast<const char*>(m.data) + offset * (m.type == f32 ? 4 : 2);
  }
  /// Without its factors; the element must be there.
  __device__ float plain(int r, int x) const {
    const std::int64_t at = r * row + x;
    if (type == f32) return static_cast<const float*>(data)[at];
    if (type == f16) return widen(static_cast<const __half*>(data)[at]);
    return widen(static_cast<const __nv_bfloat16*>(data)[at]);
  }
  /// 0 where there is none.
  __device__ float at(int r, int x) const {
    if (r >= rows || x >= columns) return 0;
    float value = plain(r, x) * scale;
    if (factor != nullptr) value *= factor[r * factor_width + (factor_width == 1 ? 0 : x)];
    return value;
  }
  /// Numbers of 11 bits: their lower half is 0.
  __device__ bool is_exact() const { return type != f32 && factor == nullptr && scale == 1; }
  /// Rows of whole fours, each at a multiple of its size.
  __device__ bool by_four() const {
    const std::uintptr_t bytes = type == f32 ? 16 : 8;
    return columns % 4 == 0 && row % 4 == 0 && reinterpret_cast<std::uintptr_t>(data) % bytes == 0;
  }
  __device__ void set(int r, int x, float value) const {
    void* const to = const_cast<void*>(data);
    const std::int64_t at = r * row + x;
    if (type == f32)
      static_cast<float*>(to)[at] = value;
    else if (type == f16)
      static_cast<__half*>(to)[at] = __float2half_rn(value);
    else
      static_cast<__nv_bfloat16*>(to)[at] = __float2bfloat16_rn(value);
  }
};

/// Four elements of a row, of which all are there or none: one load.
__device__ __forceinline__ float4 four_at(const ItemMatrix& m, int r, int x) {
  if (r >= m.rows || x >= m.columns) return make_float4(0, 0, 0, 0);
  const std::int64_t at = r * m.row + x;
  float4 y;
  if (m.type == f32) {
    y = *reinterpret_cast<const float4*>(static_cast<const float*>(m.data) + at);
  } else {
    const uint2 both = *reinterpret_cast<const uint2*>(static_cast<const std::uint16_t*>(m.data) + at);
    float2 low, high;
    if (m.type == f16) {
      low = __half22float2(*reinterpret_cast<const __half2*>(&both.x)), high = __half22float2(*reinterpret_cast<const __half2*>(&both.y));
    } else {
      low = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&both.x));
      high = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&both.y));
    }
    y = make_float4(low.x, low.y, high.x, high.y);
  }
  float4 by = make_float4(m.scale, m.scale, m.scale, m.scale);
  if (m.factor != nullptr && m.factor_width == 1) {
    const float factor = m.factor[r] * m.scale;
    by = make_float4(factor, factor, factor, factor);
  } else if (m.factor != nullptr) {
    const float4 factor = *reinterpret_cast<const float4*>(m.factor + r * m.factor_width + x);
    by = make_float4(factor.x * m.scale, factor.y * m.scale, factor.z * m.scale, factor.w * m.scale);
  }
  return make_float4(y.x * by.x, y.y * by.y, y.z * by.z, y.w * by.w);
}

/// A tile of `tile_rows` x `tile_columns` in shared memory, `pitch` apart, from (first_row, first_column) of m, by `threads` threads.
template <int tile_rows, int tile_columns, int pitch, int threads>
__device__ __forceinline__ void load_tile(const ItemMatrix& m, int first_row, int first_column, float* to) {
  static_assert(tile_columns % 4 == 0 && pitch % 4 == 0 && tile_rows * tile_columns % (4 * threads) == 0);
  if (m.by_four()) {
#pragma unroll 2
    for (int n = thread_index(); n < tile_rows * tile_columns / 4; n += threads) {
      const int r = n / (tile_columns / 4), x = n % (tile_columns / 4) * 4;
      *reinterpret_cast<float4*>(to + r * pitch + x) = four_at(m, first_row + r, first_column + x);
    }
    return;
  }
#pragma unroll 1
  for (int n = thread_index(); n < tile_rows * tile_columns; n += threads) {
    const int r = n / tile_columns, x = n % tile_columns;
    to[r * pitch + x] = m.at(first_row + r, first_column + x);
  }
}

/// acc (16 tiles_m, 8 tiles_n) += a b over `depth` numbers in shared memory. Element (m, k) of a lies at a[m a_row + k a_column], (k, n) of
/// b at b[k b_row + n b_column]; with the pitches of this file no two lanes of a load meet in a bank.
template <int tiles_m, int tiles_n, int depth, int a_row, int a_column, int b_row, int b_column>
__device__ __forceinline__ void multiply_tiles(const float* a, const float* b, bool exact_a, bool exact_b, float (&acc)[tiles_m][tiles_n][4]) {
  const int lane = thread_index() % 32, group = lane / 4, within = lane % 4;
  a += group * a_row + within * a_column;
  b += within * b_row + group * b_column;
#pragma unroll 1
  for (int k = 0; k < depth; k += 8, a += 8 * a_column, b += 8 * b_row) {
    std::uint32_t high[tiles_m][4], low[tiles_m][4];
#pragma unroll
    for (int m = 0; m < tiles_m; ++m)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float x = a[(16 * m + e % 2 * 8) * a_row + e / 2 * 4 * a_column];
        high[m][e] = __float_as_uint(x), low[m][e] = 0;
        if (!exact_a) {
          const Split parts = split(x);
          high[m][e] = parts.high, low[m][e] = parts.low;
        }
      }
#pragma unroll
    for (int n = 0; n < tiles_n; ++n) {
      const float x0 = b[8 * n * b_column], x1 = b[8 * n * b_column + 4 * b_row];
      std::uint32_t b0 = __float_as_uint(x0), b1 = __float_as_uint(x1);
      if (!exact_b) {
        const Split parts0 = split(x0), parts1 = split(x1);
        b0 = parts0.high, b1 = parts1.high;
#pragma unroll
        for (int m = 0; m < tiles_m; ++m) multiply_add_tf32(acc[m][n], high[m], parts0.low, parts1.low);
      }
#pragma unroll
      for (int m = 0; m < tiles_m; ++m) {
        if (!exact_a) multiply_add_tf32(acc[m][n], low[m], b0, b1);
        multiply_add_tf32(acc[m][n], high[m], b0, b1);
      }
    }
  }
}

/// Calls visit(row, column, value) for the lane's numbers of an accumulator; rows and columns from those of its first tile.
template <int tiles_m, int tiles_n, class Visit>
__device__ __forceinline__ void for_each_number(float (&acc)[tiles_m][tiles_n][4], Visit visit) {
  const int lane = thread_index() % 32;
#pragma unroll
  for (int m = 0; m < tiles_m; ++m)
#pragma unroll
    for (int n = 0; n < tiles_n; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) visit(16 * m + lane / 4 + e / 2 * 8, 8 * n + lane % 4 * 2 + e % 2, acc[m][n][e]);
}

/// Blocks of a launch over items times `tiles`.
inline unsigned item_blocks(const Segment& s, int tiles = 1) { return static_cast<unsigned>(s.num_items() * tiles); }

}  // namespace cuda
SEQCCL_END
