// attend_plain.cuh - softmax attention in f32 for what tensor cores do not take: f32, odd sizes, any alignment, any scale. Correct, not fast.
// SPDX-License-Identifier: Apache-2.0
//
// Four warps with four rows each. A lane has a key when scores are made, columns lane + 32 n of o when weights meet values.
#pragma once

#include "attend_rows.cuh"
#include "instructions.cuh"

SEQCCL_BEGIN
namespace cuda {

struct PlainTile {
  static constexpr int num_threads = 128, warp_rows = 4, rows = plain_tile_rows, keys = 32;
  static_assert(rows == num_threads / 32 * warp_rows);
  static constexpr int max_columns = 256 / 32;  // of o per lane
  /// Keys lie in rows of an odd number of floats, so that 32 lanes read 32 of them from 32 banks.
  SEQCCL_HOST_DEVICE static constexpr int key_stride(int dk) { return dk | 1; }
  static constexpr int shared_bytes(int dk, int dv) { return (rows * dk + keys * key_stride(dk) + keys * dv) * 4; }
};

template <class T>
__device__ __forceinline__ void widen_rows(float* to, int stride, int num_rows, int size, const T* from, std::int64_t from_stride) {
  for (int index = static_cast<int>(threadIdx.x); index < num_rows * size; index += PlainTile::num_threads) {
    const int r = index / size, d = index % size;
    to[r * stride + d] = widen(from[r * from_stride + d]);
  }
}

template <class T>
__global__ void __launch_bounds__(128) attend_plain(const __grid_constant__ AttendProblem p) {
  using Tile = PlainTile;
  extern __shared__ __align__(16) float shared_floats[];
  float* const q = shared_floats;          // (rows, dk)
  float* const k = q + Tile::rows * p.dk;  // (keys, key_stride)
  float* const v = k + Tile::keys * Tile::key_stride(p.dk);
  __shared__ BlockShared<Tile::rows> block;
  if (!block.begin(p, Tile::keys)) return;
  const BlockWork& work = block.work;
  const T* const q_head = static_cast<const T*>(p.q.data) + work.batch * p.q.batch_stride;
  const T* const k_head = static_cast<const T*>(p.k.data) + work.batch * p.k.batch_stride + work.kv_head * p.k.head_stride;
  const T* const v_head = static_cast<const T*>(p.v.data) + work.batch * p.v.batch_stride + work.kv_head * p.v.head_stride;
  const int lane = static_cast<int>(threadIdx.x) % 32, first_row = static_cast<int>(threadIdx.x) / 32 * Tile::warp_rows;
  for (int r = first_row; r < min(first_row + Tile::warp_rows, work.num_rows); ++r)
    for (int d = lane; d < p.dk; d += 32)
      q[r * p.dk + d] = widen(q_head[work.token(r) * p.q.token_stride + work.head(r) * p.q.head_stride + d]) * p.scale;

  float out[Tile::warp_rows][Tile::max_columns] = {}, high[Tile::warp_rows], total[Tile::warp_rows] = {};
  for (float& m : high) m = -INFINITY;
#pragma unroll 1
  for (int turn = 0; block.tiles[turn].count > 0; turn ^= 1) {
    const KeyTile& tile = block.tiles[turn];
    if (threadIdx.x == 0) block.step(p, Tile::keys, block.tiles[turn ^ 1]);
    widen_rows(k, Tile::key_stride(p.dk), tile.count, p.dk, k_head + tile.first * p.k.token_stride, p.k.token_stride);
    widen_rows(v, p.dv, tile.count, p.dv, v_head + tile.first * p.v.token_stride, p.v.token_stride);
    __syncthreads();
#pragma unroll
    for (int n = 0; n < Tile::warp_rows; ++n) {
      const int r = first_row + n;
      const Columns seen = r < work.num_rows ? visible_columns(tile, block.token[r]) : Columns{0, 0};
      if (seen.first >= seen.end) continue;  // equal for all lanes
      float score = -INFINITY;
      const bool visible = lane >= seen.first && lane < seen.end;
      if (visible) {
        score = 0;
        for (int d = 0; d < p.dk; ++d) score = fmaf(q[r * p.dk + d], k[lane * Tile::key_stride(p.dk) + d], score);
        if (p.softcap != 0) score = p.softcap * tanhf(score / p.softcap);
        score *= log2_e;
      }
      float most = fmaxf(high[n], score);
      for (int distance = 16; distance > 0; distance /= 2) most = fmaxf(most, __shfl_xor_sync(all_lanes, most, distance));
      const float base = most == -INFINITY ? 0.0F : most, shrink = exp2f(high[n] - base), weight = exp2f(score - base);
      high[n] = most;
      total[n] = total[n] * shrink + weight;  // this lane's keys; added up at the end
#pragma unroll
      for (float& sum : out[n]) sum *= shrink;
      for (int key = seen.first; key < seen.end; ++key) {
        const float w = __shfl_sync(all_lanes, weight, key);
#pragma unroll
        for (int c = 0; c < Tile::max_columns; ++c)
          if (c * 32 + lane < p.dv) out[n][c] = fmaf(w, v[key * p.dv + c * 32 + lane], out[n][c]);
      }
    }
    __syncthreads();  // all have done with the tile
  }
#pragma unroll
  for (int n = 0; n < Tile::warp_rows; ++n) {
    const int r = first_row + n;
    if (r >= work.num_rows) break;
    float sum = total[n];
    for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(all_lanes, sum, distance);
    const RowResult result = finish_row(p, work, r, high[n], sum);
    __syncwarp();  // all lanes have read lse
    if (result.out == nullptr) continue;
    if (lane == 0) *result.lse = result.new_lse;
#pragma unroll
    for (int c = 0; c < Tile::max_columns; ++c) {
      const int column = c * 32 + lane;
      if (column >= p.dv) continue;
      const float before = result.keep != 0 ? result.keep * result.out[column] : 0.0F;
      result.out[column] = before + result.take * out[n][c];
    }
  }
}

}  // namespace cuda
SEQCCL_END
