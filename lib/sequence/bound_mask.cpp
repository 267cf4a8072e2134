// bound_mask.cpp - the visible pairs between two blocks of tokens, in rows of the blocks.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <utility>

#include "seqccl/mask.hpp"
#include "slice_search.hpp"

SEQCCL_BEGIN

namespace {

[[nodiscard]] std::int64_t floor_division(std::int64_t value, std::int64_t step) noexcept {
  if (step == 1) return value;
  return value >= 0 ? value / step : -((-value + step - 1) / step);
}
[[nodiscard]] std::int64_t ceil_division(std::int64_t value, std::int64_t step) noexcept { return -floor_division(-value, step); }

// Row i of the query piece is token q + i s, row j of the key piece token k + j s. So low <= (k - q) + s (j - i) <= high
// bounds j - i by two divisions, and the ranges of a slice cut i and j by two more each.
[[nodiscard]] BandSlice map(const BandSlice& slice, const Piece& queries, const Piece& keys, std::int64_t step) noexcept {
  const Segment &q = queries.tokens, &k = keys.tokens;
  const std::int64_t i_first = std::max<std::int64_t>(0, ceil_division(slice.q_first - q.first, step));
  const std::int64_t i_end = std::min(q.count, floor_division(slice.q_first + slice.q_count - 1 - q.first, step) + 1);
  const std::int64_t j_first = std::max<std::int64_t>(0, ceil_division(slice.k_first - k.first, step));
  const std::int64_t j_end = std::min(k.count, floor_division(slice.k_first + slice.k_count - 1 - k.first, step) + 1);
  const std::int64_t shift = keys.row - queries.row, distance = k.first - q.first;
  return tighten({queries.row + i_first, i_end - i_first, keys.row + j_first, j_end - j_first,
                  ceil_division(slice.low - distance, step) + shift, floor_division(slice.high - distance, step) + shift, slice.batch});
}

template <class Visit>
void visit_pair(std::span<const BandSlice> slices, std::span<const std::int64_t> reach, const Piece& queries, const Piece& keys,
                Visit&& visit) {
  const Segment &q = queries.tokens, &k = keys.tokens;
  if (q.count == 0 || k.count == 0) return;
  if (q.count == 1 || k.count == 1 || q.step == k.step) {  // one token has any step
    const std::int64_t step = q.count == 1 ? (k.count == 1 ? 1 : k.step) : q.step;
    sequence::for_slices_near(slices, reach, -1, q.first, q.last() + 1, [&](const BandSlice& slice) {
      const BandSlice rows = map(slice, queries, keys, step);
      if (rows.q_count > 0) visit(rows);
    });
  } else if (q.count <= k.count) {
    for (std::int64_t i = 0; i < q.count; ++i) visit_pair(slices, reach, {queries.row + i, {q[i], 1, 1}}, keys, visit);
  } else {
    for (std::int64_t j = 0; j < k.count; ++j) visit_pair(slices, reach, queries, {keys.row + j, {k[j], 1, 1}}, visit);
  }
}

[[nodiscard]] std::vector<Rows> merged(std::vector<Rows> runs) {
  std::sort(runs.begin(), runs.end(), [](const Rows& a, const Rows& b) { return a.first < b.first; });
  std::vector<Rows> result;
  for (const Rows& run : runs) {
    if (!result.empty() && run.first <= result.back().end())
      result.back().count = std::max(result.back().end(), run.end()) - result.back().first;
    else
      result.push_back(run);
  }
  return result;
}

}  // namespace

BoundMask::BoundMask(const Mask& mask, std::int64_t num_tokens, std::int64_t batch)
    : slices_(mask.bind(num_tokens, batch)), query_reach_(sequence::query_reach(slices_)), batch_(batch) {}

void BoundMask::between(std::span<const Piece> queries, std::span<const Piece> keys, std::vector<BandSlice>& result) const {
  const auto before = static_cast<std::ptrdiff_t>(result.size());
  for (const Piece& q : queries)
    for (const Piece& k : keys) visit_pair(slices_, query_reach_, q, k, [&result](const BandSlice& rows) { result.push_back(rows); });
  // One piece against one piece, the commonest case, comes out in order.
  if (!std::is_sorted(result.begin() + before, result.end(), sequence::before))
    std::sort(result.begin() + before, result.end(), sequence::before);
}

std::vector<BandSlice> BoundMask::between(std::span<const Piece> queries, std::span<const Piece> keys) const {
  std::vector<BandSlice> result;
  between(queries, keys, result);
  return result;
}

// Every row and column of a tight slice holds a pair.
std::vector<Rows> BoundMask::visible_keys(std::span<const Piece> queries, std::span<const Piece> keys) const {
  std::vector<Rows> runs;
  for (const Piece& q : queries)
    for (const Piece& k : keys)
      visit_pair(slices_, query_reach_, q, k, [&runs](const BandSlice& rows) { runs.push_back({rows.k_first, rows.k_count}); });
  return merged(std::move(runs));
}

std::vector<Rows> BoundMask::seeing_queries(std::span<const Piece> queries, std::span<const Piece> keys) const {
  std::vector<Rows> runs;
  for (const Piece& q : queries)
    for (const Piece& k : keys)
      visit_pair(slices_, query_reach_, q, k, [&runs](const BandSlice& rows) { runs.push_back({rows.q_first, rows.q_count}); });
  return merged(std::move(runs));
}

double BoundMask::num_pairs() const {
  double pairs = 0;
  for (const BandSlice& slice : slices_) pairs += seqccl::num_pairs(slice) * (slice.batch < 0 ? static_cast<double>(batch_) : 1.0);
  return pairs;
}

SEQCCL_END
