// slice_search.hpp - finds the slices of a sorted list that touch a run of queries.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <tuple>
#include <vector>

#include "seqccl/mask.hpp"

SEQCCL_BEGIN
namespace sequence {

[[nodiscard]] inline bool before(const BandSlice& a, const BandSlice& b) noexcept {
  return std::tie(a.batch, a.q_first, a.k_first, a.low) < std::tie(b.batch, b.q_first, b.k_first, b.low);
}

/// Per slice of a sorted list the largest query end of it and all earlier slices of the same batch row.
[[nodiscard]] inline std::vector<std::int64_t> query_reach(std::span<const BandSlice> slices) {
  std::vector<std::int64_t> reach(slices.size());
  for (std::size_t i = 0; i < slices.size(); ++i) {
    reach[i] = slices[i].q_first + slices[i].q_count;
    if (i > 0 && slices[i].batch == slices[i - 1].batch) reach[i] = std::max(reach[i], reach[i - 1]);
  }
  return reach;
}

/// Calls visit(slice) for the slices that may touch queries [q_first, q_end) of batch row `batch` (-1: any row).
template <class Visit>
void for_slices_near(std::span<const BandSlice> slices, std::span<const std::int64_t> reach, std::int64_t batch, std::int64_t q_first,
                     std::int64_t q_end, Visit&& visit) {
  std::size_t first = 0;
  while (first < slices.size()) {
    const std::int64_t row = slices[first].batch;
    if (batch >= 0 && row >= 0 && row < batch) {  // straight to the wanted row
      first = std::partition_point(slices.begin() + first, slices.end(), [batch](const BandSlice& s) { return s.batch < batch; }) -
              slices.begin();
      continue;
    }
    if (batch >= 0 && row > batch) return;
    const std::size_t last =
        slices.back().batch == row ? slices.size() : std::partition_point(slices.begin() + first, slices.end(), [row](const BandSlice& s) {
                                                       return s.batch <= row;
                                                     }) - slices.begin();
    std::size_t i = std::upper_bound(reach.begin() + first, reach.begin() + last, q_first) - reach.begin();
    for (; i < last && slices[i].q_first < q_end; ++i)
      if (slices[i].q_first + slices[i].q_count > q_first) visit(slices[i]);
    first = last;
  }
}

}  // namespace sequence
SEQCCL_END
