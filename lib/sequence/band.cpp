// band.cpp - arithmetic of one band slice: its smallest form, its size, its intersection with another.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "seqccl/mask.hpp"

SEQCCL_BEGIN

// A row i has a visible key exactly if k_first <= i + high and i + low <= k_last, and likewise for columns. Cutting the rows
// and then the columns is enough: cut columns hold no pair, so they leave no row empty. What remains is the bounding box of
// the pairs, and the bounds, clamped to the diagonals of the box, are those of its outermost pairs: one form for each set.
BandSlice tighten(const BandSlice& slice) {
  BandSlice empty;
  empty.batch = slice.batch;
  if (slice.q_count <= 0 || slice.k_count <= 0) return empty;

  std::int64_t low = std::clamp(slice.low, -unbounded, unbounded), high = std::clamp(slice.high, -unbounded, unbounded);
  std::int64_t q_first = slice.q_first, q_last = q_first + std::min(slice.q_count, unbounded) - 1;
  std::int64_t k_first = slice.k_first, k_last = k_first + std::min(slice.k_count, unbounded) - 1;
  q_first = std::max(q_first, k_first - high);
  q_last = std::min(q_last, k_last - low);
  if (low > high || q_first > q_last) return empty;
  k_first = std::max(k_first, q_first + low);
  k_last = std::min(k_last, q_last + high);
  low = std::max(low, k_first - q_last);
  high = std::min(high, k_last - q_first);
  return {q_first, q_last - q_first + 1, k_first, k_last - k_first + 1, low, high, slice.batch};
}

// Visible keys of row i: min(k_last, i + high) - max(k_first, i + low) + 1. Between the rows where one of the two bounds
// changes sides this is linear in i, so that each of the three runs is an arithmetic series. All terms are positive: the sum
// is exact up to 2^53 and right to a few units in the last place beyond.
double num_pairs(const BandSlice& slice) {
  const BandSlice tight = tighten(slice);
  if (tight.q_count == 0) return 0;
  const std::int64_t q_end = tight.q_first + tight.q_count, k_last = tight.k_first + tight.k_count - 1;
  const auto keys = [&](std::int64_t row) {
    return static_cast<double>(std::min(k_last, row + tight.high) - std::max(tight.k_first, row + tight.low) + 1);
  };
  const std::int64_t turn_high = k_last - tight.high + 1, turn_low = tight.k_first - tight.low + 1;
  std::int64_t begin = tight.q_first;
  double pairs = 0;
  for (const std::int64_t end : {std::min(turn_high, turn_low), std::max(turn_high, turn_low), q_end}) {
    const std::int64_t stop = std::min(end, q_end);
    if (begin >= stop) continue;
    pairs += static_cast<double>(stop - begin) * (keys(begin) + keys(stop - 1)) / 2;
    begin = stop;
  }
  return pairs;
}

BandSlice intersect(const BandSlice& slice, const BandSlice& other) {
  BandSlice both;
  both.batch = std::max(slice.batch, other.batch);
  if (slice.batch >= 0 && other.batch >= 0 && slice.batch != other.batch) return both;
  const auto end = [](std::int64_t first, std::int64_t count) { return first + std::min(count, unbounded); };
  both.q_first = std::max(slice.q_first, other.q_first);
  both.q_count = std::min(end(slice.q_first, slice.q_count), end(other.q_first, other.q_count)) - both.q_first;
  both.k_first = std::max(slice.k_first, other.k_first);
  both.k_count = std::min(end(slice.k_first, slice.k_count), end(other.k_first, other.k_count)) - both.k_first;
  both.low = std::max(slice.low, other.low);
  both.high = std::min(slice.high, other.high);
  return tighten(both);
}

SEQCCL_END
