// attend_backward_plain.cuh - gradients of softmax attention in f32 for what tensor cores do not take. Correct, not fast.
// SPDX-License-Identifier: Apache-2.0
//
// As attend_backward_tensor.cuh: a launch for rows of queries, one for rows of keys. Four warps with four rows each; a lane has a column
// when dS and P are made, elements lane + 32 n of the gradients when they are summed.
#pragma once

#include "attend_rows.cuh"
#include "instructions.cuh"

SEQCCL_BEGIN
namespace cuda {

struct BackwardPlainTile {
  static constexpr int num_threads = 128, warp_rows = 4, rows = backward_plain_rows, columns = 32;
  static_assert(rows == num_threads / 32 * warp_rows);
  static constexpr int max_elements = 256 / 32;  // of a gradient per lane
  SEQCCL_HOST_DEVICE static constexpr int stride(int size) { return size | 1; }  // lanes with a row each read from 32 banks
  static constexpr int shared_bytes(int dk, int dv) { return (rows * (dk + dv) + columns * (stride(dk) + stride(dv))) * 4; }
};

template <class T, bool by_keys>
__global__ void __launch_bounds__(128, 3) attend_backward_plain(const __grid_constant__ AttendBackwardProblem p) {
  using Tile = BackwardPlainTile;
  extern __shared__ __align__(16) float shared_floats[];
  const int c_stride = Tile::stride(p.dk), d_stride = Tile::stride(p.dv);
  float* const a = shared_floats;           // (rows, dk): q; where rows are keys: k
  float* const b = a + Tile::rows * p.dk;   // (rows, dv): dout; v
  float* const c = b + Tile::rows * p.dv;   // (columns, dk): k; q
  float* const d = c + Tile::columns * c_stride;  // (columns, dv): v; dout
  __shared__ BlockShared<Tile::rows, by_keys> block;
  if (!block.begin(p, Tile::columns)) return;
  const BlockWork& work = block.work;
  const auto row_of = [&](const Operand& x, std::int32_t token, std::int32_t head) {
    return static_cast<const T*>(x.data) + work.batch * x.batch_stride + token * x.token_stride + head * x.head_stride;
  };
  const auto head_of = [&](int r) { return by_keys ? work.kv_head : work.head(r); };
  const int lane = static_cast<int>(threadIdx.x) % 32, first_row = static_cast<int>(threadIdx.x) / 32 * Tile::warp_rows;
  float row_lse[Tile::warp_rows] = {}, row_delta[Tile::warp_rows] = {};
#pragma unroll
  for (int n = 0; n < Tile::warp_rows; ++n) {
    const int r = first_row + n;
    if (r >= work.num_rows) break;
    const T* const from_a = row_of(by_keys ? p.k : p.q, work.token(r), head_of(r));
    const T* const from_b = row_of(by_keys ? p.v : p.dout, work.token(r), head_of(r));
#pragma unroll 2
    for (int x = lane; x < p.dk; x += 32) a[r * p.dk + x] = widen(from_a[x]);
#pragma unroll 2
    for (int x = lane; x < p.dv; x += 32) b[r * p.dv + x] = widen(from_b[x]);
    if (by_keys) continue;
    row_lse[n] = *p.lse.at(work.batch, work.token(r), work.head(r));
    row_delta[n] = *p.delta.at(work.batch, work.token(r), work.head(r));
  }

  float ds_sums[Tile::warp_rows][Tile::max_elements] = {}, p_sums[Tile::warp_rows][Tile::max_elements] = {};
#pragma unroll 1
  for (int turn = 0; block.tiles[turn].count > 0; turn ^= 1) {
    const KeyTile& tile = block.tiles[turn];
    if (threadIdx.x == 0) block.step(p, Tile::columns, block.tiles[turn ^ 1]);
    const std::int32_t head = by_keys ? tile.head : work.kv_head;
    for (int r = static_cast<int>(threadIdx.x) / 32; r < tile.count; r += Tile::num_threads / 32) {
      const T* const from_c = row_of(by_keys ? p.q : p.k, tile.first + r, head);
      const T* const from_d = row_of(by_keys ? p.dout : p.v, tile.first + r, head);
#pragma unroll 2
      for (int x = lane; x < p.dk; x += 32) c[r * c_stride + x] = widen(from_c[x]);
#pragma unroll 2
      for (int x = lane; x < p.dv; x += 32) d[r * d_stride + x] = widen(from_d[x]);
    }
    __syncthreads();
    float column_lse = 0, column_delta = 0;
    if (by_keys && lane < tile.count) {
      column_lse = *p.lse.at(work.batch, tile.first + lane, head);
      column_delta = *p.delta.at(work.batch, tile.first + lane, head);
    }
#pragma unroll
    for (int n = 0; n < Tile::warp_rows; ++n) {
      const int r = first_row + n;
      const Columns seen = r < work.num_rows ? visible_columns(tile, block.token[r]) : Columns{0, 0};
      if (seen.first >= seen.end) continue;  // equal for all lanes
      float weight = 0, ds = 0;
      if (lane >= seen.first && lane < seen.end) {
        float score = 0, product = 0, slope = 1;
        for (int x = 0; x < p.dk; ++x) score = fmaf(a[r * p.dk + x], c[lane * c_stride + x], score);
        for (int x = 0; x < p.dv; ++x) product = fmaf(b[r * p.dv + x], d[lane * d_stride + x], product);
        score *= p.scale;
        if (p.softcap != 0) {
          const float t = tanhf(score / p.softcap);
          score = p.softcap * t, slope = 1 - t * t;
        }
        const float lse = by_keys ? column_lse : row_lse[n];
        weight = expf(score - (lse == -INFINITY ? 0.0F : lse));
        ds = weight * (product - (by_keys ? column_delta : row_delta[n])) * slope;
      }
      for (int column = seen.first; column < seen.end; ++column) {
        const float from_ds = __shfl_sync(all_lanes, ds, column), from_p = __shfl_sync(all_lanes, weight, column);
#pragma unroll
        for (int x = 0; x < Tile::max_elements; ++x) {
          if (x * 32 + lane < p.dk) ds_sums[n][x] = fmaf(from_ds, c[column * c_stride + x * 32 + lane], ds_sums[n][x]);
          if (by_keys && x * 32 + lane < p.dv) p_sums[n][x] = fmaf(from_p, d[column * d_stride + x * 32 + lane], p_sums[n][x]);
        }
      }
    }
    __syncthreads();  // all have done with the tile
  }

  const bool fresh = by_keys ? p.fresh_dkv : p.fresh_dq;
#pragma unroll
  for (int n = 0; n < Tile::warp_rows; ++n) {
    const int r = first_row + n;
    if (r >= work.num_rows) break;
    float* const first = (by_keys ? p.dkeys : p.dq).at(work.batch, work.token(r), head_of(r));
#pragma unroll
    for (int x = 0; x < Tile::max_elements; ++x) {
      const int at = x * 32 + lane;
      if (at < p.dk) first[at] = (fresh ? 0.0F : first[at]) + p.scale * ds_sums[n][x];
      if (by_keys && at < p.dv) {
        float* const second = p.dvalues.at(work.batch, work.token(r), work.kv_head) + at;
        *second = (fresh ? 0.0F : *second) + p_sums[n][x];
      }
    }
  }
}

}  // namespace cuda
SEQCCL_END
