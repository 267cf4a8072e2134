// symbolic_test.cpp - arithmetic of the symbolic run against brute force.
// SPDX-License-Identifier: Apache-2.0
#include "../../lib/schedule/symbolic.hpp"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <vector>

#include "../../lib/schedule/coverage_pairs.hpp"

namespace seqccl::checker {
namespace {

std::set<std::int64_t> tokens_of(const Segment& segment) {
  std::set<std::int64_t> tokens;
  for (std::int64_t i = 0; i < segment.count; ++i) tokens.insert(segment[i]);
  return tokens;
}

class Random {
 public:
  std::int64_t operator()(std::int64_t low, std::int64_t high) { return std::uniform_int_distribution<std::int64_t>(low, high)(engine_); }
  Segment segment() { return {(*this)(0, 30), (*this)(0, 9), (*this)(1, 7)}; }

 private:
  std::mt19937 engine_{5};
};

TEST(Segments, IntersectionIsThatOfTheTokens) {
  Random random;
  for (int i = 0; i < 20000; ++i) {
    const Segment a = random.segment(), b = random.segment(), both = intersect(a, b);
    std::set<std::int64_t> expected;
    for (const std::int64_t token : tokens_of(a))
      if (tokens_of(b).contains(token)) expected.insert(token);
    ASSERT_EQ(tokens_of(both), expected) << a.first << " " << a.count << " " << a.step << " and " << b.first << " " << b.count << " "
                                         << b.step;
    ASSERT_EQ(both.count, static_cast<std::int64_t>(expected.size()));
  }
}

TEST(Segments, IntersectionOfLongOnes) {
  const std::int64_t n = std::int64_t{1} << 40;
  EXPECT_TRUE(equal(intersect({3, n / 64, 64}, {67, n / 64 - 1, 64}), {67, n / 64 - 1, 64}));
  EXPECT_EQ(intersect({3, n / 64, 64}, {4, n / 64, 64}).count, 0);
  EXPECT_TRUE(equal(intersect({0, n / 3, 3}, {1, n / 5, 5}), {6, (n - 6) / 15 + 1, 15}));
}

TEST(CountPairs, IsThatOfALoop) {
  Random random;
  for (int i = 0; i < 4000; ++i) {
    BandSlice slice{random(0, 10), random(0, 12), random(0, 10), random(0, 12), random(-14, 8), random(-8, 14), -1};
    if (random(0, 3) == 0) slice.low = -unbounded;
    if (random(0, 3) == 0) slice.high = unbounded;
    const Segment queries = random.segment();
    std::int64_t expected = 0, transposed_pairs = 0;
    for (std::int64_t q = slice.q_first; q < slice.q_first + slice.q_count; ++q)
      for (std::int64_t k = slice.k_first; k < slice.k_first + slice.k_count; ++k) {
        if (k - q < slice.low || k - q > slice.high) continue;
        expected += tokens_of(queries).contains(q) ? 1 : 0;
        transposed_pairs += tokens_of(queries).contains(k) ? 1 : 0;
      }
    ASSERT_EQ(static_cast<std::int64_t>(count_pairs(slice, queries)), expected) << i;
    ASSERT_EQ(static_cast<std::int64_t>(count_pairs(transposed(slice), queries)), transposed_pairs) << i;
  }
}

TEST(CountPairs, IsExactBeyondDoubles) {
  const std::int64_t n = std::int64_t{1} << 40;
  const Count expected = Count{n} * (n + 1) / 2;
  EXPECT_TRUE(count_pairs({0, n, 0, n, -unbounded, 0, -1}) == expected);
}

TEST(SamePairs, SeesThroughOtherCuts) {
  const BandSlice whole{0, 8, 0, 8, -unbounded, 0, -1}, top{0, 4, 0, 4, -unbounded, 0, -1}, bottom{4, 4, 0, 8, -unbounded, 0, -1};
  EXPECT_TRUE(same_pairs({whole}, {bottom, top}));
  EXPECT_FALSE(same_pairs({whole}, {bottom}));
  EXPECT_FALSE(same_pairs({whole, top}, {bottom, top, top}));  // twice is not once
  EXPECT_FALSE(same_pairs({whole}, {{0, 8, 0, 8, -unbounded, 0, 0}}));
}

TEST(Contents, RemembersTheLastName) {
  Random random;
  constexpr std::int64_t tokens = 9, heads = 4;
  Contents contents;
  std::vector<std::int64_t> expected(tokens * heads, -1);  // the token that was written there, times 100, plus head
  for (int i = 0; i < 3000; ++i) {
    const std::int64_t row = random(0, tokens - 1), head = random(0, heads - 1);
    const Block block{0, static_cast<std::int32_t>(head), static_cast<std::int32_t>(random(1, heads - head)), row, random(1, tokens - row)};
    if (i % 2 == 0) {
      Fragment fragment{{0, block.num_tokens}, 0, block.num_heads, What::q, {random(0, 1000), block.num_tokens, random(1, 3)},
                        random(0, 50)};
      contents.write(block, std::span(&fragment, 1));
      for (std::int64_t t = 0; t < block.num_tokens; ++t)
        for (std::int64_t h = 0; h < block.num_heads; ++h)
          expected[static_cast<std::size_t>((row + t) * heads + head + h)] = fragment.tokens[t] * 100 + fragment.head + h;
      continue;
    }
    std::int64_t num_cells = 0, num_written = 0;
    for (const Fragment& fragment : contents.read(block)) {
      for (std::int64_t t = 0; t < fragment.rows.count; ++t)
        for (std::int64_t h = 0; h < fragment.num_heads; ++h, ++num_cells)
          ASSERT_EQ(fragment.tokens[t] * 100 + fragment.head + h,
                    expected[static_cast<std::size_t>((row + fragment.rows.first + t) * heads + head + fragment.head_first + h)]);
    }
    for (std::int64_t t = 0; t < block.num_tokens; ++t)
      for (std::int64_t h = 0; h < block.num_heads; ++h)
        num_written += expected[static_cast<std::size_t>((row + t) * heads + head + h)] >= 0 ? 1 : 0;
    ASSERT_EQ(num_cells, num_written);
    ASSERT_EQ(fills(contents.read(block), block.num_tokens, block.num_heads), num_written == block.num_tokens * block.num_heads);
  }
}

TEST(Sums, EqualHistoriesAreEqual) {
  Sums sums;
  const SumId a = sums.of({}), b = sums.of({});
  EXPECT_NE(a, b);
  EXPECT_EQ(sums.add(a, b), sums.add(a, b));
  EXPECT_EQ(sums.add(0, a), a);
  std::vector<Contribution> list;
  EXPECT_TRUE(sums.list(sums.add(sums.add(a, b), a), list));
  EXPECT_EQ(list.size(), 3u);
  SumId doubled = a;
  for (int i = 0; i < 60; ++i) doubled = sums.add(doubled, doubled);
  EXPECT_FALSE(sums.list(doubled, list));
}

}  // namespace
}  // namespace seqccl::checker
