// band_test.cpp - band slices against sets of pairs.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>
#include <limits>
#include <map>
#include <set>
#include <utility>

#include "random_problem.hpp"
#include "seqccl/mask.hpp"

namespace seqccl {
namespace {

using Pairs = std::set<std::pair<std::int64_t, std::int64_t>>;

Pairs pairs_of(const BandSlice& slice) {
  Pairs pairs;
  for (std::int64_t q = slice.q_first; q < slice.q_first + slice.q_count; ++q)
    for (std::int64_t k = slice.k_first; k < slice.k_first + slice.k_count; ++k)
      if (k - q >= slice.low && k - q <= slice.high) pairs.emplace(q, k);
  return pairs;
}

// All rectangles up to 5 x 5 with all bounds that can matter: nothing is left to chance.
template <class Visit>
void for_all_small_slices(Visit&& visit) {
  std::vector<std::int64_t> lows{-unbounded, std::numeric_limits<std::int64_t>::min()},
      highs{unbounded, std::numeric_limits<std::int64_t>::max()};
  for (std::int64_t bound = -6; bound <= 9; ++bound) {
    lows.push_back(bound);
    highs.push_back(bound);
  }
  for (std::int64_t q_count = 0; q_count <= 5; ++q_count)
    for (std::int64_t k_count = 0; k_count <= 5; ++k_count)
      for (const std::int64_t low : lows)
        for (const std::int64_t high : highs) visit(BandSlice{3, q_count, 5, k_count, low, high, 2});
}

TEST(Tighten, KeepsThePairsAndFitsThemExactly) {
  for_all_small_slices([](const BandSlice& slice) {
    const Pairs want = pairs_of(slice);
    const BandSlice tight = tighten(slice);
    ASSERT_EQ(pairs_of(tight), want);
    ASSERT_EQ(tight.batch, 2);
    ASSERT_EQ(tighten(tight), tight);
    if (want.empty()) {
      BandSlice empty;
      empty.batch = 2;
      ASSERT_EQ(tight, empty);
      return;
    }
    // The rectangle is the bounding box and the bounds are those of the outermost pairs.
    std::int64_t q_last = want.rbegin()->first, k_first = unbounded, k_last = -unbounded, low = unbounded, high = -unbounded;
    for (const auto& [q, k] : want) {
      k_first = std::min(k_first, k);
      k_last = std::max(k_last, k);
      low = std::min(low, k - q);
      high = std::max(high, k - q);
    }
    const std::int64_t q_first = want.begin()->first;
    ASSERT_EQ(tight, (BandSlice{q_first, q_last - q_first + 1, k_first, k_last - k_first + 1, low, high, 2}));
  });
}

TEST(Tighten, EqualPairsGiveEqualSlices) {
  std::map<Pairs, BandSlice> forms;
  for_all_small_slices([&forms](const BandSlice& slice) {
    const BandSlice tight = tighten(slice);
    ASSERT_EQ(forms.try_emplace(pairs_of(slice), tight).first->second, tight);
  });
  EXPECT_GT(forms.size(), 100u);
}

TEST(NumPairs, CountsThem) {
  for_all_small_slices([](const BandSlice& slice) { ASSERT_EQ(num_pairs(slice), static_cast<double>(pairs_of(slice).size())); });
}

TEST(NumPairs, OfRandomSlices) {
  test::Generator generator(1);
  for (int i = 0; i < 3000; ++i) {
    const BandSlice slice = test::random_slice(generator, 30);
    ASSERT_EQ(num_pairs(slice), static_cast<double>(pairs_of(slice).size()));
  }
}

TEST(NumPairs, FarBeyondMemory) {
  const std::int64_t n = std::int64_t{1} << 44;
  const double size = static_cast<double>(n);
  EXPECT_EQ(num_pairs({0, n, 0, n}), size * size);
  EXPECT_DOUBLE_EQ(num_pairs({0, n, 0, n, -unbounded, 0}), size * (size + 1) / 2);
  EXPECT_DOUBLE_EQ(num_pairs({0, n, 0, n, -127, 0}), 128 * size - 127 * 128 / 2);  // a window: no cancellation
  EXPECT_DOUBLE_EQ(num_pairs({0, n, 0, n, -unbounded, -(n - 10)}), 55);
}

TEST(Intersect, IsTheSetIntersection) {
  test::Generator generator(2);
  int num_full = 0;
  for (int i = 0; i < 3000; ++i) {
    const BandSlice a = test::random_slice(generator, 12), b = test::random_slice(generator, 12);
    Pairs want;
    const Pairs of_a = pairs_of(a), of_b = pairs_of(b);
    std::set_intersection(of_a.begin(), of_a.end(), of_b.begin(), of_b.end(), std::inserter(want, want.end()));
    ASSERT_EQ(pairs_of(intersect(a, b)), want);
    ASSERT_EQ(intersect(a, b), intersect(b, a));
    num_full += want.empty() ? 0 : 1;
  }
  EXPECT_GT(num_full, 100);
}

TEST(Intersect, BatchRows) {
  BandSlice all{0, 4, 0, 4}, first = all, second = all;
  first.batch = 0;
  second.batch = 1;
  EXPECT_EQ(intersect(all, all).batch, -1);
  EXPECT_EQ(intersect(all, second).batch, 1);
  EXPECT_EQ(intersect(second, all).batch, 1);
  EXPECT_EQ(num_pairs(intersect(second, second)), 16);
  EXPECT_EQ(num_pairs(intersect(first, second)), 0);
}

}  // namespace
}  // namespace seqccl
