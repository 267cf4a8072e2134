// attend.cpp - softmax attention over band slices, a tile of scores at a time; keeps or merges a running (out, lse).
// SPDX-License-Identifier: Apache-2.0
//
// Online softmax (Milakov, Gimelshein, arXiv:1805.02867) in tiles (Dao et al., arXiv:2205.14135). For each key tile, per row:
//
//     m' = max(m, max S)    l <- e^(m - m') l + sum e^(S - m')    o <- e^(m - m') o + e^(S - m') v
//
// and at the end out = o / l, lse = m + log l. An item of work is a few hundred rows (token, query head) of one key/value head, so
// that a packed key tile serves all of them; where there are few rows, the keys are cut too and the parts merged in order. Items,
// parts and tiles are cut by shape alone: results do not depend on num_threads.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "../parallel.hpp"
#include "band.hpp"
#include "pack.hpp"
#include "panel.hpp"
#include "seqccl/error.hpp"
#include "seqccl/kernels.hpp"
#include "seqccl/merge.hpp"

SEQCCL_BEGIN
namespace cpu {
namespace {

constexpr std::int64_t tile_rows = 24, tile_keys = 256;  // one tile of scores: 24 KiB; rows are whole register blocks
constexpr std::int64_t max_item_rows = 480;              // rows that share a packed key tile
constexpr std::int64_t max_item_bytes = 1 << 18;         // of q and o of an item: half of a common second-level cache
constexpr std::int64_t enough_items = 16;                // for a machine's cores
constexpr std::int64_t min_part_keys = 1024;             // keys that pay for a part of their own
constexpr std::int64_t row_unit = 16;                    // rows in scratch are whole cache lines
constexpr float infinity = std::numeric_limits<float>::infinity();

/// Query heads [first, first + count) use one key/value head.
struct HeadRun {
  std::int64_t first = 0, count = 0, kv_head = 0;
};

/// Scratch of one thread; grows and stays. Row r of an item is (token r / heads, head r % heads) of its run.
struct Scratch {
  std::vector<BandSlice> candidates;
  TileMask mask, block_mask;
  Interval columns[tile_rows], depths[tile_rows];  // per register block
  AlignedFloats queries, keys, values, scores, sums, high, total, factor;
  float spare[tile_keys];
};

/// How the call is cut into items: (batch, run of heads, block of tokens, part of the keys).
struct Work {
  std::vector<HeadRun> runs;
  BandIndex index;
  std::int64_t item_tokens = 1, num_blocks = 1, num_parts = 1, part_keys = 0;
  std::vector<Scratch> workers;
  std::vector<float> parts;  // m, l, o of every row of every part, if there are several
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

/// Rows of an item: as many as pay for packing a key tile, fewer where that would leave too few items; then the keys are cut.
void cut_items(const AttendArguments& a, Work& work) {
  const std::int64_t num_tokens = a.q.extent(1), num_keys = a.k.extent(1);
  std::int64_t heads = 1;
  for (const HeadRun& run : work.runs) heads = std::max(heads, run.count);
  const auto num_items = [&](std::int64_t rows) {
    work.item_tokens = std::max<std::int64_t>(1, rows / heads);
    work.num_blocks = (num_tokens + work.item_tokens - 1) / work.item_tokens;
    return a.q.extent(0) * static_cast<std::int64_t>(work.runs.size()) * work.num_blocks;
  };
  const std::int64_t row_bytes = (round_up(a.q.extent(3), row_unit) + round_up(a.v.extent(3), row_unit)) * 4;
  std::int64_t rows = std::clamp(max_item_bytes / row_bytes / tile_rows * tile_rows, 4 * tile_rows, max_item_rows);
  while (rows > 2 * tile_rows && num_items(rows) < enough_items) rows -= 2 * tile_rows;
  const std::int64_t total = num_items(rows);
  const std::int64_t even = (num_tokens + work.num_blocks - 1) / work.num_blocks;  // no last item of a few rows, which pays as much for k
  work.item_tokens = std::min(work.item_tokens, heads == 1 ? round_up(even, panel_ops().block_rows) : even);
  const std::int64_t wanted = (enough_items + total - 1) / total;
  work.num_parts = std::max<std::int64_t>(1, std::min(wanted, num_keys / min_part_keys));
  work.part_keys = round_up((num_keys + work.num_parts - 1) / work.num_parts, tile_keys);
}

/// One item: `num_rows` rows of one run of heads.
struct Item {
  const HeadRun& run;
  std::int64_t batch = 0;
  Interval tokens;
  [[nodiscard]] std::int64_t num_rows() const noexcept { return (tokens.end - tokens.first) * run.count; }
  [[nodiscard]] std::int64_t token(std::int64_t row) const noexcept { return tokens.first + row / run.count; }
  [[nodiscard]] Interval tokens_of(std::int64_t row, std::int64_t count) const noexcept { return {token(row), token(row + count - 1) + 1}; }
};

/// Which columns of the tile each register block needs, and hides the rest of them. False: all blocks need all keys.
bool cut_columns(const Item& item, std::int64_t row, std::int64_t rows, Interval keys, Scratch& s) {
  const PanelOps& ops = panel_ops();
  const Interval all{0, keys.end - keys.first};
  const std::int64_t num_blocks = (rows + ops.block_rows - 1) / ops.block_rows;
  const bool whole = s.mask.whole && s.mask.hull.first == keys.first && s.mask.hull.end == keys.end && all.end % ops.lanes == 0;
  for (std::int64_t b = 0; b < num_blocks; ++b) {
    s.columns[b] = s.depths[b] = all;
    if (whole) continue;
    const std::int64_t first = b * ops.block_rows;
    s.block_mask.build(s.mask.touching, item.tokens_of(row + first, std::min(ops.block_rows, rows - first)), keys);
    const Interval hull{s.block_mask.hull.first - keys.first, s.block_mask.hull.end - keys.first};
    s.depths[b] = s.block_mask.hull.empty() ? Interval{} : hull;
    s.columns[b] = {s.depths[b].first / ops.lanes * ops.lanes, round_up(s.depths[b].end, ops.lanes)};
  }
  return !whole;
}

/// Scores that a row may not see become -inf.
void hide_scores(const Item& item, std::int64_t row, std::int64_t rows, Interval keys, Scratch& s) {
  const PanelOps& ops = panel_ops();
  for (std::int64_t r = 0; r < rows; ++r) {
    const Interval columns = s.columns[r / ops.block_rows];
    if (columns.empty()) continue;
    s.mask.hide(item.token(row + r), {keys.first + columns.first, keys.first + columns.end},
                s.scores.data() + r * tile_keys + columns.first, s.spare);
  }
}

/// One tile of scores, rows [row, row + rows) of the item, against the packed keys: updates (m, l, o) of its rows.
void attend_tile(const AttendArguments& a, const Item& item, std::int64_t row, std::int64_t rows, Interval keys, bool finite_values,
                 Scratch& s) {
  const PanelOps& ops = panel_ops();
  const std::int64_t dk = a.q.extent(3), dk_row = round_up(dk, row_unit), dv_row = round_up(a.v.extent(3), row_unit);
  const std::int64_t num_keys = keys.end - keys.first;
  s.mask.build(s.candidates, item.tokens_of(row, rows), keys);
  if (s.mask.hull.empty()) return;
  const bool masked = cut_columns(item, row, rows, keys, s);

  float *scores = s.scores.data(), *sums = s.sums.data() + row * dv_row;  // (rows, num_keys) (rows, Dv)
  ops.multiply(rows, round_up(num_keys, ops.lanes), dk, s.queries.data() + row * dk_row, dk_row, 1, s.keys.data(), ops.panel,
               dk * ops.panel, scores, tile_keys, false, s.columns, nullptr);
  if (a.softcap != 0) {
    for (std::int64_t r = 0; r < rows; ++r) {
      const Interval columns = s.columns[r / ops.block_rows];
      apply_softcap(a.softcap, scores + r * tile_keys + columns.first, columns.end - columns.first);
    }
  }
  if (masked) hide_scores(item, row, rows, keys, s);
  ops.softmax(rows, scores, tile_keys, s.columns, s.high.data() + row, s.total.data() + row * ops.lanes, s.factor.data());
  for (std::int64_t r = 0; r < rows; ++r) {
    if (s.factor.data()[r] != 1) ops.scale(s.factor.data()[r], sums + r * dv_row, dv_row);
  }
  if (finite_values || !masked) {
    ops.multiply(rows, round_up(a.v.extent(3), ops.lanes), num_keys, scores, tile_keys, 1, s.values.data(), ops.panel,
                 tile_keys * ops.panel, sums, dv_row, true, nullptr, s.depths);
    return;
  }
  // 0 times infinity is NaN: here a value that a row may not see must not even be multiplied.
  for (std::int64_t r = 0; r < rows; ++r) {
    s.mask.for_each_visible(item.token(row + r), keys, [&](Interval seen) {
      const Interval depth{seen.first - keys.first, seen.end - keys.first};
      ops.multiply(1, round_up(a.v.extent(3), ops.lanes), num_keys, scores + r * tile_keys, tile_keys, 1, s.values.data(), ops.panel,
                   tile_keys * ops.panel, sums + r * dv_row, dv_row, true, nullptr, &depth);
    });
  }
}

/// out, lse of one row from (m, l, o): stored, or merged into what is there.
void finish_row(const AttendArguments& a, std::int64_t batch, std::int64_t token, std::int64_t head, float high, float total,
                const float* sums) {
  const std::int64_t dv = a.v.extent(3);
  float* out = row_at(a.out, batch, token, head);
  float& lse = *row_at(a.lse, batch, token, head);
  const bool empty = high == -infinity && total == 0;  // a NaN among scores of -inf shows in l only
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

void pack_queries(const AttendArguments& a, const Item& item, Scratch& s) {
  const PanelOps& ops = panel_ops();
  const std::int64_t row = round_up(a.q.extent(3), row_unit);
  PackSource from{address(a.q, item.batch, item.tokens.first, item.run.first), a.q.dtype, a.q.stride(1), item.num_rows(), a.q.extent(3)};
  if (item.run.count == 1) {
    ops.pack_rows(from, a.scale, s.queries.data(), row);
    return;
  }
  from.stride = a.q.stride(2), from.count = item.run.count;
  for (std::int64_t token = item.tokens.first; token < item.tokens.end; ++token) {
    from.data = address(a.q, item.batch, token, item.run.first);
    ops.pack_rows(from, a.scale, s.queries.data() + (token - item.tokens.first) * item.run.count * row, row);
  }
}

/// (m, l, o) of all rows of the item over the keys of `part`, in the worker's scratch. False if no row has a slice.
bool attend_item(const AttendArguments& a, const Work& work, const Item& item, Interval part, Scratch& s) {
  const PanelOps& ops = panel_ops();
  const std::int64_t dk = a.q.extent(3), dv = a.v.extent(3), rows = item.num_rows();
  s.candidates.clear();
  work.index.find(item.batch, item.tokens, s.candidates);
  if (s.candidates.empty() && !a.fresh) return false;
  const std::int64_t dk_row = round_up(dk, row_unit), dv_row = round_up(dv, row_unit);
  s.queries.grow(rows * dk_row);
  s.keys.grow(dk * tile_keys);
  s.values.grow(tile_keys * round_up(dv, ops.panel));
  s.scores.grow(tile_rows * tile_keys);
  s.sums.grow(rows * dv_row);
  s.high.grow(rows);
  s.total.grow(rows * ops.lanes);
  s.factor.grow(tile_rows);
  std::fill_n(s.high.data(), rows, -infinity);
  std::fill_n(s.total.data(), rows * ops.lanes, 0.0F);
  std::fill_n(s.sums.data(), rows * dv_row, 0.0F);
  if (s.candidates.empty()) return true;
  pack_queries(a, item, s);

  Interval hull{part.end, part.first};
  for (const BandSlice& slice : s.candidates) {
    const Interval seen = visible_hull(slice, item.tokens);
    if (!seen.empty()) hull = {std::min(hull.first, seen.first), std::max(hull.end, seen.end)};
  }
  hull = {std::max(hull.first, part.first), std::min(hull.end, part.end)};
  for (std::int64_t first = hull.first / tile_keys * tile_keys; first < hull.end; first += tile_keys) {
    const Interval keys{first, std::min(first + tile_keys, part.end)};
    const std::int64_t count = keys.end - keys.first;
    const bool touched = std::any_of(s.candidates.begin(), s.candidates.end(), [&](const BandSlice& slice) {
      const Interval seen = visible_hull(slice, item.tokens);
      return !seen.empty() && seen.first < keys.end && seen.end > keys.first;
    });
    if (!touched) continue;
    ops.pack_transposed({address(a.k, item.batch, first, item.run.kv_head), a.k.dtype, a.k.stride(1), count, dk}, s.keys.data(), ops.panel,
                        dk * ops.panel);
    const bool finite_values = ops.pack_panels({address(a.v, item.batch, first, item.run.kv_head), a.v.dtype, a.v.stride(1), count, dv}, 1,
                                               s.values.data(), tile_keys * ops.panel);
    for (std::int64_t row = 0; row < rows; row += tile_rows)
      attend_tile(a, item, row, std::min(tile_rows, rows - row), keys, finite_values, s);
    a.num_threads.note_progress();
  }
  return true;
}

void finish_item(const AttendArguments& a, const Item& item, const Scratch& s) {
  const PanelOps& ops = panel_ops();
  const std::int64_t dv_row = round_up(a.v.extent(3), row_unit);
  for (std::int64_t r = 0; r < item.num_rows(); ++r)
    finish_row(a, item.batch, item.token(r), item.run.first + r % item.run.count, s.high.data()[r],
               ops.sum_lanes(s.total.data() + r * ops.lanes), s.sums.data() + r * dv_row);
}

/// A part's rows in Work::parts: (m, l, o) each.
void keep_part(const AttendArguments& a, const Item& item, const Scratch& s, float* to) {
  const PanelOps& ops = panel_ops();
  const std::int64_t dv = a.v.extent(3), dv_row = round_up(dv, row_unit);
  for (std::int64_t r = 0; r < item.num_rows(); ++r, to += dv + 2) {
    to[0] = s.high.data()[r];
    to[1] = ops.sum_lanes(s.total.data() + r * ops.lanes);
    std::copy_n(s.sums.data() + r * dv_row, dv, to + 2);
  }
}

/// A part that says that no row saw a key.
void leave_part(const AttendArguments& a, const Item& item, float* to) {
  const std::int64_t size = a.v.extent(3) + 2;
  std::fill_n(to, item.num_rows() * size, 0.0F);
  for (std::int64_t r = 0; r < item.num_rows(); ++r) to[r * size] = -infinity;
}

/// Merges the parts of an item, first to last, into the first and finishes its rows.
void finish_parts(const AttendArguments& a, const Item& item, std::int64_t num_parts, float* parts, std::int64_t part_stride) {
  const std::int64_t dv = a.v.extent(3);
  for (std::int64_t r = 0; r < item.num_rows(); ++r) {
    float* first = parts + r * (dv + 2);
    for (std::int64_t p = 1; p < num_parts; ++p) {
      const float* next = first + p * part_stride;
      const float high = std::max(first[0], next[0]);
      const float kept = first[0] == high ? 1 : std::exp(first[0] - high), added = next[0] == high ? 1 : std::exp(next[0] - high);
      for (std::int64_t d = 1; d < dv + 2; ++d) first[d] = kept * first[d] + added * next[d];
      first[0] = high;
    }
    finish_row(a, item.batch, item.token(r), item.run.first + r % item.run.count, first[0], first[1], first + 2);
  }
}

}  // namespace

void attend(const AttendArguments& arguments) {
  const AttendArguments& a = arguments;
  if (a.sinks && !a.fresh)
    throw Error(ErrorKind::argument, "attend: sinks are given with fresh = false, want fresh = true: they join a fresh state");
  if (a.out.dtype != f32 || a.lse.dtype != f32)
    throw Error(ErrorKind::argument, fmt::format("attend: out, lse are {}, {}, want f32", name(a.out.dtype), name(a.lse.dtype)));
  for (const ConstTensorView* operand : {&a.q, &a.k, &a.v}) require_packable(*operand, "attend");
  if (a.q.extent(0) == 0 || a.q.extent(1) == 0 || a.q.extent(2) == 0) return;
  static thread_local Work scratch;
  Work& work = scratch;  // the helpers of parallel_for see the caller's
  find_runs(a, work.runs);
  work.index.build(a.slices, a.q.extent(1), a.k.extent(1));
  cut_items(a, work);
  if (work.workers.size() < static_cast<std::size_t>(std::max(1, a.num_threads.count))) work.workers.resize(a.num_threads.count);
  const std::int64_t num_runs = static_cast<std::int64_t>(work.runs.size()), num_keys = a.k.extent(1);
  const std::int64_t num_items = a.q.extent(0) * num_runs * work.num_blocks;
  const auto item_at = [&](std::int64_t index) {
    const std::int64_t block = work.num_blocks - 1 - index % work.num_blocks;  // under a causal mask the last take longest: first
    return Item{work.runs[static_cast<std::size_t>(index / work.num_blocks % num_runs)],
                index / work.num_blocks / num_runs,
                {block * work.item_tokens, std::min((block + 1) * work.item_tokens, a.q.extent(1))}};
  };
  if (work.num_parts == 1) {
    parallel_for_workers(num_items, a.num_threads, [&](std::int64_t index, int worker) {
      const Item item = item_at(index);
      Scratch& s = work.workers[static_cast<std::size_t>(worker)];
      if (attend_item(a, work, item, {0, num_keys}, s)) finish_item(a, item, s);
    });
    return;
  }
  std::int64_t max_rows = 0;
  for (const HeadRun& run : work.runs) max_rows = std::max(max_rows, run.count * work.item_tokens);
  const std::int64_t part_stride = max_rows * (a.v.extent(3) + 2), num_parts = work.num_parts;
  const auto size = static_cast<std::size_t>(num_items * num_parts * part_stride);
  if (work.parts.size() < size) work.parts.resize(size);
  parallel_for_workers(num_items * num_parts, a.num_threads, [&](std::int64_t index, int worker) {
    const Item item = item_at(index / num_parts);
    Scratch& s = work.workers[static_cast<std::size_t>(worker)];
    const std::int64_t first = index % num_parts * work.part_keys;
    float* part = work.parts.data() + index * part_stride;
    if (attend_item(a, work, item, {first, std::min(first + work.part_keys, num_keys)}, s))
      keep_part(a, item, s, part);
    else
      leave_part(a, item, part);
  });
  parallel_for(num_items, a.num_threads, [&](std::int64_t index) {
    const Item item = item_at(index);
    finish_parts(a, item, num_parts, work.parts.data() + index * num_parts * part_stride, part_stride);
  });
}

}  // namespace cpu
SEQCCL_END
