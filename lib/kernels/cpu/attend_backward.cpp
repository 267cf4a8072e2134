// attend_backward.cpp - gradients of softmax attention over band slices, a tile of scores at a time.
// SPDX-License-Identifier: Apache-2.0
//
//     p = e^(S - lse)    ds = p (dout v^T - delta) softcap'(S)    dv += p^T dout    dk += scale ds^T q    dq += scale ds k
//
// One item of work is a key tile of one key/value head, with all query tiles of all of its query heads inside (Dao, arXiv:2307.08691).
// dk, dv belong to the item. dq is added to by all items of the head: each adds to a query tile only when the items before it have,
// so sums have one order and do not depend on num_threads. An item waits only for items that were begun before it.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>
#include <thread>
#include <vector>

#include "../parallel.hpp"
#include "band.hpp"
#include "pack.hpp"
#include "panel.hpp"
#include "seqccl/error.hpp"
#include "seqccl/kernels.hpp"

SEQCCL_BEGIN
namespace cpu {
namespace {

constexpr std::int64_t tile_rows = 96, tile_keys = 128;
constexpr std::int64_t score_row = tile_keys + 16;  // columns of a tile are read too: rows must not share cache sets
constexpr float infinity = std::numeric_limits<float>::infinity();

/// The slice with queries and keys changed places, to find slices by their keys.
BandSlice transpose(const BandSlice& slice) {
  return {slice.k_first, slice.k_count, slice.q_first, slice.q_count, -slice.high, -slice.low, slice.batch};
}

/// Scratch of one thread; grows and stays.
struct Scratch {
  std::vector<BandSlice> candidates, transposed;
  TileMask mask, block_mask;
  Interval columns[tile_rows], key_columns[tile_keys];                     // per register block of rows, of keys
  AlignedFloats keys, keys_transposed, values_transposed, dkeys, dvalues;  // of the key tile
  AlignedFloats queries, douts, dqueries, p, ds, slope;                    // of the query tile
  std::int64_t running = 0;                                                // see wait_for_turn
  float lse[tile_rows], delta[tile_rows], spare[score_row];
};

/// How far each item is: its walk over (query head, query tile) in order has left all steps below this behind.
using Progress = std::unique_ptr<std::atomic<std::int64_t>[]>;
constexpr std::int64_t finished = std::numeric_limits<std::int64_t>::max();

struct Work {
  std::vector<BandSlice> transposed;
  BandIndex by_key;
  std::vector<Scratch> workers;
  Progress progress;
  std::int64_t progress_size = 0;
};

/// One key tile of one key/value head. Items of a head are `stride` apart in the numbering, earlier keys first.
struct Item {
  std::int64_t index = 0, stride = 1, batch = 0, kv_head = 0;
  Interval keys;
};

/// Returns when all earlier items of the head have left step `step` behind. Those before `running` are known to have finished.
void wait_for_turn(const Item& item, const Progress& progress, std::int64_t step, std::int64_t& running) {
  for (std::int64_t before = running; before < item.index; before += item.stride) {
    while (progress[before].load(std::memory_order_acquire) <= step) std::this_thread::yield();
    if (before == running && progress[before].load(std::memory_order_acquire) == finished) running += item.stride;
  }
}

/// The register blocks' columns of a tile of scores: those that a row of the block sees, in whole vectors. False: all of them.
bool cut_columns(Interval tokens, Interval keys, Scratch& s) {
  const PanelOps& ops = panel_ops();
  const Interval all{0, keys.end - keys.first};
  const bool whole = s.mask.whole && s.mask.hull.first == keys.first && s.mask.hull.end == keys.end && all.end % ops.lanes == 0;
  Interval* columns = s.columns;
  for (std::int64_t first = tokens.first; first < tokens.end; first += ops.block_rows, ++columns) {
    *columns = all;
    if (whole) continue;
    s.block_mask.build(s.mask.touching, {first, std::min(first + ops.block_rows, tokens.end)}, keys);
    const Interval& hull = s.block_mask.hull;
    *columns =
        hull.empty() ? Interval{} : Interval{(hull.first - keys.first) / ops.lanes * ops.lanes, round_up(hull.end - keys.first, ops.lanes)};
  }
  return !whole;
}

/// p and ds of one query tile against the packed keys; hidden pairs have p = ds = 0 as long as the inputs are finite.
void tile_gradients(const AttendBackwardArguments& a, Interval tokens, Interval keys, bool masked, Scratch& s) {
  const PanelOps& ops = panel_ops();
  const std::int64_t dk = a.q.extent(3), dv = a.v.extent(3), dk_row = padded_row(dk), dv_row = padded_row(dv);
  const std::int64_t rows = tokens.end - tokens.first, width = round_up(keys.end - keys.first, ops.lanes);
  float *p = s.p.data(), *ds = s.ds.data();
  ops.multiply(rows, width, dk, s.queries.data(), dk_row, 1, s.keys_transposed.data(), ops.panel, dk * ops.panel, p, score_row, false,
               s.columns, nullptr);
  ops.multiply(rows, width, dv, s.douts.data(), dv_row, 1, s.values_transposed.data(), ops.panel, dv * ops.panel, ds, score_row, false,
               s.columns, nullptr);
  for (std::int64_t r = 0; r < rows && (masked || a.softcap != 0); ++r) {
    const Interval columns = s.columns[r / ops.block_rows];
    const std::int64_t count = columns.end - columns.first;
    float *row = p + r * score_row + columns.first, *slope = s.slope.data() + r * score_row + columns.first;
    if (a.softcap != 0) {
      apply_softcap(a.softcap, row, count);
      const float inverse = 1 / a.softcap;
      for (std::int64_t j = 0; j < count; ++j) slope[j] = 1 - (row[j] * inverse) * (row[j] * inverse);
    }
    if (masked && count > 0) s.mask.hide(tokens.first + r, {keys.first + columns.first, keys.first + columns.end}, row, s.spare);
  }
  ops.softmax_backward(rows, p, ds, score_row, s.columns, s.lse, s.delta);
  for (std::int64_t r = 0; r < rows && (masked || a.softcap != 0); ++r) {
    const Interval columns = s.columns[r / ops.block_rows];
    float *row = ds + r * score_row, *slope = s.slope.data() + r * score_row;
    for (std::int64_t j = columns.first; j < columns.end && a.softcap != 0; ++j) row[j] *= slope[j];
    for (float* side : {p + r * score_row, row}) {  // what no row of the block sees was not computed
      std::fill(side, side + columns.first, 0.0F);
      std::fill(side + columns.end, side + width, 0.0F);
    }
  }
}

/// dv += p^T dout, dk += ds^T q, dq = ds k of one query tile.
void tile_products(const AttendBackwardArguments& a, Interval tokens, Interval keys, bool visible_only, Scratch& s) {
  const PanelOps& ops = panel_ops();
  const std::int64_t dk = a.q.extent(3), dv = a.v.extent(3), dk_row = padded_row(dk), dv_row = padded_row(dv);
  const std::int64_t rows = tokens.end - tokens.first, num_keys = keys.end - keys.first, panel = ops.panel;
  const std::int64_t dk_width = round_up(dk, ops.lanes), dv_width = round_up(dv, ops.lanes);
  const float *p = s.p.data(), *ds = s.ds.data();
  if (!visible_only) {
    Interval* seen_by = s.key_columns;  // the rows whose blocks touch a block of keys
    for (std::int64_t key = 0; key < num_keys; key += ops.block_rows, ++seen_by) {
      *seen_by = {rows, 0};
      for (std::int64_t r = 0; r < rows; r += ops.block_rows) {
        const Interval columns = s.columns[r / ops.block_rows];
        if (columns.first < std::min(key + ops.block_rows, num_keys) && columns.end > key)
          *seen_by = {std::min(seen_by->first, r), std::min(r + ops.block_rows, rows)};
      }
    }
    ops.multiply(num_keys, dv_width, rows, p, 1, score_row, s.douts.data(), dv_row, panel, s.dvalues.data(), dv_row, true, nullptr,
                 s.key_columns);
    ops.multiply(num_keys, dk_width, rows, ds, 1, score_row, s.queries.data(), dk_row, panel, s.dkeys.data(), dk_row, true, nullptr,
                 s.key_columns);
    for (std::int64_t b = 0; b * ops.block_rows < rows; ++b) s.columns[b].end = std::min(s.columns[b].end, num_keys);
    ops.multiply(rows, dk_width, num_keys, ds, score_row, 1, s.keys.data(), dk_row, panel, s.dqueries.data(), dk_row, false, nullptr,
                 s.columns);
    return;
  }
  // 0 times infinity is NaN: here pairs that are hidden must not even be multiplied.
  std::fill_n(s.dqueries.data(), rows * dk_row, 0.0F);
  for (std::int64_t r = 0; r < rows; ++r) {
    s.mask.for_each_visible(tokens.first + r, keys, [&](Interval seen) {
      const std::int64_t first = seen.first - keys.first, count = seen.end - seen.first, at = r * score_row + first;
      ops.multiply(count, dv_width, 1, p + at, 1, score_row, s.douts.data() + r * dv_row, dv_row, panel, s.dvalues.data() + first * dv_row,
                   dv_row, true, nullptr, nullptr);
      ops.multiply(count, dk_width, 1, ds + at, 1, score_row, s.queries.data() + r * dk_row, dk_row, panel, s.dkeys.data() + first * dk_row,
                   dk_row, true, nullptr, nullptr);
      ops.multiply(1, dk_width, count, ds + at, score_row, 1, s.keys.data() + first * dk_row, dk_row, panel, s.dqueries.data() + r * dk_row,
                   dk_row, true, nullptr, nullptr);
    });
  }
}

/// Rows [first, first + count) of one head of `to`: overwritten with or increased by `from`.
void write_rows(const TensorView& to, std::int64_t batch, std::int64_t head, std::int64_t first, std::int64_t count, const float* from,
                std::int64_t from_row, bool overwrite) {
  const std::int64_t size = to.extent(3);
  for (std::int64_t i = 0; i < count; ++i, from += from_row) {
    float* row = row_at(to, batch, first + i, head);
    if (overwrite)
      std::copy(from, from + size, row);
    else
      for (std::int64_t d = 0; d < size; ++d) row[d] += from[d];
  }
}

void zero_rows(const TensorView& to, std::int64_t batch, std::int64_t head) {
  for (std::int64_t i = 0; i < to.extent(1); ++i) std::fill_n(row_at(to, batch, i, head), to.extent(3), 0.0F);
}

/// Query heads of key/value head `kv_head`: [first, end).
Interval query_heads(const AttendBackwardArguments& a, std::int64_t kv_head) {
  const std::int64_t first = (kv_head + a.heads.first_kv) * a.heads.group - a.heads.first_q;
  return {std::max<std::int64_t>(first, 0), std::min(first + a.heads.group, a.q.extent(2))};
}

/// One query tile of one head against the packed keys: adds to dkeys, dvalues, and to dq when it is this item's turn.
void backward_tile(const AttendBackwardArguments& a, const Work& work, const Item& item, std::int64_t head, Interval tokens,
                   std::int64_t step, bool finite_keys, Scratch& s) {
  const PanelOps& ops = panel_ops();
  const std::int64_t dk = a.q.extent(3), dv = a.v.extent(3), dk_row = padded_row(dk), dv_row = padded_row(dv);
  const std::int64_t rows = tokens.end - tokens.first;
  s.mask.build(s.candidates, tokens, item.keys);
  if (s.mask.hull.empty()) return;
  const bool masked = cut_columns(tokens, item.keys, s);
  bool finite =
      ops.pack_rows({address(a.q, item.batch, tokens.first, head), a.q.dtype, a.q.stride(1), rows, dk}, a.scale, s.queries.data(), dk_row);
  finite = ops.pack_rows({address(a.dout, item.batch, tokens.first, head), a.dout.dtype, a.dout.stride(1), rows, dv}, 1, s.douts.data(),
                         dv_row) &&
           finite && finite_keys;
  for (std::int64_t r = 0; r < rows; ++r) {
    s.lse[r] = scalar_at(a.lse, item.batch, tokens.first + r, head);
    s.delta[r] = scalar_at(a.delta, item.batch, tokens.first + r, head);
    if (s.lse[r] != -infinity) continue;
    std::fill_n(s.queries.data() + r * dk_row, dk_row, 0.0F);  // saw no key: whatever lies here takes no part
    std::fill_n(s.douts.data() + r * dv_row, dv_row, 0.0F);
  }
  tile_gradients(a, tokens, item.keys, masked, s);
  tile_products(a, tokens, item.keys, masked && !finite, s);
  work.progress[item.index].store(step, std::memory_order_release);
  wait_for_turn(item, work.progress, step, s.running);
  write_rows(a.dq, item.batch, head, tokens.first, rows, s.dqueries.data(), dk_row, false);
}

/// However the item ends, those behind it may go on.
struct Finish {
  std::atomic<std::int64_t>& progress;
  ~Finish() { progress.store(finished, std::memory_order_release); }
};

void backward_item(const AttendBackwardArguments& a, const Work& work, const Item& item, Scratch& s) {
  const Finish finish{work.progress[item.index]};
  const PanelOps& ops = panel_ops();
  const std::int64_t num_queries = a.q.extent(1), dk = a.q.extent(3), dv = a.v.extent(3);
  const std::int64_t dk_row = padded_row(dk), dv_row = padded_row(dv), first = item.keys.first, count = item.keys.end - first;
  s.running = item.index % item.stride;
  s.candidates.clear();
  s.transposed.clear();
  work.by_key.find(item.batch, item.keys, s.transposed);
  for (const BandSlice& slice : s.transposed) s.candidates.push_back(transpose(slice));
  if (s.candidates.empty() && !a.fresh_dkv) return;
  for (AlignedFloats* keys : {&s.keys, &s.dkeys}) keys->grow(tile_keys * dk_row);
  s.dvalues.grow(tile_keys * dv_row);
  s.keys_transposed.grow(tile_keys * dk);
  s.values_transposed.grow(tile_keys * dv);
  for (AlignedFloats* queries : {&s.queries, &s.dqueries}) queries->grow(tile_rows * dk_row);
  s.douts.grow(tile_rows * dv_row);
  for (AlignedFloats* scores : {&s.p, &s.ds, &s.slope}) scores->grow(tile_rows * score_row);
  std::fill_n(s.dkeys.data(), count * dk_row, 0.0F);
  std::fill_n(s.dvalues.data(), count * dv_row, 0.0F);
  if (!s.candidates.empty()) {
    const PackSource k{address(a.k, item.batch, first, item.kv_head), a.k.dtype, a.k.stride(1), count, dk};
    const PackSource v{address(a.v, item.batch, first, item.kv_head), a.v.dtype, a.v.stride(1), count, dv};
    ops.pack_transposed(k, s.keys_transposed.data(), ops.panel, dk * ops.panel);
    bool finite = ops.pack_transposed(v, s.values_transposed.data(), ops.panel, dv * ops.panel);
    finite = ops.pack_rows(k, a.scale, s.keys.data(), dk_row) && finite;
    Interval queries{num_queries, 0};
    for (const BandSlice& slice : s.transposed) {
      const Interval seeing = visible_hull(slice, item.keys);
      if (!seeing.empty()) queries = {std::min(queries.first, seeing.first), std::max(queries.end, seeing.end)};
    }
    const Interval heads = query_heads(a, item.kv_head);
    for (std::int64_t head = heads.first; head < heads.end; ++head) {
      for (std::int64_t q = queries.first / tile_rows * tile_rows; q < queries.end; q += tile_rows)
        backward_tile(a, work, item, head, {q, std::min(q + tile_rows, num_queries)}, head * num_queries + q, finite, s);
    }
  }
  write_rows(a.dk, item.batch, item.kv_head, first, count, s.dkeys.data(), dk_row, a.fresh_dkv);
  write_rows(a.dv, item.batch, item.kv_head, first, count, s.dvalues.data(), dv_row, a.fresh_dkv);
  a.num_threads.note_progress();
}

}  // namespace

void attend_backward(const AttendBackwardArguments& arguments) {
  const AttendBackwardArguments& a = arguments;
  for (const TensorView* gradient : {&a.dq, &a.dk, &a.dv}) {
    if (gradient->dtype != f32)
      throw Error(ErrorKind::argument, fmt::format("attend_backward: dq, dk or dv is {}, want f32", name(gradient->dtype)));
  }
  if (a.heads.group < 1) throw Error(ErrorKind::argument, fmt::format("attend_backward: heads.group is {}, want 1 or more", a.heads.group));
  for (const ConstTensorView* operand : {&a.q, &a.k, &a.v, &a.dout}) require_packable(*operand, "attend_backward");
  static thread_local Work scratch;
  Work& work = scratch;  // the helpers of parallel_for see the caller's
  work.transposed.clear();
  for (const BandSlice& slice : a.slices) work.transposed.push_back(transpose(slice));
  work.by_key.build(work.transposed, a.k.extent(1), a.q.extent(1));
  if (work.workers.size() < static_cast<std::size_t>(std::max(1, a.num_threads.count))) work.workers.resize(a.num_threads.count);
  if (a.fresh_dq) {
    const std::int64_t heads = a.q.extent(2);
    parallel_for(a.q.extent(0) * heads, a.num_threads, [&](std::int64_t row) { zero_rows(a.dq, row / heads, row % heads); });
  }
  const std::int64_t num_keys = a.k.extent(1), kv_heads = a.k.extent(2), num_heads = a.q.extent(0) * kv_heads;
  const std::int64_t num_items = num_heads * ((num_keys + tile_keys - 1) / tile_keys);
  if (num_items > work.progress_size) {
    work.progress = std::make_unique<std::atomic<std::int64_t>[]>(static_cast<std::size_t>(num_items));
    work.progress_size = num_items;
  }
  for (std::int64_t i = 0; i < num_items; ++i) work.progress[i].store(0, std::memory_order_relaxed);
  parallel_for_workers(num_items, a.num_threads, [&](std::int64_t index, int worker) {
    const std::int64_t head = index % num_heads, first = index / num_heads * tile_keys;
    const Item item{index, num_heads, head / kv_heads, head % kv_heads, {first, std::min(first + tile_keys, num_keys)}};
    backward_item(a, work, item, work.workers[static_cast<std::size_t>(worker)]);
  });
}

}  // namespace cpu
SEQCCL_END
