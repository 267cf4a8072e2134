// attend_backward_tensor.cuh - gradients of softmax attention on tensor cores: 16-bit q, k, v, dout, sums in f32. sm_80 and later.
// SPDX-License-Identifier: Apache-2.0
//
//     P = 2^(S log2(e) - lse)    dS = P (dout v^T - delta)    dq += scale dS k    dk += scale dS^T q    dv += P^T dout
//
// Two launches of one kernel, each with sums of its own rows in registers, so that nothing is added atomically and results repeat:
//
//     rows of queries: a = q, b = dout; columns c = k, d = v          sums: dq = dS c
//     rows of keys:    a = k, b = v;    columns c = q, d = dout       sums: dk = dS c, dv = P d      (S, P, dS transposed)
//
// S = a c^T and dP = b d^T are made twice, 7 products instead of 5. Tiles of columns arrive in two buffers, one ahead.
#pragma once

#include "attend_rows.cuh"
#include "tiles.cuh"

SEQCCL_BEGIN
namespace cuda {

template <int dk, int dv>
struct BackwardTile {
  static constexpr int num_threads = 128, rows = backward_tensor_rows;
  static constexpr int columns = dk <= 64 ? 64 : dk == 192 ? 16 : 32;  // more of them spill registers
  static constexpr int column_bytes = columns * (dk + dv) * 2;  // of c and d in one buffer
  static constexpr int shared_bytes = rows * (dk + dv) * 2 + 2 * column_bytes;
};

/// Which sums a launch makes: of width dk from dS, of width dv from P. Registers hold both up to head size 192.
enum class Sums { of_ds, of_p, both };

/// lse (base 2) and delta of the queries of a tile, where queries are columns.
template <int columns>
struct ColumnNumbers {
  float lse[columns], delta[columns];
};

/// 2^(-lse2) is the factor that makes weights of scores; a row that sees nothing has lse -inf, and no weights.
__device__ __forceinline__ float base_2(float lse) { return lse == -INFINITY ? 0.0F : lse * log2_e; }

template <class T, int dk, int dv, bool by_keys, Sums sums>
__global__ void __launch_bounds__(128) attend_backward_tensor(const __grid_constant__ AttendBackwardProblem p) {
  using Tile = BackwardTile<dk, dv>;
  constexpr bool of_ds = sums != Sums::of_p, of_p = sums != Sums::of_ds;
  constexpr int columns = Tile::columns;
  extern __shared__ __align__(128) unsigned char shared[];
  const unsigned a = shared_address(shared);           // (rows, dk)
  const unsigned b = a + Tile::rows * dk * 2;          // (rows, dv)
  const unsigned c = b + Tile::rows * dv * 2;          // 2 buffers of (columns, dk), (columns, dv)
  constexpr unsigned d_offset = columns * dk * 2;
  __shared__ BlockShared<Tile::rows, by_keys> block;
  __shared__ ColumnNumbers<columns> numbers[2];
  if (!block.begin(p, columns, 2)) return;
  const BlockWork& work = block.work;
  const auto row_of = [&](const Operand& x, std::int32_t token, std::int32_t head) {
    return static_cast<const T*>(x.data) + work.batch * x.batch_stride + token * x.token_stride + head * x.head_stride;
  };
  const auto copy_columns = [&](const KeyTile& tile, int buffer) {
    const Operand &first = by_keys ? p.q : p.k, &second = by_keys ? p.dout : p.v;
    const std::int32_t head = by_keys ? tile.head : work.kv_head;
    const unsigned to = c + buffer * Tile::column_bytes;
    copy_rows<columns, dk>(to, row_of(first, tile.first, head), first.token_stride, tile.count, p.dk);
    copy_rows<columns, dv>(to + d_offset, row_of(second, tile.first, head), second.token_stride, tile.count, p.dv);
    commit_copies();
    if (by_keys && thread_index() < columns) {
      const int n = thread_index();
      const bool inside = n < tile.count;
      numbers[buffer].lse[n] = inside ? base_2(*p.lse.at(work.batch, tile.first + n, head)) : 0.0F;
      numbers[buffer].delta[n] = inside ? *p.delta.at(work.batch, tile.first + n, head) : 0.0F;
    }
  };

  const int lane = thread_index() % 32, first_row = thread_index() / 32 * 16;
  float ds_sums[1][of_ds ? dk / 8 : 1][4] = {}, p_sums[1][of_p ? dv / 8 : 1][4] = {};
  float row_lse[2] = {}, row_delta[2] = {};
  if (!by_keys) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int r = first_row + lane / 4 + 8 * i;
      if (r >= work.num_rows) continue;
      row_lse[i] = base_2(*p.lse.at(work.batch, work.token(r), work.head(r)));
      row_delta[i] = *p.delta.at(work.batch, work.token(r), work.head(r));
    }
  }
  if (block.tiles[0].count > 0) {
    const auto copy_own = [&](unsigned to, const Operand& x, auto size, int width) {
      copy_queries<Tile::rows, size.value>(to, work.num_rows, width,
                                           [&](int r) { return row_of(x, block.token[r], by_keys ? work.kv_head : work.head(r)); });
    };
    copy_own(a, by_keys ? p.k : p.q, Size<dk>{}, p.dk);
    if (of_ds) copy_own(b, by_keys ? p.v : p.dout, Size<dv>{}, p.dv);
    copy_columns(block.tiles[0], 0);
    wait_for_copies<0>();
    __syncthreads();
  }
  const float scale_log2 = p.softcap == 0 ? p.scale * log2_e : p.softcap * log2_e;
  int buffer = 0;
#pragma unroll 1
  for (int turn = 0; block.tiles[turn].count > 0; turn = turn == 2 ? 0 : turn + 1) {
    const KeyTile &tile = block.tiles[turn], &following = block.tiles[turn == 2 ? 0 : turn + 1];
    if (following.count > 0) copy_columns(following, buffer ^ 1);
    if (thread_index() == 0) block.step(p, columns, block.tiles[turn == 0 ? 2 : turn - 1]);
    const WarpTokens& tokens = block.warp_tokens[thread_index() / 32];
    if (sees_some(tile, tokens)) {  // equal for all lanes of the warp
      const unsigned c_tile = c + buffer * Tile::column_bytes, d_tile = c_tile + d_offset;
      float scores[1][columns / 8][4] = {}, products[1][columns / 8][4] = {};
      multiply_rows<T>(left_rows<dk>(a, first_row), right_rows<dk>(c_tile), scores);
      if constexpr (of_ds) multiply_rows<T>(left_rows<dv>(b, first_row), right_rows<dv>(d_tile), products);
      const bool all = sees_all(tile, columns, tokens);
      std::uint32_t ds_weights[1][columns / 16][4], p_weights[1][columns / 16][4];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const Columns seen = all ? Columns{0, columns} : visible_columns(tile, block.token[first_row + lane / 4 + 8 * i]);
#pragma unroll
        for (int n = 0; n < columns / 8; ++n) {
          float weight[2], ds[2];
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const int column = n * 8 + lane % 4 * 2 + e;
            const float lse = by_keys ? numbers[buffer].lse[column] : row_lse[i];
            const float delta = by_keys ? numbers[buffer].delta[column] : row_delta[i];
            float score = scores[0][n][2 * i + e], slope = 1;
            if (p.softcap != 0) {
              score = tanh_of_2_log2_e(2 * log2_e * p.scale / p.softcap * score);
              slope = 1 - score * score;
            }
            const bool visible = column >= seen.first && column < seen.end;
            weight[e] = visible ? power_of_2(fmaf(score, scale_log2, -lse)) : 0.0F;
            ds[e] = visible ? weight[e] * (products[0][n][2 * i + e] - delta) * slope : 0.0F;
          }
          if constexpr (of_p) p_weights[0][n / 2][n % 2 * 2 + i] = pack<T>(weight[0], weight[1]);
          if constexpr (of_ds) ds_weights[0][n / 2][n % 2 * 2 + i] = pack<T>(ds[0], ds[1]);
        }
      }
      if constexpr (of_p) multiply_columns<T>(p_weights, right_columns<dv>(d_tile), p_sums);
      if constexpr (of_ds) multiply_columns<T>(ds_weights, right_columns<dk>(c_tile), ds_sums);
    }
    wait_for_copies<0>();
    __syncthreads();  // the next columns are there; all have done with these
    buffer ^= 1;
  }

  const bool fresh = by_keys ? p.fresh_dkv : p.fresh_dq;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int r = first_row + lane / 4 + 8 * i;
    if (r >= work.num_rows) continue;
    const auto write = [&](const FloatOperand& gradient, int width, auto& sum, float factor) {
      float* const to = gradient.at(work.batch, work.token(r), by_keys ? work.kv_head : work.head(r));
#pragma unroll
      for (int n = 0; n < static_cast<int>(sizeof sum / sizeof sum[0]); ++n) {
        const int column = n * 8 + lane % 4 * 2;
        if (column >= width) continue;
        float2 now{factor * sum[n][2 * i], factor * sum[n][2 * i + 1]};
        if (!fresh) {
          const float2 before = *reinterpret_cast<float2*>(to + column);
          now.x += before.x, now.y += before.y;
        }
        *reinterpret_cast<float2*>(to + column) = now;
      }
    };
    if constexpr (of_ds) write(by_keys ? p.dkeys : p.dq, p.dk, ds_sums[0], p.scale);
    if constexpr (of_p) write(p.dvalues, p.dv, p_sums[0], 1);
  }
}

}  // namespace cuda
SEQCCL_END
