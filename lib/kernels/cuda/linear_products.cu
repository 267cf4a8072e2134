// linear_products.cu - the matrix products of linear attention: one for each chunk, of any operands, on tensor cores in split f32.
// SPDX-License-Identifier: Apache-2.0
#include "linear_chunk.cuh"

SEQCCL_BEGIN
namespace cuda {
namespace {

constexpr int num_threads = 128, tile = 64, depth = 32;
constexpr int wide_pitch = tile + 8, narrow_pitch = depth + 4;  // of operands stored (depth, tile) and (tile, depth)
constexpr int tile_floats = tile * narrow_pitch;
static_assert(tile_floats == depth * wide_pitch);

/// One operand's share of a step: 64 rows or columns of the result, `depth` numbers of the sum.
__device__ __forceinline__ void load_operand(const ItemMatrix& m, bool tall, int first, int step, float* to) {
  if (tall)
    load_tile<tile, depth, narrow_pitch, num_threads>(m, first, step, to);
  else
    load_tile<depth, tile, wide_pitch, num_threads>(m, step, first, to);
}

/// Four warps of 32 x 32 numbers each.
__global__ void __launch_bounds__(num_threads, 3) multiply_chunks(const __grid_constant__ ProductProblem p) {
  __shared__ __align__(16) float a_tile[tile_floats], b_tile[tile_floats];
  const int tiles_n = (p.out.columns + tile - 1) / tile, tiles_m = (p.out.rows + tile - 1) / tile;
  const Item item(p, blockIdx.x / (tiles_m * tiles_n));
  const int first_m = static_cast<int>(blockIdx.x) / tiles_n % tiles_m * tile, first_n = static_cast<int>(blockIdx.x) % tiles_n * tile;
  const int warp = thread_index() / 32, warp_m = warp / 2 * 32, warp_n = warp % 2 * 32;
  float acc[2][4][4] = {};
#pragma unroll 1
  for (int t = 0; t < p.num_terms; ++t) {
    const ProductTerm& term = p.terms[t];
    const ItemMatrix a(term.a, p, item), b(term.b, p, item);
    const int length = term.turn_a ? a.rows : a.columns;
    if (term.sign < 0) for_each_number(acc, [](int, int, float& value) { value = -value; });
#pragma unroll 1
    for (int step = 0; step < length; step += depth) {
      load_operand(a, !term.turn_a, first_m, step, a_tile);
      load_operand(b, term.turn_b, first_n, step, b_tile);
      __syncthreads();
      const bool exact_a = a.is_exact(), exact_b = b.is_exact();
      if (!term.turn_a && !term.turn_b)
        multiply_tiles<2, 4, depth, narrow_pitch, 1, wide_pitch, 1>(a_tile + warp_m * narrow_pitch, b_tile + warp_n, exact_a, exact_b, acc);
      else if (!term.turn_a)
        multiply_tiles<2, 4, depth, narrow_pitch, 1, 1, narrow_pitch>(a_tile + warp_m * narrow_pitch, b_tile + warp_n * narrow_pitch, exact_a, exact_b, acc);
      else if (!term.turn_b)
        multiply_tiles<2, 4, depth, 1, wide_pitch, wide_pitch, 1>(a_tile + warp_m, b_tile + warp_n, exact_a, exact_b, acc);
      else
        multiply_tiles<2, 4, depth, 1, wide_pitch, 1, narrow_pitch>(a_tile + warp_m, b_tile + warp_n * narrow_pitch, exact_a, exact_b, acc);
      __syncthreads();
    }
    if (term.sign < 0) for_each_number(acc, [](int, int, float& value) { value = -value; });
    if (t == 0 && p.factor != nullptr) {
      const float* const factor = p.factor + item.index * chunk_tokens * p.factor_width;
      const int rows = ItemMatrix(p.out, p, item).rows;
      for_each_number(acc, [&](int r, int x, float& value) {
        const int row = first_m + warp_m + r, column = first_n + warp_n + x;
        if (row < rows && column < p.out.columns) value *= factor[row * p.factor_width + (p.factor_width == 1 ? 0 : column)];
      });
    }
  }
  const ItemMatrix out(p.out, p, item), plus(p.plus, p, item);
  for_each_number(acc, [&](int r, int x, float value) {
    const int row = first_m + warp_m + r, column = first_n + warp_n + x;
    if (row >= out.rows || column >= out.columns) return;
    if (p.plus.data != nullptr) value += plus.at(row, column);
    if (p.triangle == Triangle::lower ? column > row : p.triangle == Triangle::strictly_lower && column >= row) value = 0;
    out.set(row, column, p.accumulate ? out.plain(row, column) + value : value);
  });
}

}  // namespace

int launch_products(const ProductProblem& p, Stream stream) {
  const int tiles = (p.out.columns + tile - 1) / tile * ((p.out.rows + tile - 1) / tile);
  multiply_chunks<<<item_blocks(p, tiles), num_threads, 0, stream>>>(p);
  return cudaGetLastError();
}

}  // namespace cuda
SEQCCL_END
