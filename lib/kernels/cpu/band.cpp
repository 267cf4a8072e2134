// band.cpp - finds the band slices of a block of queries, and what they show of a tile.
// SPDX-License-Identifier: Apache-2.0
#include "band.hpp"

#include <algorithm>
#include <limits>
#include <tuple>

SEQCCL_BEGIN
namespace cpu {

void BandIndex::build(std::span<const BandSlice> slices, std::int64_t num_queries, std::int64_t num_keys) {
  slices_.clear();
  for (BandSlice slice : slices) {
    const std::int64_t q_end = std::min(slice.q_first + slice.q_count, num_queries);
    const std::int64_t k_end = std::min(slice.k_first + slice.k_count, num_keys);
    slice.q_first = std::max<std::int64_t>(slice.q_first, 0);
    slice.k_first = std::max<std::int64_t>(slice.k_first, 0);
    slice.q_count = q_end - slice.q_first;
    slice.k_count = k_end - slice.k_first;
    if (slice.q_count > 0 && slice.k_count > 0 && slice.low <= slice.high) slices_.push_back(slice);
  }
  const auto before = [](const BandSlice& a, const BandSlice& b) {
    return std::tie(a.batch, a.q_first, a.k_first) < std::tie(b.batch, b.q_first, b.k_first);
  };
  if (!std::is_sorted(slices_.begin(), slices_.end(), before)) std::sort(slices_.begin(), slices_.end(), before);
  end_.resize(slices_.size());
  for (std::size_t i = 0; i < slices_.size(); ++i) {
    end_[i] = slices_[i].q_first + slices_[i].q_count;
    if (i > 0 && slices_[i - 1].batch == slices_[i].batch) end_[i] = std::max(end_[i], end_[i - 1]);
  }
}

void BandIndex::find_in_row(std::int64_t batch, Interval queries, std::vector<BandSlice>& result) const {
  const auto of_row = [](const BandSlice& slice, std::int64_t row) { return slice.batch < row; };
  const auto begin = std::lower_bound(slices_.begin(), slices_.end(), batch, of_row);
  const auto end = std::lower_bound(begin, slices_.end(), batch + 1, of_row);
  const auto last = std::lower_bound(begin, end, queries.end, [](const BandSlice& slice, std::int64_t q) { return slice.q_first < q; });
  const auto offset = [&](auto at) { return end_.begin() + (at - slices_.begin()); };
  const auto first = std::upper_bound(offset(begin), offset(last), queries.first) - end_.begin() + slices_.begin();
  for (auto slice = first; slice < last; ++slice) {
    if (slice->q_first + slice->q_count > queries.first) result.push_back(*slice);
  }
}

void BandIndex::find(std::int64_t batch, Interval queries, std::vector<BandSlice>& result) const {
  find_in_row(-1, queries, result);
  find_in_row(batch, queries, result);
}

Interval visible_hull(const BandSlice& slice, Interval queries) {
  const std::int64_t first = std::max(queries.first, slice.q_first);
  const std::int64_t last = std::min(queries.end, slice.q_first + slice.q_count) - 1;
  if (first > last) return {};
  return {std::max(slice.k_first, first + slice.low), std::min(slice.k_first + slice.k_count, last + slice.high + 1)};
}

void TileMask::build(std::span<const BandSlice> candidates, Interval queries, Interval keys) {
  touching.clear();
  hull = {};
  for (const BandSlice& slice : candidates) {
    Interval seen = visible_hull(slice, queries);
    seen = {std::max(seen.first, keys.first), std::min(seen.end, keys.end)};
    if (seen.empty()) continue;
    hull = touching.empty() ? seen : Interval{std::min(hull.first, seen.first), std::max(hull.end, seen.end)};
    touching.push_back(slice);
  }
  whole = false;
  if (touching.size() != 1) return;
  const BandSlice& slice = touching.front();
  whole = slice.q_first <= queries.first && slice.q_first + slice.q_count >= queries.end && hull.first - (queries.end - 1) >= slice.low &&
          (hull.end - 1) - queries.first <= slice.high;
}

void TileMask::hide(std::int64_t i, Interval columns, float* scores, float* spare) const {
  constexpr float hidden = -std::numeric_limits<float>::infinity();
  const std::int64_t width = columns.end - columns.first;
  if (touching.size() == 1) {
    const Interval keys = visible(touching.front(), i, columns);
    const std::int64_t first = keys.empty() ? width : keys.first - columns.first;
    std::fill(scores, scores + first, hidden);
    if (!keys.empty()) std::fill(scores + (keys.end - columns.first), scores + width, hidden);
    return;
  }
  std::fill(spare, spare + width, hidden);
  for_each_visible(i, columns, [&](Interval keys) {
    std::copy(scores + (keys.first - columns.first), scores + (keys.end - columns.first), spare + (keys.first - columns.first));
  });
  std::copy(spare, spare + width, scores);
}

}  // namespace cpu
SEQCCL_END
