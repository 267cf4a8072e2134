// attend_tensor.cuh - softmax attention on tensor cores: 16-bit q, k, v, sums in f32. Runs on sm_80 and later.
// SPDX-License-Identifier: Apache-2.0
//
// Online softmax (Milakov, Gimelshein, arXiv:1805.02867) in tiles (Dao, arXiv:2307.08691). Per key tile and row, s in base 2:
//
//     m' = max(m, max s)    l <- 2^(m - m') l + sum 2^(s - m')    o <- 2^(m - m') o + 2^(s - m') v
//
// Four warps, each with 16 or 32 rows of queries. q, k, v lie in shared memory; scores, weights and o never leave registers: the
// layout in which a product leaves scores is the one in which the next product takes its left operand. v of a tile arrives while its
// scores are computed, k of the next tile while weights times v are.
#pragma once

#include "attend_rows.cuh"
#include "tiles.cuh"

SEQCCL_BEGIN
namespace cuda {

template <int dk, int dv>
struct TensorTile {
  static constexpr int num_threads = 128;
  static constexpr int warp_tiles = dk <= 192 && dv <= 128 ? 2 : 1;  // 16-row tiles per warp: as many as o leaves registers for
  static constexpr int rows = num_threads / 32 * 16 * warp_tiles;
  static constexpr int keys = dv == 96 || dv == 128 ? 32 : 64;  // more of them spill registers
  static constexpr int shared_bytes = (rows * dk + keys * dk + keys * dv) * 2;
};

/// Weights of 16 rows x keys, as left operands of the next product, from scores; m, l and o (16 rows, dv) of the rows are brought up to date.
template <class T, int keys, int dv>
__device__ __forceinline__ void weigh(const float (&scores)[keys / 8][4], float scale_log2, float (&high)[2], float (&total)[2],
                                      float (&out)[dv / 8][4], std::uint32_t (&weights)[keys / 16][4]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float most = high[i];
#pragma unroll
    for (int n = 0; n < keys / 8; ++n) most = fmaxf(most, fmaxf(scores[n][2 * i], scores[n][2 * i + 1]));
    most = fmaxf(most, __shfl_xor_sync(all_lanes, most, 1));
    most = fmaxf(most, __shfl_xor_sync(all_lanes, most, 2));
    const float base = most == -INFINITY ? 0.0F : most * scale_log2;
    const float shrink = power_of_2(high[i] * scale_log2 - base);
    high[i] = most;
    float sum = 0;
#pragma unroll
    for (int n = 0; n < keys / 8; ++n) {
      const float first = power_of_2(fmaf(scores[n][2 * i], scale_log2, -base));
      const float second = power_of_2(fmaf(scores[n][2 * i + 1], scale_log2, -base));
      sum += first + second;
      weights[n / 2][n % 2 * 2 + i] = pack<T>(first, second);
    }
    total[i] = total[i] * shrink + sum;
#pragma unroll
    for (int n = 0; n < dv / 8; ++n) {
      out[n][2 * i] *= shrink;
      out[n][2 * i + 1] *= shrink;
    }
  }
}

/// A warp's rows of the block: o, and of rows lane / 4 + 8 i of each 16 m and the lane's share of l.
template <class T, int dk, int dv>
struct WarpRows {
  using Tile = TensorTile<dk, dv>;
  static constexpr int keys = Tile::keys, num_tiles = Tile::warp_tiles;
  const BlockShared<Tile::rows>& block;
  float out[num_tiles][dv / 8][4] = {};
  float high[num_tiles][2], total[num_tiles][2] = {};

  __device__ explicit WarpRows(const BlockShared<Tile::rows>& shared) : block(shared) {
#pragma unroll
    for (int t = 0; t < num_tiles; ++t) high[t][0] = high[t][1] = -INFINITY;
  }
  __device__ static int lane() { return thread_index() % 32; }
  __device__ static int first_row() { return thread_index() / 32 * 16 * num_tiles; }
  __device__ static int row_of(int t, int i) { return first_row() + 16 * t + lane() / 4 + 8 * i; }

  /// What a row does not see becomes -inf.
  __device__ void hide(const KeyTile& k, float (&scores)[num_tiles][keys / 8][4]) const {
#pragma unroll
    for (int t = 0; t < num_tiles; ++t)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const Columns seen = visible_columns(k, block.token[row_of(t, i)]);
        const int first_column = lane() % 4 * 2;
#pragma unroll
        for (int n = 0; n < keys / 8; ++n)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const int column = n * 8 + first_column + e;
            if (column < seen.first || column >= seen.end) scores[t][n][2 * i + e] = -INFINITY;
          }
      }
  }
  /// Adds up l over the lanes of each row, and writes what there is of the row.
  __device__ void finish(const AttendProblem& p, float scale_log2) {
    const BlockWork& work = block.work;
#pragma unroll
    for (int t = 0; t < num_tiles; ++t)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float sum = total[t][i];
        sum += __shfl_xor_sync(all_lanes, sum, 1);
        sum += __shfl_xor_sync(all_lanes, sum, 2);
        const int row = row_of(t, i);
        RowResult result{nullptr, nullptr, 0, 0, 0};
        if (row < work.num_rows) result = finish_row(p, work, row, high[t][i] * scale_log2, sum);
        __syncwarp();  // all lanes of a row have read lse
        if (result.out == nullptr) continue;
        const int lane_in_row = lane() % 4;
        if (lane_in_row == 0) *result.lse = result.new_lse;
#pragma unroll
        for (int n = 0; n < dv / 8; ++n) {
          const int column = n * 8 + lane_in_row * 2;
          if (column >= p.dv) continue;
          auto* to = reinterpret_cast<float2*>(result.out + column);
          float2 now{result.take * out[t][n][2 * i], result.take * out[t][n][2 * i + 1]};
          if (result.keep != 0) {
            const float2 before = *to;
            now.x += result.keep * before.x, now.y += result.keep * before.y;
          }
          *to = now;
        }
      }
  }
};

template <class T, int dk, int dv>
__global__ void __launch_bounds__(128) attend_tensor(const __grid_constant__ AttendProblem p) {
  using Tile = TensorTile<dk, dv>;
  extern __shared__ __align__(128) unsigned char shared[];
  const unsigned q = shared_address(shared);        // (rows, dk)
  const unsigned k = q + Tile::rows * dk * 2;       // (keys, dk)
  const unsigned v = k + Tile::keys * dk * 2;       // (keys, dv)
  __shared__ BlockShared<Tile::rows> block;
  if (!block.begin(p, Tile::keys)) return;
  const BlockWork& work = block.work;
  const T* const q_head = static_cast<const T*>(p.q.data) + work.batch * p.q.batch_stride;
  // Row 0 of k and v is found anew for each tile: as pointers they would hold four registers.
  const auto row = [&](const Operand& x, std::int32_t token) {
    return static_cast<const T*>(x.data) + work.batch * x.batch_stride + work.kv_head * x.head_stride + token * x.token_stride;
  };
  const auto copy_keys = [&](const KeyTile& tile) {
    copy_rows<Tile::keys, dk>(k, row(p.k, tile.first), p.k.token_stride, tile.count, p.dk);
    commit_copies();
  };
  const auto copy_values = [&](const KeyTile& tile) {
    copy_rows<Tile::keys, dv>(v, row(p.v, tile.first), p.v.token_stride, tile.count, p.dv);
    commit_copies();
  };

  WarpRows<T, dk, dv> rows(block);
  const SharedRows<dk> q_rows = left_rows<dk>(q, rows.first_row()), k_rows = right_rows<dk>(k);
  const SharedRows<dv> v_rows = right_columns<dv>(v);
  // With a softcap scores are s = softcap tanh(scale q k / softcap), so the scale that is left for base 2 is log2(e).
  const float scale_log2 = p.softcap == 0 ? p.scale * log2_e : log2_e;
  if (block.tiles[0].count > 0) {
    copy_queries<Tile::rows, dk>(q, work.num_rows, p.dk, [&](int r) {
      return q_head + block.token[r] * p.q.token_stride + work.head(r) * p.q.head_stride;
    });
    copy_keys(block.tiles[0]);
    wait_for_copies<0>();
    __syncthreads();
    copy_values(block.tiles[0]);
  }
#pragma unroll 1
  for (int turn = 0; block.tiles[turn].count > 0; turn ^= 1) {
    const KeyTile &tile = block.tiles[turn], &following = block.tiles[turn ^ 1];
    if (thread_index() == 0) block.step(p, Tile::keys, block.tiles[turn ^ 1]);
    const WarpTokens& tokens = block.warp_tokens[thread_index() / 32];
    const bool sees = sees_some(tile, tokens);  // equal for all lanes of the warp
    float scores[Tile::warp_tiles][Tile::keys / 8][4] = {};
    if (sees) multiply_rows<T>(q_rows, k_rows, scores);
    wait_for_copies<0>();
    __syncthreads();  // v is there; all have done with k
    if (following.count > 0) copy_keys(following);
    if (sees) {
      if (p.softcap != 0) {
        const float inner = 2 * log2_e * p.scale / p.softcap;
#pragma unroll
        for (int t = 0; t < Tile::warp_tiles; ++t)
#pragma unroll
          for (int n = 0; n < Tile::keys / 8; ++n)
#pragma unroll
            for (int e = 0; e < 4; ++e) scores[t][n][e] = p.softcap * tanh_of_2_log2_e(inner * scores[t][n][e]);
      }
      if (!sees_all(tile, Tile::keys, tokens)) rows.hide(tile, scores);
      std::uint32_t weights[Tile::warp_tiles][Tile::keys / 16][4];
#pragma unroll
      for (int t = 0; t < Tile::warp_tiles; ++t)
        weigh<T, Tile::keys, dv>(scores[t], scale_log2, rows.high[t], rows.total[t], rows.out[t], weights[t]);
      multiply_columns<T>(weights, v_rows, rows.out);
    }
    wait_for_copies<0>();
    __syncthreads();  // the next k is there; all have done with v
    if (following.count > 0) copy_values(following);
  }
  rows.finish(p, scale_log2);
}

}  // namespace cuda
SEQCCL_END
