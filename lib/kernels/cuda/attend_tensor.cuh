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
#include "instructions.cuh"

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

/// What a thread keeps of 16 rows: o, and of its rows r = lane / 4 + 8 i m and its share of l.
template <int dv>
struct WarpTile {
  float out[dv / 8][4] = {};
  float high[2] = {-INFINITY, -INFINITY}, total[2] = {};
};

/// Weights of 16 rows x keys, as left operands of the next product, from scores; rescales what was summed before.
template <class T, int keys, int dv>
__device__ __forceinline__ void weigh(WarpTile<dv>& tile, const float (&scores)[keys / 8][4], float scale_log2,
                                      std::uint32_t (&weights)[keys / 16][4]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float high = tile.high[i];
#pragma unroll
    for (int n = 0; n < keys / 8; ++n) high = fmaxf(high, fmaxf(scores[n][2 * i], scores[n][2 * i + 1]));
    high = fmaxf(high, __shfl_xor_sync(all_lanes, high, 1));
    high = fmaxf(high, __shfl_xor_sync(all_lanes, high, 2));
    const float base = high == -INFINITY ? 0.0F : high * scale_log2;
    const float shrink = power_of_2(tile.high[i] * scale_log2 - base);
    tile.high[i] = high;
    float sum = 0;
#pragma unroll
    for (int n = 0; n < keys / 8; ++n) {
      const float first = power_of_2(fmaf(scores[n][2 * i], scale_log2, -base));
      const float second = power_of_2(fmaf(scores[n][2 * i + 1], scale_log2, -base));
      sum += first + second;
      weights[n / 2][n % 2 * 2 + i] = pack<T>(first, second);
    }
    tile.total[i] = tile.total[i] * shrink + sum;
#pragma unroll
    for (int n = 0; n < dv / 8; ++n) {
      tile.out[n][2 * i] *= shrink;
      tile.out[n][2 * i + 1] *= shrink;
    }
  }
}

/// A warp's rows of the block, and what it does with a key tile.
template <class T, int dk, int dv>
struct WarpRows {
  using Tile = TensorTile<dk, dv>;
  static constexpr int keys = Tile::keys, num_tiles = Tile::warp_tiles;
  WarpTile<dv> tile[num_tiles];
  const BlockShared<Tile::rows>& block;

  __device__ static int lane() { return thread_index() % 32; }
  __device__ static int first_row() { return thread_index() / 32 * 16 * num_tiles; }
  __device__ static int row_of(int t, int i) { return first_row() + 16 * t + lane() / 4 + 8 * i; }
  /// Whether a row of the warp sees a key of the tile; all rows see all keys of it, which are as many as fit.
  __device__ bool sees(const KeyTile& k, const WarpTokens& tokens) const {
    const std::int32_t first = max(tokens.first, k.slice.q_first), last = min(tokens.last, k.slice.q_end - 1);
    return first <= last && max(k.first, first + k.slice.low) < min(k.first + k.count, last + k.slice.high + 1);
  }
  __device__ bool sees_all(const KeyTile& k, const WarpTokens& tokens) const {
    const DeviceSlice& s = k.slice;
    return tokens.all && tokens.first >= s.q_first && tokens.last < s.q_end && tokens.last + s.low <= k.first &&
           tokens.first + s.high >= k.first + keys - 1 && k.count == keys;
  }

  /// scores = q k^T of the rows.
  __device__ void multiply_keys(const SharedRows<dk>& q, const SharedRows<dk>& k, float (&scores)[num_tiles][keys / 8][4]) const {
#pragma unroll
    for (int d = 0; d < dk / 16; ++d) {
      std::uint32_t a[num_tiles][4];
#pragma unroll
      for (int t = 0; t < num_tiles; ++t) load_tiles(a[t], q.at(d, t));
#pragma unroll
      for (int n = 0; n < keys / 16; ++n) {
        std::uint32_t b[4];
        load_tiles(b, k.at(d, n));
#pragma unroll
        for (int t = 0; t < num_tiles; ++t) {
          multiply_add<T>(scores[t][2 * n], a[t], b[0], b[1]);
          multiply_add<T>(scores[t][2 * n + 1], a[t], b[2], b[3]);
        }
      }
    }
  }
  /// o += weights v.
  __device__ void multiply_values(const SharedRows<dv>& v, const std::uint32_t (&weights)[num_tiles][keys / 16][4]) {
#pragma unroll
    for (int k = 0; k < keys / 16; ++k) {
#pragma unroll
      for (int d = 0; d < dv / 16; ++d) {
        std::uint32_t b[4];
        load_tiles_transposed(b, v.at(d, k));
#pragma unroll
        for (int t = 0; t < num_tiles; ++t) {
          multiply_add<T>(tile[t].out[2 * d], weights[t][k], b[0], b[1]);
          multiply_add<T>(tile[t].out[2 * d + 1], weights[t][k], b[2], b[3]);
        }
      }
    }
  }
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
        float total = tile[t].total[i];
        total += __shfl_xor_sync(all_lanes, total, 1);
        total += __shfl_xor_sync(all_lanes, total, 2);
        const int row = row_of(t, i);
        RowResult result{nullptr, nullptr, 0, 0, 0};
        if (row < work.num_rows) result = finish_row(p, work, row, tile[t].high[i] * scale_log2, total);
        __syncwarp();  // all lanes of a row have read lse
        if (result.out == nullptr) continue;
        const int lane_in_row = lane() % 4;
        if (lane_in_row == 0) *result.lse = result.new_lse;
#pragma unroll
        for (int n = 0; n < dv / 8; ++n) {
          const int column = n * 8 + lane_in_row * 2;
          if (column >= p.dv) continue;
          auto* to = reinterpret_cast<float2*>(result.out + column);
          float2 sum{result.take * tile[t].out[n][2 * i], result.take * tile[t].out[n][2 * i + 1]};
          if (result.keep != 0) {
            const float2 before = *to;
            sum.x += result.keep * before.x, sum.y += result.keep * before.y;
          }
          *to = sum;
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

  WarpRows<T, dk, dv> rows{{}, block};
  const int lane = rows.lane();
  const SharedRows<dk> q_rows(q, rows.first_row() + lane % 16, lane / 16);
  const SharedRows<dk> k_rows(k, lane % 8 + lane / 16 * 8, lane / 8 % 2);
  const SharedRows<dv> v_rows(v, lane % 16, lane / 16);
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
    if (thread_index() == 0) block.walk.step(p, Tile::keys, block.tiles[turn ^ 1]);
    const WarpTokens& tokens = block.warp_tokens[thread_index() / 32];
    const bool sees = rows.sees(tile, tokens);  // equal for all lanes of the warp
    float scores[Tile::warp_tiles][Tile::keys / 8][4] = {};
    if (sees) rows.multiply_keys(q_rows, k_rows, scores);
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
      if (!rows.sees_all(tile, tokens)) rows.hide(tile, scores);
      std::uint32_t weights[Tile::warp_tiles][Tile::keys / 16][4];
#pragma unroll
      for (int t = 0; t < Tile::warp_tiles; ++t) weigh<T, Tile::keys, dv>(rows.tile[t], scores[t], scale_log2, weights[t]);
      rows.multiply_values(v_rows, weights);
    }
    wait_for_copies<0>();
    __syncthreads();  // the next k is there; all have done with v
    if (following.count > 0) copy_values(following);
  }
  rows.finish(p, scale_log2);
}

}  // namespace cuda
SEQCCL_END
