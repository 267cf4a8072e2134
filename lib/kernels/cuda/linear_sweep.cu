// linear_sweep.cu - states of linear attention from chunk to chunk: what is left of the sequence once chunks have been prepared.
// SPDX-License-Identifier: Apache-2.0
#include "linear_chunk.cuh"

SEQCCL_BEGIN
namespace cuda {
namespace {

constexpr int num_threads = 128, slab = 32;  // columns of the states that a block carries
constexpr int depth = 32, rows_at_once = 128;
constexpr int slab_pitch = slab + 8, p_pitch = depth + 4, a_pitch = rows_at_once + 8;

/// In floats: the state, `mid` of a chunk, and two tiles of operands.
struct Layout {
  int mid, a, b, total;
  SEQCCL_HOST_DEVICE explicit Layout(int key_dim) {
    mid = (key_dim + 15) / 16 * 16 * slab_pitch;
    a = mid + chunk_tokens * slab_pitch;
    b = a + depth * a_pitch;  // the tile of p, 64 x 36, needs less
    total = b + depth * slab_pitch;
  }
};
static_assert(depth * a_pitch >= chunk_tokens * p_pitch);

/// A block per (b, h) and 32 columns. Four warps: 16 rows of `mid` each, then 32 rows of S each.
__global__ void __launch_bounds__(num_threads, 3) sweep(const __grid_constant__ SweepProblem p) {
  extern __shared__ __align__(16) float memory[];
  const Layout layout(p.key_dim);
  float *const state = memory, *const mid = memory + layout.mid, *const a_tile = memory + layout.a, *const b_tile = memory + layout.b;
  const int num_slabs = (p.width + slab - 1) / slab, first = static_cast<int>(blockIdx.x) % num_slabs * slab;
  const std::int64_t run = blockIdx.x / num_slabs;
  const int warp = thread_index() / 32, key_rows = (p.key_dim + 15) / 16 * 16;
  {
    const Item start(p, run, 0);
    const ItemMatrix initial(p.initial, p, start);
    for (int n = thread_index(); n < key_rows * slab; n += num_threads) {
      const int d = n / slab, x = n % slab;
      float value = 0;
      if (p.initial.data != nullptr) value = initial.at(d, first + x);
      if (p.identity && d == first + x) value = 1;
      state[d * slab_pitch + x] = value;
    }
  }
#pragma unroll 1
  for (int step = 0; step < p.num_chunks; ++step) {
    const Item item(p, run, p.backwards ? p.num_chunks - 1 - step : step);
    if (p.states != nullptr)
      for (int n = thread_index(); n < p.key_dim * slab; n += num_threads)
        if (first + n % slab < p.width)
          p.states[(item.index * p.key_dim + n / slab) * p.width + first + n % slab] = state[n / slab * slab_pitch + n % slab];
    if (p.p.data != nullptr) {
      const ItemMatrix left(p.p, p, item), middle(p.middle, p, item);
      float acc[1][slab / 8][4] = {};
#pragma unroll 1
      for (int k = 0; k < p.key_dim; k += depth) {
        load_tile<chunk_tokens, depth, p_pitch, num_threads>(left, 0, k, a_tile);
        __syncthreads();
        if (k + depth <= key_rows)
          multiply_tiles<1, slab / 8, depth, p_pitch, 1, slab_pitch, 1>(a_tile + warp * 16 * p_pitch, state + k * slab_pitch, false, false, acc);
        else
          multiply_tiles<1, slab / 8, 16, p_pitch, 1, slab_pitch, 1>(a_tile + warp * 16 * p_pitch, state + k * slab_pitch, false, false, acc);
        __syncthreads();
      }
      const ItemMatrix out(p.mid, p, item);
      for_each_number(acc, [&](int r, int x, float value) {
        const int row = warp * 16 + r;
        value *= p.sign;
        if (p.middle.data != nullptr) value += middle.at(row, first + x);
        mid[row * slab_pitch + x] = value;
        if (p.mid.data != nullptr && row < out.rows && first + x < out.columns) out.set(row, first + x, value);
      });
    }
#pragma unroll 1
    for (int rows = 0; rows < p.key_dim; rows += rows_at_once) {
      const bool has_rows = rows + warp * 32 < key_rows;  // of this warp: 16 or 32
      float acc[2][slab / 8][4] = {};
#pragma unroll 1
      for (int part = 0; part < 2; ++part) {
        const ChunkMatrix& left = part == 0 ? p.a1 : p.a2;
        if (left.data == nullptr) continue;
        const ItemMatrix a(left, p, item), b(p.b1, p, item);
        const bool exact_a = a.is_exact(), exact_b = part == 0 && b.is_exact();
        if (part == 1 && p.sign2 < 0) for_each_number(acc, [](int, int, float& value) { value = -value; });
#pragma unroll 1
        for (int token = 0; token < chunk_tokens; token += depth) {
          __syncthreads();  // the tiles have been read, `mid` is written
          load_tile<depth, rows_at_once, a_pitch, num_threads>(a, token, rows, a_tile);
          if (part == 0) load_tile<depth, slab, slab_pitch, num_threads>(b, token, first, b_tile);
          __syncthreads();
          const float* const right = part == 0 ? b_tile : mid + token * slab_pitch;
          if (has_rows)
            multiply_tiles<2, slab / 8, depth, 1, a_pitch, slab_pitch, 1>(a_tile + warp * 32, right, exact_a, exact_b, acc);
        }
        if (part == 1 && p.sign2 < 0) for_each_number(acc, [](int, int, float& value) { value = -value; });
      }
      for_each_number(acc, [&](int r, int x, float value) {
        const int d = rows + warp * 32 + r;
        if (d >= key_rows) return;
        float& number = state[d * slab_pitch + x];
        if (p.total != nullptr && d < p.key_dim) number *= p.total[item.index * p.total_width + (p.total_width == 1 ? 0 : d)];
        number += value;
      });
    }
    __syncthreads();
  }
  const Item start(p, run, 0);
  const ItemMatrix final(p.final, p, start);
  if (p.final.data == nullptr) return;
  for (int n = thread_index(); n < p.key_dim * slab; n += num_threads)
    if (first + n % slab < p.width) final.set(n / slab, first + n % slab, state[n / slab * slab_pitch + n % slab]);
}

}  // namespace

int launch_sweep(const SweepProblem& p, Stream stream) {
  const int bytes = Layout(p.key_dim).total * 4;
  if (const cudaError_t error = cudaFuncSetAttribute(sweep, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes)) return error;
  const unsigned blocks = static_cast<unsigned>(std::int64_t{p.batch} * p.heads * ((p.width + slab - 1) / slab));
  sweep<<<blocks, num_threads, bytes, stream>>>(p);
  return cudaGetLastError();
}

}  // namespace cuda
SEQCCL_END
