// attend_rows.cuh - what attend kernels share: the rows of a block, the key tiles that they see, and where their results go.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "attend_problem.hpp"

SEQCCL_BEGIN
namespace cuda {

inline constexpr float ln_2 = 0.6931471805599453F, log2_e = 1.4426950408889634F;
inline constexpr unsigned all_lanes = 0xffffffffU;

/// One block's share of the problem. Under a causal mask the last tiles take longest, so they come first.
struct alignas(16) BlockWork {
  std::int32_t part, batch, kv_head;
  std::int32_t num_rows;                    // of the tile
  std::int32_t first_column, end_column;    // keys of the part; where rows are keys: queries
  std::int32_t first_head, end_head;        // query heads of the run
  std::int32_t first_token, first, stride;  // row r: token first_token + (first + r) / stride
  std::int32_t last_token;

  template <bool rows_are_keys>
  __device__ void find(const AttendShape& p, int tile_rows) {
    std::int64_t index = blockIdx.x;
    part = static_cast<std::int32_t>(index % p.num_parts), index /= p.num_parts;
    const auto tile = p.num_tiles - 1 - static_cast<std::int32_t>(index % p.num_tiles);
    index /= p.num_tiles;
    const auto run = p.first_run + static_cast<std::int32_t>(index % p.num_runs);
    batch = static_cast<std::int32_t>(index / p.num_runs);
    kv_head = run - p.first_kv;
    first_head = max(0, run * p.group - p.first_q);
    end_head = min(p.q_heads, (run + 1) * p.group - p.first_q);
    stride = rows_are_keys ? 1 : end_head - first_head;
    const std::int64_t row = std::int64_t{tile} * tile_rows, rows = std::int64_t{rows_are_keys ? p.num_keys : p.num_queries} * stride;
    num_rows = static_cast<std::int32_t>(max(std::int64_t{0}, min(std::int64_t{tile_rows}, rows - row)));
    first_token = static_cast<std::int32_t>(row / stride);
    first = static_cast<std::int32_t>(row % stride);
    last_token = num_rows > 0 ? token(num_rows - 1) : -1;
    first_column = part * p.part_keys;
    end_column = min(rows_are_keys ? p.num_queries : p.num_keys, first_column + p.part_keys);
  }
  /// Of row r of the tile.
  __device__ std::int32_t token(int r) const { return first_token + (first + r) / stride; }
  __device__ std::int32_t head(int r) const { return first_head + (first + r) % stride; }
};

/// Keys [first, first + count) of a slice; count 0: there are no more. Where rows are keys: queries of `head`.
struct KeyTile {
  std::int32_t first, count, head;
  DeviceSlice slice;
};

/// The key tiles that the tokens of a block see, slice by slice: each visible pair lies in exactly one.
struct KeyWalk {
  std::int32_t first_token, last_token, first_key, end_key;
  std::int32_t next, end, own, own_end;  // slices that may be seen: of all batch rows, then of this one
  std::int32_t key, key_end;             // what is left of the current one
  std::int32_t head;                     // where rows are keys: all queries of a head, then of the next
  DeviceSlice slice;

  __device__ void begin(const AttendShape& p, const BlockWork& work) {
    first_token = work.first_token, last_token = work.last_token;
    first_key = work.first_column, end_key = work.end_column;
    find(p, -1, next, end);
    find(p, work.batch, own, own_end);
    key = key_end = 0;
  }
  __device__ void step(const AttendShape& p, int tile_keys, KeyTile& tile) {
    while (key >= key_end) {
      if (next >= end) {
        if (own >= own_end) {
          tile.count = 0;
          return;
        }
        next = own, end = own_end, own = own_end;
      }
      slice = p.slices[next++];
      const std::int32_t first = max(first_token, slice.q_first), last = min(last_token, slice.q_end - 1);
      key = max(first_key, max(slice.k_first, first + slice.low));
      key_end = first > last ? 0 : min(end_key, min(slice.k_end, last + slice.high + 1));
    }
    tile = {key, min(tile_keys, key_end - key), head, slice};
    key += tile_keys;
  }
  /// The same over all heads of the work.
  __device__ void step_heads(const AttendShape& p, const BlockWork& work, int tile_keys, KeyTile& tile) {
    tile.count = 0;
    if (head >= work.end_head) return;
    step(p, tile_keys, tile);
    while (tile.count == 0 && ++head < work.end_head) {
      begin(p, work);
      step(p, tile_keys, tile);
    }
  }

 private:
  template <class Before>
  __device__ static std::int32_t lower_bound(std::int32_t first, std::int32_t end, Before before) {
    while (first < end) {
      const std::int32_t middle = first + (end - first) / 2;
      if (before(middle))
        first = middle + 1;
      else
        end = middle;
    }
    return first;
  }
  /// Slices [first, end) are those of the batch row that may have one of the tokens.
  __device__ void find(const AttendShape& p, std::int32_t batch, std::int32_t& first, std::int32_t& end) const {
    const DeviceSlice* s = p.slices;
    first = lower_bound(0, p.num_slices, [&](std::int32_t n) { return s[n].batch < batch; });
    end = lower_bound(first, p.num_slices, [&](std::int32_t n) { return s[n].batch == batch && s[n].q_first <= last_token; });
    first = lower_bound(first, end, [&](std::int32_t n) { return s[n].reach <= first_token; });
  }
};

/// Tokens of the rows of a warp; first > last: it has no rows. all: it has as many as fit.
struct WarpTokens {
  std::int32_t first, last, all;
};

/// Whether one of the tokens sees a key of the tile; whether all see all keys of it, which are as many as fit.
__device__ __forceinline__ bool sees_some(const KeyTile& tile, const WarpTokens& tokens) {
  const DeviceSlice& s = tile.slice;
  const std::int32_t first = max(tokens.first, s.q_first), last = min(tokens.last, s.q_end - 1);
  return first <= last && max(tile.first, first + s.low) < min(tile.first + tile.count, last + s.high + 1);
}
__device__ __forceinline__ bool sees_all(const KeyTile& tile, int tile_keys, const WarpTokens& tokens) {
  const DeviceSlice& s = tile.slice;
  return tokens.all && tokens.first >= s.q_first && tokens.last < s.q_end && tokens.last + s.low <= tile.first &&
         tokens.first + s.high >= tile.first + tile_keys - 1 && tile.count == tile_keys;
}

/// What the warps of a block share besides their tiles: kept here so that registers are left for sums. Thread 0 walks, a barrier before the
/// tile is used.
template <int tile_rows, bool rows_are_keys = false>
struct BlockShared {
  BlockWork work;
  KeyWalk walk;
  KeyTile tiles[3];
  std::int32_t token[tile_rows];  // of each row; -1, which sees nothing, for a row that is not there
  static constexpr int num_warps = 4, warp_rows = tile_rows / num_warps;
  WarpTokens warp_tokens[num_warps];

  __device__ void step(const AttendShape& p, int tile_keys, KeyTile& tile) {
    if constexpr (rows_are_keys)
      walk.step_heads(p, work, tile_keys, tile);
    else
      walk.step(p, tile_keys, tile);
  }
  /// Called by all threads; makes the first `num_tiles` tiles and ends with a barrier. False: the block has no rows.
  __device__ bool begin(const AttendShape& p, int tile_keys, int num_tiles = 1) {
    if (threadIdx.x == 0) {
      work.find<rows_are_keys>(p, tile_rows);
      if (work.num_rows > 0) {
        walk.begin(p, work);
        walk.head = work.first_head;
        for (int n = 0; n < num_tiles; ++n) step(p, tile_keys, tiles[n]);
      }
    }
    __syncthreads();
    if (work.num_rows == 0) return false;
    for (int r = static_cast<int>(threadIdx.x); r < tile_rows; r += static_cast<int>(blockDim.x))
      token[r] = r < work.num_rows ? work.token(r) : -1;
    if (threadIdx.x < num_warps) {
      const int first = static_cast<int>(threadIdx.x) * warp_rows, end = min(first + warp_rows, work.num_rows);
      warp_tokens[threadIdx.x] = {work.token(first), first < end ? work.token(end - 1) : -1, end == first + warp_rows};
    }
    __syncthreads();
    return true;
  }
};

/// Columns [first, end) of a key tile that a token sees.
struct Columns {
  std::int32_t first, end;
};
__device__ __forceinline__ Columns visible_columns(const KeyTile& tile, std::int32_t token) {
  const DeviceSlice& s = tile.slice;
  if (token < s.q_first || token >= s.q_end) return {0, 0};
  return {max(0, token + s.low - tile.first), min(tile.count, token + s.high + 1 - tile.first)};
}

/// Where the result of a row goes and what it is multiplied by: out = keep * out + take * sums. keep 0: `out` is not read.
struct RowResult {
  float* out;
  float* lse;
  float keep, take, new_lse;
};

/// Of a row with sums = sum of weight * value, total = sum of weights, weights = 2^(S log2(e) - high). nullptr: nothing changes.
/// Every lane that holds a piece of the row calls it; one of them writes `new_lse` after a __syncwarp.
__device__ __forceinline__ RowResult finish_row(const AttendProblem& p, const BlockWork& work, int row, float high, float total) {
  const std::int32_t token = work.token(row), head = work.head(row);
  const float infinity = INFINITY;
  const bool empty = high == -infinity && total == 0;  // a NaN among scores of -inf shows in the total only
  const float part_lse = empty ? -infinity : ln_2 * high + logf(total);
  const float inverse = empty ? 0.0F : 1 / total;
  if (p.num_parts > 1) {
    const std::int64_t at =
        ((std::int64_t{work.part} * p.batch + work.batch) * p.num_queries + token) * p.q_heads + head;
    return {p.part_out + at * p.dv, p.part_lse + at, 0, inverse, part_lse};
  }
  RowResult result{p.out.at(work.batch, token, head), p.lse.at(work.batch, token, head), 0, inverse, part_lse};
  if (p.fresh) {
    if (p.sinks != nullptr) {
      const MergeWeights weights = merge_weights(part_lse, p.sinks[head * p.sinks_stride]);
      result.take = weights.a * inverse, result.new_lse = weights.lse;
    }
    return result;
  }
  if (empty) return {nullptr, nullptr, 0, 0, 0};
  const float lse = *result.lse;
  const MergeWeights weights = merge_weights(lse, part_lse);
  result.keep = lse == -infinity ? 0 : weights.a;  // then `out` holds nothing yet
  result.take = weights.b * inverse, result.new_lse = weights.lse;
  return result;
}

}  // namespace cuda
SEQCCL_END
