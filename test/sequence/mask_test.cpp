// mask_test.cpp - masks bound to a sequence, against the predicate that defines them.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/mask.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <tuple>

#include "random_problem.hpp"
#include "refusal.hpp"

namespace seqccl {
namespace {

constexpr std::int64_t far = std::int64_t{1} << 50;

// How many slices hold each pair must be 1 where the predicate holds and 0 elsewhere.
void expect_same(const std::vector<BandSlice>& slices, const test::Sees& sees, std::int64_t num_tokens, std::int64_t batch) {
  for (std::int64_t b = 0; b < batch; ++b)
    for (std::int64_t q = 0; q < num_tokens; ++q)
      for (std::int64_t k = 0; k < num_tokens; ++k) {
        const auto count = std::count_if(slices.begin(), slices.end(), [=](const BandSlice& slice) { return test::holds(slice, b, q, k); });
        ASSERT_EQ(count, sees(b, q, k) ? 1 : 0) << "batch " << b << " query " << q << " key " << k;
      }
}

TEST(Mask, EveryIntersectionOfKindsIsExact) {
  test::Generator generator(3);
  for (int round = 0; round < 3; ++round)
    for (unsigned kinds = 0; kinds < 1u << test::num_mask_kinds; ++kinds) {
      const std::int64_t num_tokens = test::pick(generator, 0, 20), batch = test::pick(generator, 1, 3);
      const test::MaskProblem problem = test::random_mask(generator, kinds, num_tokens, batch);
      const std::vector<BandSlice> slices = problem.mask.bind(num_tokens, batch);
      SCOPED_TRACE(problem.mask.describe_fully());
      expect_same(slices, problem.sees, num_tokens, batch);
      for (const BandSlice& slice : slices) {
        ASSERT_EQ(tighten(slice), slice);
        ASSERT_GT(slice.q_count, 0);
      }
      ASSERT_TRUE(std::is_sorted(slices.begin(), slices.end(), [](const BandSlice& a, const BandSlice& b) {
        return std::tie(a.batch, a.q_first, a.k_first) < std::tie(b.batch, b.q_first, b.k_first);
      }));
      if (testing::Test::HasFatalFailure()) return;
    }
}

TEST(Mask, SameKindTwiceIsExact) {
  test::Generator generator(4);
  for (int round = 0; round < 20; ++round)
    for (int kind = 0; kind < test::num_mask_kinds; ++kind) {
      const test::MaskProblem a = test::random_term(generator, kind, 15, 2), b = test::random_term(generator, kind, 15, 2);
      SCOPED_TRACE(a.mask.describe_fully() + " & " + b.mask.describe_fully());
      expect_same((a.mask & b.mask).bind(15, 2), [&](auto row, auto q, auto k) { return a.sees(row, q, k) && b.sees(row, q, k); }, 15, 2);
      ASSERT_EQ(a.mask & b.mask, b.mask & a.mask);
      ASSERT_EQ(a.mask & a.mask, a.mask);
      if (testing::Test::HasFatalFailure()) return;
    }
}

TEST(Mask, SimpleMasksAreOneOrTwoSlices) {
  EXPECT_EQ(Mask::full().bind(far, 1), (std::vector<BandSlice>{{0, far, 0, far, 1 - far, far - 1}}));
  EXPECT_EQ(Mask::causal().bind(far, 1), (std::vector<BandSlice>{{0, far, 0, far, 1 - far, 0}}));
  EXPECT_EQ(Mask::window(128, 2).bind(far, 1), (std::vector<BandSlice>{{0, far, 0, far, -128, 2}}));
  EXPECT_EQ(Mask::prefix(10).bind(far, 1),
            (std::vector<BandSlice>{{0, far, 0, 10, 1 - far, 9}, {10, far - 10, 10, far - 10, 11 - far, 0}}));
  EXPECT_EQ(Mask::window(std::numeric_limits<std::int64_t>::max(), 0).bind(8, 1), Mask::causal().bind(8, 1));
}

TEST(Mask, EqualRowsOfDocumentsAreOneRow) {
  const std::vector<BandSlice> slices = Mask::documents_per_row({{3, 5}, {3, 5}}).bind(8, 2);
  ASSERT_EQ(slices.size(), 2u);
  EXPECT_EQ(slices[0].batch, -1);
  EXPECT_EQ(slices, Mask::documents({3, 5}).bind(8, 2));
  EXPECT_EQ(Mask::documents_per_row({{3, 5}, {5, 3}}).bind(8, 2).size(), 4u);
}

TEST(Mask, Texts) {
  EXPECT_EQ(Mask().describe(), "full");
  EXPECT_EQ((Mask::full() & Mask::causal()).describe(), "causal");
  EXPECT_EQ((Mask::window(128, 0) & Mask::causal()).describe(), "causal+window:128,0");
  EXPECT_EQ((Mask::window(128, -1) & Mask::window(-1, 3) & Mask::window(200, 5)).describe(), "window:128,3");
  EXPECT_EQ((Mask::prefix(9) & Mask::prefix(4)).describe(), "prefix:4");
  EXPECT_EQ((Mask::documents({100, 200}) & Mask::causal()).describe(), "causal+documents:100,200");
  EXPECT_EQ(Mask::documents_per_row({{1, 2}, {3}}).describe(), "documents_per_row:1,2|3");
  EXPECT_EQ(Mask::slices({{4, 2, 0, 2, -unbounded, unbounded, 1}, {0, 4, 0, 4}}).describe(), "slices:q0+4,k0+4,-3..3|q4+2,k0+2,-5..-3,b1");
  EXPECT_EQ(Mask::window(-1, -1), Mask::full());
  EXPECT_EQ(Mask::prefix(0), Mask::causal());
}

TEST(Mask, LongTextsAreShortAndStillDiffer) {
  std::vector<std::int64_t> lengths(500, 7);
  const Mask a = Mask::documents(lengths);
  ++lengths[400];
  const Mask b = Mask::documents(lengths);
  EXPECT_LT(a.describe().size(), 80u);
  EXPECT_NE(a.describe(), b.describe());
  EXPECT_EQ(a.describe(), Mask::documents(std::vector<std::int64_t>(500, 7)).describe());
  EXPECT_GT(a.describe_fully().size(), 999u);
}

TEST(Mask, SlicesDoNotDependOnTheirOrder) {
  const BandSlice a{0, 4, 0, 4}, b{4, 4, 0, 8, -unbounded, 0}, nothing{3, 0, 3, 3};
  EXPECT_EQ(Mask::slices({a, b}), Mask::slices({b, nothing, a}));
}

TEST(Mask, RefusesWrongArguments) {
  EXPECT_REFUSED("left is -2", Mask::window(-2, 0));
  EXPECT_REFUSED("right is -5", Mask::window(0, -5));
  EXPECT_REFUSED("length is -1", Mask::prefix(-1));
  EXPECT_REFUSED("lengths[1] is -4", Mask::documents({3, -4}));
  EXPECT_REFUSED("lengths[0] is -1", Mask::documents_per_row({{3}, {-1}}));
  EXPECT_REFUSED("lengths has 0 rows", Mask::documents_per_row({}));
  EXPECT_REFUSED("slices[1].k_first is -1", Mask::slices({{0, 1, 0, 1}, {0, 1, -1, 1}}));
  EXPECT_REFUSED("slices[0].q_count is -1", Mask::slices({{0, -1, 0, 1}}));
  EXPECT_REFUSED("slices[0].batch is -2", Mask::slices({{0, 1, 0, 1, 0, 0, -2}}));
  EXPECT_REFUSED("slices[0].q_first is", Mask::slices({{unbounded + 1, 1, 0, 1}}));
  EXPECT_REFUSED("share the pair (query 3, key 3)", Mask::slices({{0, 4, 0, 4}, {3, 2, 3, 2}}));
  EXPECT_REFUSED("share the pair", Mask::slices({{0, 4, 0, 4}, {3, 2, 3, 2, -unbounded, unbounded, 1}}));
  EXPECT_REFUSED("lengths sum to 7, want num_tokens = 8", Mask::documents({3, 4}).bind(8, 1));
  EXPECT_REFUSED("lengths sum to 9, want num_tokens = 8", Mask::documents({5, 4}).bind(8, 1));
  EXPECT_REFUSED("of batch row 1 sum to 9", Mask::documents_per_row({{8}, {5, 4}}).bind(8, 2));
  EXPECT_REFUSED("has 2 rows of lengths, want batch = 3", Mask::documents_per_row({{8}, {4, 4}}).bind(8, 3));
  EXPECT_REFUSED("has 1 rows of lengths, want batch = 3", Mask::documents_per_row({{8}}).bind(8, 3));
  EXPECT_REFUSED("has batch 2, want below batch = 2", Mask::slices({{0, 1, 0, 1, 0, 0, 2}}).bind(8, 2));
  EXPECT_REFUSED("num_tokens is -1", Mask().bind(-1, 1));
  EXPECT_REFUSED("batch is -1", Mask().bind(8, -1));
  // Lengths whose sum overflows are refused, not wrapped round to the right number.
  EXPECT_REFUSED("lengths sum to",
                 Mask::documents({std::numeric_limits<std::int64_t>::max(), std::numeric_limits<std::int64_t>::max(), 10}).bind(8, 1));
}

TEST(Mask, ManyDocumentsIntersectInAboutLinearTime) {
  constexpr std::int64_t num_documents = 50'000;
  const std::int64_t n = 6 * num_documents;
  const Mask mask =
      Mask::documents(std::vector<std::int64_t>(num_documents, 6)) & Mask::documents(std::vector<std::int64_t>(2 * num_documents, 3));
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ((mask & Mask::causal()).bind(n, 1).size(), 2u * num_documents);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));  // all pairs would be 5e9 intersections
}

}  // namespace
}  // namespace seqccl
