// tiles.cuh - tiles of 16-bit rows in shared memory, how they get there, and the two products that warps make of them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "instructions.cuh"

SEQCCL_BEGIN
namespace cuda {

/// A tile of rows of `size` 16-bit elements in shared memory. The 16-byte chunks of a row are permuted within groups of 8 (or 4), so that
/// any 8 rows in sequence have their n-th chunk in banks of their own.
template <int size>
struct SharedRows {
  static constexpr int chunks = size / 8, group = chunks % 8 == 0 ? 8 : 4;
  static_assert(chunks % group == 0);
  __device__ static int permutation(int r) { return group == 8 ? r & 7 : r >> 1 & 3; }
  /// Byte offset of a chunk of row r.
  __device__ static unsigned chunk_at(int r, int chunk) { return static_cast<unsigned>(r * size * 2 + ((chunk ^ permutation(r)) << 4)); }

  /// Addresses of chunks 2 n + odd of row r; chunks in other groups and rows at distances of 16 have the same permutation.
  unsigned pair[group / 2];
  __device__ SharedRows(unsigned tile, int r, int odd) {
#pragma unroll
    for (int n = 0; n < group / 2; ++n) pair[n] = tile + chunk_at(r, 2 * n + odd);
  }
  /// Address of chunk 2 n + odd of row r + 16 rows.
  __device__ unsigned at(int n, int rows) const { return pair[n % (group / 2)] + static_cast<unsigned>(n / (group / 2) * group * 16 + rows * 32 * size); }
};

/// Begins to copy `rows` rows of up to `size` elements, of which `num_rows` rows of `width` elements are there; the rest becomes 0.
template <int rows, int size, class T>
__device__ __forceinline__ void copy_rows(unsigned to, const T* from, std::int64_t stride, int num_rows, int width) {
  using Rows = SharedRows<size>;
  constexpr int at_once = 128 / Rows::group;  // rows; a multiple of 8, so that the permutation stays
  static_assert(rows % at_once == 0 && at_once % 8 == 0);
  int row = thread_index() / Rows::group;
  const int column = thread_index() % Rows::group;
  const T* source = from + row * stride + column * 8;
  unsigned target = to + Rows::chunk_at(row, column);
#pragma unroll 1  // unrolled, it keeps an address per turn in registers
  for (int n = 0; n < rows / at_once; ++n) {
#pragma unroll
    for (int first = 0; first < Rows::chunks; first += Rows::group) {
      const bool inside = row < num_rows && (first + column) * 8 < width;
      copy_async_16(target + first * 16, inside ? source + first * 8 : from, inside);
    }
    row += at_once, source += at_once * stride, target += at_once * size * 2;
  }
}
/// The rows of the block's queries, each at an address of its own.
template <int rows, int size, class RowAddress>
__device__ __forceinline__ void copy_queries(unsigned to, int num_rows, int width, RowAddress address) {
  constexpr int chunks = size / 8;
#pragma unroll 1
  for (int index = thread_index(); index < rows * chunks; index += 128) {
    const int r = index / chunks, chunk = index % chunks;
    const bool inside = r < num_rows && chunk * 8 < width;
    copy_async_16(to + SharedRows<size>::chunk_at(r, chunk), address(inside ? r : 0) + (inside ? chunk * 8 : 0), inside);
  }
}

/// A size as a type, for functions that are told it by an argument.
template <int size>
struct Size {
  static constexpr int value = size;
};

/// scores (rows, columns) += a b^T: `tiles` times 16 rows of a from where `a` points, all rows of b, `size` elements each.
template <class T, int size, int tiles, int columns>
__device__ __forceinline__ void multiply_rows(const SharedRows<size>& a, const SharedRows<size>& b, float (&scores)[tiles][columns][4]) {
#pragma unroll
  for (int d = 0; d < size / 16; ++d) {
    std::uint32_t left[tiles][4];
#pragma unroll
    for (int t = 0; t < tiles; ++t) load_tiles(left[t], a.at(d, t));
#pragma unroll
    for (int n = 0; n < columns / 2; ++n) {
      std::uint32_t right[4];
      load_tiles(right, b.at(d, n));
#pragma unroll
      for (int t = 0; t < tiles; ++t) {
        multiply_add<T>(scores[t][2 * n], left[t], right[0], right[1]);
        multiply_add<T>(scores[t][2 * n + 1], left[t], right[2], right[3]);
      }
    }
  }
}

/// out[t] (16 rows, size) += weights[t] (16 rows, columns) v, the rows of v being the columns.
template <class T, int size, int tiles, int columns>
__device__ __forceinline__ void multiply_columns(const std::uint32_t (&weights)[tiles][columns][4], const SharedRows<size>& v,
                                                 float (&out)[tiles][size / 8][4]) {
#pragma unroll
  for (int k = 0; k < columns; ++k) {
#pragma unroll
    for (int d = 0; d < size / 16; ++d) {
      std::uint32_t right[4];
      load_tiles_transposed(right, v.at(d, k));
#pragma unroll
      for (int t = 0; t < tiles; ++t) {
        multiply_add<T>(out[t][2 * d], weights[t][k], right[0], right[1]);
        multiply_add<T>(out[t][2 * d + 1], weights[t][k], right[2], right[3]);
      }
    }
  }
}

/// The operands of a warp's lanes, as load_tiles wants them: 16 rows of a left one, 16 rows of a right one that is used by row, or by column.
template <int size>
__device__ __forceinline__ SharedRows<size> left_rows(unsigned tile, int first_row) {
  const int lane = thread_index() % 32;
  return {tile, first_row + lane % 16, lane / 16};
}
template <int size>
__device__ __forceinline__ SharedRows<size> right_rows(unsigned tile) {
  const int lane = thread_index() % 32;
  return {tile, lane % 8 + lane / 16 * 8, lane / 8 % 2};
}
template <int size>
__device__ __forceinline__ SharedRows<size> right_columns(unsigned tile) {
  return left_rows<size>(tile, 0);
}

}  // namespace cuda
SEQCCL_END
