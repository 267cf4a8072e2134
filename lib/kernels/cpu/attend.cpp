// attend.cpp - softmax attention over band slices, a tile of scores at a time; keeps or merges a running (out, lse).
// SPDX-License-Identifier: Apache-2.0
//
// Online softmax (Milakov, Gimelshein, arXiv:1805.02867) in tiles (Dao et al., arXiv:2205.14135). For each key tile, per row:
//
//     m' = max(m, max S)    l <- e^(m - m') l + sum e^(S - m')    o <- e^(m - m') o + e^(S - m') v
//
// and at the end out = o / l, lse = m + log l. An item of work is a few hundred rows (token, query head) of one key/value head, so
// that a packed key tile serves all of them. Items and key tiles are cut by shape alone: results do not depend on num_threads.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "../parallel.hpp"
#include "band.hpp"
#include "pack.hpp"
#include "seqccl/error.hpp"
#include "seqccl/kernels.hpp"
#include "seqccl/merge.hpp"
#include "tile.hpp"

SEQCCL_BEGIN
namespace cpu {
namespace {

constexpr std::int64_t tile_rows = 64, tile_keys = 128;  // one tile of scores: 32 KiB
constexpr std::int64_t max_item_rows = 256;              // rows that share a packed key tile
constexpr float infinity = std::numeric_limits<float>::infinity();

/// Query heads [first, first + count) use one key/value head.
struct HeadRun {
  std::int64_t first = 0, count = 0, kv_head = 0;
};

struct Work {
  std::vector<HeadRun> runs;
  BandIndex index;
};

/// Scratch of one thread; grows and stays.
struct Scratch {
  std::vector<BandSlice> candidates;
  TileMask mask;
  std::vector<float> queries, keys, values, scores, spare, sums, high, total;

  void resize(std::int64_t rows, std::int64_t dk, std::int64_t dv) {
    const auto grow = [](std::vector<float>& buffer, std::int64_t size) {
      if (static_cast<std::int64_t>(buffer.size()) < size) buffer.resize(static_cast<std::size_t>(size));
    };
    grow(queries, rows * dk);
    grow(keys, dk * tile_keys);
    grow(values, tile_keys * dv);
    grow(scores, tile_rows * tile_keys);
    grow(spare, tile_keys);
    grow(sums, rows * dv);
    grow(high, rows);
    grow(total, rows);
  }
};

void find_runs(const AttendArguments& a, std::vector<HeadRun>& runs) {
  runs.clear();
  for (std::int64_t head = 0; head < a.q.extent(2); ++head) {
    const std::int64_t kv_head = a.heads.kv_head(static_cast<std::int32_t>(head));
    if (kv_head < 0 || kv_head >= a.k.extent(2))
      throw Error(ErrorKind::argument,
                  fmt::format("attend: heads maps query head {} to key/value head {}, want 0 <= head < {}", head, kv_head, a.k.extent(2)));
    if (runs.empty() || runs.back().kv_head != kv_head || runs.back().count == tile_rows) runs.push_back({head, 0, kv_head});
    ++runs.back().count;
  }
}

/// Rows of an item: as many as pay for packing a key tile, fewer where that would leave too few items for a machine's cores.
std::int64_t tokens_per_item(const AttendArguments& a, const std::vector<HeadRun>& runs) {
  const std::int64_t num_tokens = a.q.extent(1);
  std::int64_t heads = 1;
  for (const HeadRun& run : runs) heads = std::max(heads, run.count);
  std::int64_t rows = max_item_rows;
  const auto num_items = [&] {
    const std::int64_t tokens = std::max<std::int64_t>(1, rows / heads);
    return a.q.extent(0) * static_cast<std::int64_t>(runs.size()) * ((num_tokens + tokens - 1) / tokens);
  };
  while (rows > tile_rows && num_items() < 32) rows /= 2;
  return std::max<std::int64_t>(1, rows / heads);
}

/// Rows of a tile: `num_heads` query heads times `num_tokens` tokens. `row` is its first row in the item's buffers.
struct Tile {
  std::int64_t row = 0, first_token = 0, num_tokens = 0, num_heads = 0;
};

/// One tile of scores against the packed keys: updates (m, l, o) of its rows.
void attend_tile(const AttendArguments& a, const Tile& tile_, Interval keys, bool finite_values, Scratch& s) {
  const TileOps& ops = tile();
  const std::int64_t dk = a.q.extent(3), dv = a.v.extent(3);
  const std::int64_t rows = tile_.num_heads * tile_.num_tokens;
  s.mask.build(s.candidates, {tile_.first_token, tile_.first_token + tile_.num_tokens}, keys);
  if (s.mask.hull.empty()) return;
  // Whole vectors of columns, for the sake of gemm; what this adds is hidden again.
  Interval columns{keys.first + (s.mask.hull.first - keys.first) / 8 * 8, keys.first + (s.mask.hull.end - keys.first + 7) / 8 * 8};
  columns.end = std::min(columns.end, keys.end);
  const bool masked = !s.mask.whole || columns.first != s.mask.hull.first || columns.end != s.mask.hull.end;
  const std::int64_t width = columns.end - columns.first, offset = columns.first - keys.first;

  float* scores = s.scores.data();  // (rows, width)
  ops.gemm(rows, width, dk, s.queries.data() + tile_.row * dk, dk, 1, s.keys.data() + offset, tile_keys, scores, tile_keys, false);
  for (std::int64_t r = 0; r < rows; ++r) {
    float* row = scores + r * tile_keys;
    float& high = s.high[tile_.row + r];
    if (a.softcap != 0) apply_softcap(a.softcap, row, width);
    if (masked) s.mask.hide(tile_.first_token + r % tile_.num_tokens, columns, row, s.spare.data());
    const float tile_high = ops.max(row, width);
    const float new_high = tile_high <= high ? high : tile_high;  // NaN wins
    if (new_high == -infinity) {
      std::fill(row, row + width, 0.0F);  // nothing seen so far: -inf minus -inf must not happen
      continue;
    }
    if (new_high != high) {
      const float factor = std::exp(high - new_high);
      s.total[tile_.row + r] *= factor;
      ops.scale(factor, s.sums.data() + (tile_.row + r) * dv, dv);
      high = new_high;
    }
    s.total[tile_.row + r] += ops.exp_sum(row, width, new_high);
  }
  const float* values = s.values.data() + offset * dv;  // (width, Dv)
  float* sums = s.sums.data() + tile_.row * dv;         // (rows, Dv)
  if (finite_values || !masked) {
    ops.gemm(rows, dv, width, scores, tile_keys, 1, values, dv, sums, dv, true);
    return;
  }
  // 0 times infinity is NaN: here a value that a row may not see must not even be multiplied.
  for (std::int64_t r = 0; r < rows; ++r) {
    s.mask.for_each_visible(tile_.first_token + r % tile_.num_tokens, columns, [&](Interval seen) {
      const std::int64_t first = seen.first - columns.first;
      ops.gemm(1, dv, seen.end - seen.first, scores + r * tile_keys + first, tile_keys, 1, values + first * dv, dv, sums + r * dv, dv,
               true);
    });
  }
}

/// out, lse of one row from (m, l, o): stored, or merged into what is there.
void finish_row(const AttendArguments& a, std::int64_t batch, std::int64_t token, std::int64_t head, float high, float total, float* sums) {
  const std::int64_t dv = a.v.extent(3);
  float* out = row_at(a.out, batch, token, head);
  float& lse = *row_at(a.lse, batch, token, head);
  const bool empty = high == -infinity;
  const float part_lse = empty ? -infinity : high + std::log(total);
  float inverse = empty ? 0.0F : 1 / total;
  if (a.fresh) {
    lse = part_lse;
    if (a.sinks) {
      const MergeWeights weights = merge_weights(part_lse, a.sinks.as<float>()[head * a.sinks.stride(2)]);
      inverse *= weights.a;
      lse = weights.lse;
    }
    for (std::int64_t d = 0; d < dv; ++d) out[d] = inverse * sums[d];
  } else if (!empty) {
    const MergeWeights weights = merge_weights(lse, part_lse);
    const bool first = lse == -infinity;  // then `out` holds nothing yet
    for (std::int64_t d = 0; d < dv; ++d) out[d] = (first ? 0.0F : weights.a * out[d]) + weights.b * (inverse * sums[d]);
    lse = weights.lse;
  }
}

void attend_item(const AttendArguments& a, const Work& work, const HeadRun& run, std::int64_t batch, Interval tokens) {
  static thread_local Scratch s;
  const std::int64_t num_tokens = tokens.end - tokens.first, rows = num_tokens * run.count;
  const std::int64_t dk = a.q.extent(3), dv = a.v.extent(3), num_keys = a.k.extent(1);
  s.candidates.clear();
  work.index.find(batch, tokens, s.candidates);
  if (s.candidates.empty() && !a.fresh) return;
  s.resize(rows, dk, dv);
  std::fill(s.high.begin(), s.high.begin() + rows, -infinity);
  std::fill(s.total.begin(), s.total.begin() + rows, 0.0F);
  std::fill(s.sums.begin(), s.sums.begin() + rows * dv, 0.0F);
  for (std::int64_t h = 0; h < run.count && !s.candidates.empty(); ++h)
    pack_rows(a.q, batch, run.first + h, tokens.first, num_tokens, a.scale, s.queries.data() + h * num_tokens * dk);

  const auto for_each_tile = [&](auto&& visit) {
    if (num_tokens < tile_rows) {
      const std::int64_t heads = tile_rows / num_tokens;
      for (std::int64_t h = 0; h < run.count; h += heads)
        visit(Tile{h * num_tokens, tokens.first, num_tokens, std::min(heads, run.count - h)});
    } else {
      for (std::int64_t h = 0; h < run.count; ++h) {
        for (std::int64_t t = 0; t < num_tokens; t += tile_rows)
          visit(Tile{h * num_tokens + t, tokens.first + t, std::min(tile_rows, num_tokens - t), 1});
      }
    }
  };

  Interval hull{num_keys, 0};
  for (const BandSlice& slice : s.candidates) {
    const Interval seen = visible_hull(slice, tokens);
    if (!seen.empty()) hull = {std::min(hull.first, seen.first), std::max(hull.end, seen.end)};
  }
  for (std::int64_t first = hull.first / tile_keys * tile_keys; first < hull.end; first += tile_keys) {
    const Interval keys{first, std::min(first + tile_keys, num_keys)};
    const bool touched = std::any_of(s.candidates.begin(), s.candidates.end(), [&](const BandSlice& slice) {
      const Interval seen = visible_hull(slice, tokens);
      return !seen.empty() && seen.first < keys.end && seen.end > keys.first;
    });
    if (!touched) continue;
    pack_transposed(a.k, batch, run.kv_head, first, keys.end - first, tile_keys, s.keys.data());
    pack_rows(a.v, batch, run.kv_head, first, keys.end - first, 1, s.values.data());
    const bool finite_values = all_finite(s.values.data(), (keys.end - first) * dv);
    for_each_tile([&](const Tile& one) { attend_tile(a, one, keys, finite_values, s); });
    a.num_threads.note_progress();
  }
  for (std::int64_t r = 0; r < rows; ++r)
    finish_row(a, batch, tokens.first + r % num_tokens, run.first + r / num_tokens, s.high[r], s.total[r], s.sums.data() + r * dv);
}

}  // namespace

void attend(const AttendArguments& arguments) {
  const AttendArguments& a = arguments;
  if (a.sinks && !a.fresh)
    throw Error(ErrorKind::argument, "attend: sinks are given with fresh = false, want fresh = true: they join a fresh state");
  if (a.out.dtype != f32 || a.lse.dtype != f32)
    throw Error(ErrorKind::argument, fmt::format("attend: out, lse are {}, {}, want f32", name(a.out.dtype), name(a.lse.dtype)));
  if (a.q.extent(0) == 0 || a.q.extent(1) == 0 || a.q.extent(2) == 0) return;
  static thread_local Work scratch;
  Work& work = scratch;  // the helpers of parallel_for see the caller's
  find_runs(a, work.runs);
  work.index.build(a.slices, a.q.extent(1), a.k.extent(1));
  const std::int64_t tokens = tokens_per_item(a, work.runs), num_tokens = a.q.extent(1);
  const std::int64_t num_blocks = (num_tokens + tokens - 1) / tokens, num_runs = static_cast<std::int64_t>(work.runs.size());
  parallel_for(a.q.extent(0) * num_runs * num_blocks, a.num_threads, [&](std::int64_t item) {
    const std::int64_t block = num_blocks - 1 - item % num_blocks;  // under a causal mask the last blocks take longest: first
    const HeadRun& run = work.runs[static_cast<std::size_t>(item / num_blocks % num_runs)];
    attend_item(a, work, run, item / num_blocks / num_runs, {block * tokens, std::min((block + 1) * tokens, num_tokens)});
  });
}

}  // namespace cpu
SEQCCL_END
