// band.hpp - which keys a tile of scores may show: band slices, indexed by query row.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "seqccl/mask.hpp"

SEQCCL_BEGIN
namespace cpu {

/// Half-open.
struct Interval {
  std::int64_t first = 0, end = 0;
  [[nodiscard]] bool empty() const noexcept { return first >= end; }
};

/// Slices sorted by (batch, q_first), clipped to the operands; finds those of a few query rows by binary search.
class BandIndex {
 public:
  /// Keeps its memory between calls.
  void build(std::span<const BandSlice> slices, std::int64_t num_queries, std::int64_t num_keys);
  /// Appends the slices of this batch row that have a row in `queries`.
  void find(std::int64_t batch, Interval queries, std::vector<BandSlice>& result) const;

 private:
  void find_in_row(std::int64_t batch, Interval queries, std::vector<BandSlice>& result) const;
  std::vector<BandSlice> slices_;
  std::vector<std::int64_t> end_;  // largest q_first + q_count of this batch row up to here: does not fall
};

/// Keys of `slice` that query row i sees, within `keys`.
[[nodiscard]] inline Interval visible(const BandSlice& slice, std::int64_t i, Interval keys) noexcept {
  if (i < slice.q_first || i >= slice.q_first + slice.q_count) return {};
  return {std::max({slice.k_first, i + slice.low, keys.first}), std::min({slice.k_first + slice.k_count, i + slice.high + 1, keys.end})};
}

/// Keys of `slice` that at least one of `queries` sees: from the lowest to the highest.
[[nodiscard]] Interval visible_hull(const BandSlice& slice, Interval queries);

/// What the slices show of the tile `queries` x `keys`.
struct TileMask {
  std::vector<BandSlice> touching;
  Interval hull;       // of the visible keys; empty: nothing to compute
  bool whole = false;  // every score of queries x hull is visible

  void build(std::span<const BandSlice> candidates, Interval queries, Interval keys);
  /// Scores (row i, keys of `columns`) that are not visible become -inf. `spare` has room for one row.
  void hide(std::int64_t i, Interval columns, float* scores, float* spare) const;
  /// Calls visit(interval) for the visible keys of row i within `columns`.
  template <class Visit>
  void for_each_visible(std::int64_t i, Interval columns, Visit&& visit) const {
    for (const BandSlice& slice : touching) {
      const Interval keys = visible(slice, i, columns);
      if (!keys.empty()) visit(keys);
    }
  }
};

}  // namespace cpu
SEQCCL_END
