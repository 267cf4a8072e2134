// attend_backward.cpp - gradients of softmax attention over band slices, a tile of scores at a time.
// SPDX-License-Identifier: Apache-2.0
//
//     p = e^(S - lse)    ds = p (dout v^T - delta) softcap'(S)    dv += p^T dout    dk += scale ds^T q    dq += scale ds k
//
// One item of work is a key/value head of a batch row with all of its query heads, in a fixed order: no two items write the same
// memory and the sums do not depend on num_threads. Key tiles outside, query tiles inside (Dao, arXiv:2307.08691).
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
#include "tile.hpp"

SEQCCL_BEGIN
namespace cpu {
namespace {

constexpr std::int64_t tile_rows = 64, tile_keys = 64;
constexpr float infinity = std::numeric_limits<float>::infinity();

/// The slice with queries and keys changed places, to find slices by their keys.
BandSlice transpose(const BandSlice& slice) {
  return {slice.k_first, slice.k_count, slice.q_first, slice.q_count, -slice.high, -slice.low, slice.batch};
}

struct Work {
  std::vector<BandSlice> transposed;
  BandIndex by_key;
};

/// Scratch of one thread; grows and stays.
struct Scratch {
  std::vector<BandSlice> candidates, transposed;
  TileMask mask;
  std::vector<float> keys, keys_transposed, values_transposed, dkeys, dvalues;  // of the key tile
  std::vector<float> queries, douts, p, ds, slope, spare;                       // of the query tile

  void resize(std::int64_t dk, std::int64_t dv) {
    const auto grow = [](std::vector<float>& buffer, std::int64_t size) {
      if (static_cast<std::int64_t>(buffer.size()) < size) buffer.resize(static_cast<std::size_t>(size));
    };
    grow(keys, tile_keys * dk);
    grow(keys_transposed, dk * tile_keys);
    grow(values_transposed, dv * tile_keys);
    grow(dkeys, tile_keys * dk);
    grow(dvalues, tile_keys * dv);
    grow(queries, tile_rows * dk);
    grow(douts, tile_rows * dv);
    grow(p, tile_rows * tile_keys);
    grow(ds, tile_rows * tile_keys);
    grow(slope, tile_keys);
    grow(spare, tile_keys);
  }
};

/// p and ds of one query tile against the packed keys; hidden pairs have p = ds = 0 as long as the inputs are finite.
void tile_gradients(const AttendBackwardArguments& a, std::int64_t batch, std::int64_t head, Interval tokens, Interval columns, bool masked,
                    std::int64_t offset, Scratch& s) {
  const TileOps& ops = tile();
  const std::int64_t dk = a.q.extent(3), dv = a.v.extent(3);
  const std::int64_t rows = tokens.end - tokens.first, width = columns.end - columns.first;
  ops.gemm(rows, width, dk, s.queries.data(), dk, 1, s.keys_transposed.data() + offset, tile_keys, s.p.data(), tile_keys, false);
  ops.gemm(rows, width, dv, s.douts.data(), dv, 1, s.values_transposed.data() + offset, tile_keys, s.ds.data(), tile_keys, false);
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int64_t token = tokens.first + r;
    float *p = s.p.data() + r * tile_keys, *ds = s.ds.data() + r * tile_keys;
    const float lse = scalar_at(a.lse, batch, token, head), delta = scalar_at(a.delta, batch, token, head);
    if (lse == -infinity) {
      std::fill(p, p + width, 0.0F);
      std::fill(ds, ds + width, 0.0F);
      continue;
    }
    if (a.softcap != 0) {
      apply_softcap(a.softcap, p, width);
      const float inverse = 1 / a.softcap;
      for (std::int64_t j = 0; j < width; ++j) s.slope[j] = 1 - (p[j] * inverse) * (p[j] * inverse);
    }
    if (masked) s.mask.hide(token, columns, p, s.spare.data());
    ops.exp_sum(p, width, lse);
    for (std::int64_t j = 0; j < width; ++j) ds[j] = p[j] * (ds[j] - delta);
    if (a.softcap != 0) {
      for (std::int64_t j = 0; j < width; ++j) ds[j] *= s.slope[j];
    }
  }
}

/// One query tile of one head against the packed keys: adds to dkeys, dvalues and to dq in place.
void backward_tile(const AttendBackwardArguments& a, std::int64_t batch, std::int64_t head, Interval tokens, Interval keys,
                   bool finite_keys, Scratch& s) {
  const TileOps& ops = tile();
  const std::int64_t dk = a.q.extent(3), dv = a.v.extent(3), rows = tokens.end - tokens.first;
  s.mask.build(s.candidates, tokens, keys);
  if (s.mask.hull.empty()) return;
  // Whole vectors of columns, for the sake of gemm; what this adds is hidden again.
  Interval columns{keys.first + (s.mask.hull.first - keys.first) / 8 * 8, keys.first + (s.mask.hull.end - keys.first + 7) / 8 * 8};
  columns.end = std::min(columns.end, keys.end);
  const bool masked = !s.mask.whole || columns.first != s.mask.hull.first || columns.end != s.mask.hull.end;
  const std::int64_t width = columns.end - columns.first, offset = columns.first - keys.first;

  pack_rows(a.q, batch, head, tokens.first, rows, a.scale, s.queries.data());  // (rows, Dk)
  pack_rows(a.dout, batch, head, tokens.first, rows, 1, s.douts.data());       // (rows, Dv)
  for (std::int64_t r = 0; r < rows; ++r) {
    if (scalar_at(a.lse, batch, tokens.first + r, head) != -infinity) continue;
    std::fill_n(s.queries.data() + r * dk, dk, 0.0F);  // saw no key: whatever lies here takes no part
    std::fill_n(s.douts.data() + r * dv, dv, 0.0F);
  }
  tile_gradients(a, batch, head, tokens, columns, masked, offset, s);

  float* dq = row_at(a.dq, batch, tokens.first, head);
  float *dkeys = s.dkeys.data() + offset * dk, *dvalues = s.dvalues.data() + offset * dv;
  const float* packed_keys = s.keys.data() + offset * dk;
  const auto add = [&](std::int64_t r, std::int64_t num_rows, std::int64_t first, std::int64_t count) {
    const float *p = s.p.data() + r * tile_keys + first, *ds = s.ds.data() + r * tile_keys + first;
    ops.gemm(count, dv, num_rows, p, 1, tile_keys, s.douts.data() + r * dv, dv, dvalues + first * dv, dv, true);
    ops.gemm(count, dk, num_rows, ds, 1, tile_keys, s.queries.data() + r * dk, dk, dkeys + first * dk, dk, true);
    ops.gemm(num_rows, dk, count, ds, tile_keys, 1, packed_keys + first * dk, dk, dq + r * a.dq.stride(1), a.dq.stride(1), true);
  };
  const bool finite = !masked || (finite_keys && all_finite(s.queries.data(), rows * dk) && all_finite(s.douts.data(), rows * dv));
  if (finite) return add(0, rows, 0, width);
  // 0 times infinity is NaN: here pairs that are hidden must not even be multiplied.
  for (std::int64_t r = 0; r < rows; ++r)
    s.mask.for_each_visible(tokens.first + r, columns,
                            [&](Interval seen) { add(r, 1, seen.first - columns.first, seen.end - seen.first); });
}

/// Rows [first, first + count) of one head of `to`: overwritten with or increased by `from`.
void write_rows(const TensorView& to, std::int64_t batch, std::int64_t head, std::int64_t first, std::int64_t count, const float* from,
                bool overwrite) {
  const std::int64_t size = to.extent(3);
  for (std::int64_t i = 0; i < count; ++i, from += size) {
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

void backward_item(const AttendBackwardArguments& a, const Work& work, std::int64_t batch, std::int64_t kv_head) {
  static thread_local Scratch s;
  const std::int64_t num_queries = a.q.extent(1), num_keys = a.k.extent(1), dk = a.q.extent(3), dv = a.v.extent(3);
  const Interval heads = query_heads(a, kv_head);
  for (std::int64_t head = heads.first; head < heads.end && a.fresh_dq; ++head) zero_rows(a.dq, batch, head);
  s.resize(dk, dv);
  for (std::int64_t first = 0; first < num_keys; first += tile_keys) {
    const Interval keys{first, std::min(first + tile_keys, num_keys)};
    const std::int64_t count = keys.end - keys.first;
    s.candidates.clear();
    s.transposed.clear();
    work.by_key.find(batch, keys, s.transposed);
    for (const BandSlice& slice : s.transposed) s.candidates.push_back(transpose(slice));
    if (s.candidates.empty() && !a.fresh_dkv) continue;
    std::fill_n(s.dkeys.begin(), count * dk, 0.0F);
    std::fill_n(s.dvalues.begin(), count * dv, 0.0F);
    if (!s.candidates.empty()) {
      pack_transposed(a.k, batch, kv_head, first, count, tile_keys, s.keys_transposed.data());
      pack_transposed(a.v, batch, kv_head, first, count, tile_keys, s.values_transposed.data());
      pack_rows(a.k, batch, kv_head, first, count, a.scale, s.keys.data());
      bool finite = all_finite(s.keys.data(), count * dk);
      for (std::int64_t d = 0; d < dv; ++d) finite = finite && all_finite(s.values_transposed.data() + d * tile_keys, count);
      Interval queries{num_queries, 0};
      for (const BandSlice& slice : s.transposed) {
        const Interval seeing = visible_hull(slice, keys);
        if (!seeing.empty()) queries = {std::min(queries.first, seeing.first), std::max(queries.end, seeing.end)};
      }
      for (std::int64_t head = heads.first; head < heads.end; ++head) {
        for (std::int64_t q = queries.first / tile_rows * tile_rows; q < queries.end; q += tile_rows)
          backward_tile(a, batch, head, {q, std::min(q + tile_rows, num_queries)}, keys, finite, s);
      }
    }
    write_rows(a.dk, batch, kv_head, first, count, s.dkeys.data(), a.fresh_dkv);
    write_rows(a.dv, batch, kv_head, first, count, s.dvalues.data(), a.fresh_dkv);
    a.num_threads.note_progress();
  }
}

}  // namespace

void attend_backward(const AttendBackwardArguments& arguments) {
  const AttendBackwardArguments& a = arguments;
  for (const TensorView* gradient : {&a.dq, &a.dk, &a.dv}) {
    if (gradient->dtype != f32)
      throw Error(ErrorKind::argument, fmt::format("attend_backward: dq, dk or dv is {}, want f32", name(gradient->dtype)));
  }
  if (a.heads.group < 1) throw Error(ErrorKind::argument, fmt::format("attend_backward: heads.group is {}, want 1 or more", a.heads.group));
  static thread_local Work scratch;
  Work& work = scratch;  // the helpers of parallel_for see the caller's
  work.transposed.clear();
  for (const BandSlice& slice : a.slices) work.transposed.push_back(transpose(slice));
  work.by_key.build(work.transposed, a.k.extent(1), a.q.extent(1));
  const std::int64_t kv_heads = a.k.extent(2);
  parallel_for(a.q.extent(0) * kv_heads, a.num_threads,
               [&](std::int64_t item) { backward_item(a, work, item / kv_heads, item % kv_heads); });
}

}  // namespace cpu
SEQCCL_END
