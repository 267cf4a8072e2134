// bound_mask_test.cpp - visible pairs between two blocks against the mask's predicate.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <tuple>

#include "random_problem.hpp"
#include "seqccl/mask.hpp"

namespace seqccl {
namespace {

struct Token {
  std::int64_t row, position;
};

std::vector<Token> tokens_of(const std::vector<Piece>& pieces) {
  std::vector<Token> tokens;
  for (const Piece& piece : pieces)
    for (std::int64_t i = 0; i < piece.tokens.count; ++i) tokens.push_back({piece.row + i, piece.tokens[i]});
  return tokens;
}

bool covers(const std::vector<Rows>& runs, std::int64_t row) {
  return std::any_of(runs.begin(), runs.end(), [row](const Rows& run) { return row >= run.first && row < run.end(); });
}

void expect_sorted_and_merged(const std::vector<Rows>& runs) {
  for (std::size_t i = 0; i < runs.size(); ++i) {
    ASSERT_GT(runs[i].count, 0);
    ASSERT_TRUE(i == 0 || runs[i].first > runs[i - 1].end());
  }
}

void check_between(const BoundMask& bound, const test::Sees& sees, std::int64_t batch, const std::vector<Piece>& queries,
                   const std::vector<Piece>& keys) {
  const std::vector<BandSlice> slices = bound.between(queries, keys);
  const std::vector<Rows> key_runs = bound.visible_keys(queries, keys), query_runs = bound.seeing_queries(queries, keys);
  const std::vector<Token> q_tokens = tokens_of(queries), k_tokens = tokens_of(keys);
  for (std::int64_t b = 0; b < batch; ++b)
    for (const Token& q : q_tokens)
      for (const Token& k : k_tokens) {
        const auto count =
            std::count_if(slices.begin(), slices.end(), [&, b](const BandSlice& slice) { return test::holds(slice, b, q.row, k.row); });
        ASSERT_EQ(count, sees(b, q.position, k.position) ? 1 : 0) << "batch " << b << " query " << q.position << " key " << k.position;
      }
  // Nothing lies outside the blocks: as many pairs as there are, no more.
  double pairs = 0, want = 0;
  for (const BandSlice& slice : slices) {
    pairs += num_pairs(slice) * (slice.batch < 0 ? static_cast<double>(batch) : 1);
    ASSERT_EQ(tighten(slice), slice);
    ASSERT_GT(slice.q_count, 0);
  }
  const auto seen = [&](std::int64_t q, std::int64_t k) {
    bool any = false;
    for (std::int64_t b = 0; b < batch; ++b) {
      want += sees(b, q, k) ? 1 : 0;
      any = any || sees(b, q, k);
    }
    return any;
  };
  std::vector<bool> key_is_seen(k_tokens.size()), query_sees(q_tokens.size());
  for (std::size_t i = 0; i < q_tokens.size(); ++i)
    for (std::size_t j = 0; j < k_tokens.size(); ++j)
      if (seen(q_tokens[i].position, k_tokens[j].position)) key_is_seen[j] = query_sees[i] = true;
  ASSERT_EQ(pairs, want);
  for (std::size_t i = 0; i < q_tokens.size(); ++i) ASSERT_EQ(covers(query_runs, q_tokens[i].row), query_sees[i]);
  for (std::size_t j = 0; j < k_tokens.size(); ++j) ASSERT_EQ(covers(key_runs, k_tokens[j].row), key_is_seen[j]);
  expect_sorted_and_merged(key_runs);
  expect_sorted_and_merged(query_runs);
  ASSERT_TRUE(std::is_sorted(slices.begin(), slices.end(), [](const BandSlice& a, const BandSlice& b) {
    return std::tie(a.batch, a.q_first, a.k_first) < std::tie(b.batch, b.q_first, b.k_first);
  }));
}

TEST(BoundMask, BetweenAllBlocksIsThePredicate) {
  test::Generator generator(5);
  unsigned kinds = 0;
  for (const int num_ranks : {1, 2, 3, 4, 5, 7, 8})
    for (int partition_kind = 0; partition_kind < test::num_partition_kinds; ++partition_kind)
      for (int round = 0; round < 8; ++round) {
        kinds = (kinds + 37) % (1u << test::num_mask_kinds);  // 37 is odd: visits all sets of kinds
        const std::int64_t num_tokens = test::pick(generator, 0, 40), batch = test::pick(generator, 1, 2);
        const Partition partition = test::random_partition(generator, partition_kind, num_tokens, num_ranks);
        const test::MaskProblem problem = test::random_mask(generator, kinds, num_tokens, batch);
        const BoundMask bound(problem.mask, num_tokens, batch);
        SCOPED_TRACE(partition.describe() + ", " + problem.mask.describe_fully());
        double pairs = 0;
        for (std::int64_t b = 0; b < batch; ++b)
          for (std::int64_t q = 0; q < num_tokens; ++q)
            for (std::int64_t k = 0; k < num_tokens; ++k) pairs += problem.sees(b, q, k) ? 1 : 0;
        ASSERT_EQ(bound.num_pairs(), pairs);
        for (Rank a = 0; a < num_ranks; ++a)
          for (Rank b = 0; b < num_ranks; ++b) {
            check_between(bound, problem.sees, batch, partition.pieces(a), partition.pieces(b));
            if (testing::Test::HasFatalFailure()) return;
          }
      }
}

TEST(BoundMask, PartsOfBlocksAtOffsetsOfTwoPartitions) {
  test::Generator generator(6);
  for (int round = 0; round < 600; ++round) {
    const std::int64_t num_tokens = test::pick(generator, 1, 40);
    const int num_ranks = static_cast<int>(test::pick(generator, 1, 4));
    const test::MaskProblem problem = test::random_mask(generator, static_cast<unsigned>(test::pick(generator, 0, 127)), num_tokens, 2);
    const BoundMask bound(problem.mask, num_tokens, 2);
    const auto part = [&] {
      const Partition partition = test::random_partition(
          generator, static_cast<int>(test::pick(generator, 0, test::num_partition_kinds - 1)), num_tokens, num_ranks);
      const Rank rank = static_cast<Rank>(test::pick(generator, 0, num_ranks - 1));
      const std::int64_t first = test::pick(generator, 0, partition.tokens_on(rank));
      return partition.pieces(rank, {first, test::pick(generator, 0, partition.tokens_on(rank) - first)}, test::pick(generator, 0, 1000));
    };
    const std::vector<Piece> queries = part(), keys = part();
    SCOPED_TRACE(problem.mask.describe_fully());
    check_between(bound, problem.sees, 2, queries, keys);
    if (testing::Test::HasFatalFailure()) return;
  }
}

TEST(BoundMask, AppendsAndLeavesWhatWasThere) {
  const BoundMask bound(Mask::causal(), 8, 1);
  const Partition partition = Partition::zigzag(8, 2);
  const BandSlice sentinel{99, 1, 99, 1};
  std::vector<BandSlice> slices{sentinel};
  bound.between(partition.pieces(0), partition.pieces(1), slices);
  EXPECT_EQ(slices[0], sentinel);
  EXPECT_EQ(std::vector(slices.begin() + 1, slices.end()), bound.between(partition.pieces(0), partition.pieces(1)));
}

TEST(BoundMask, ZigzagCausalNeedsHalfOfEachForeignBlock) {
  const Partition partition = Partition::zigzag(64, 4);  // chunks of 8
  const BoundMask bound(Mask::causal(), 64, 1);
  // A later rank's queries need the first key chunk; an earlier rank's second query chunk needs both key chunks.
  EXPECT_EQ(bound.between(partition.pieces(3), partition.pieces(1)), (std::vector<BandSlice>{{0, 16, 0, 8, -15, 7}}));
  EXPECT_EQ(bound.visible_keys(partition.pieces(2), partition.pieces(1)), (std::vector<Rows>{{0, 8}}));
  EXPECT_EQ(bound.seeing_queries(partition.pieces(2), partition.pieces(1)), (std::vector<Rows>{{0, 16}}));
  EXPECT_EQ(bound.visible_keys(partition.pieces(1), partition.pieces(2)), (std::vector<Rows>{{0, 16}}));
  EXPECT_EQ(bound.seeing_queries(partition.pieces(1), partition.pieces(2)), (std::vector<Rows>{{8, 8}}));
}

TEST(BoundMask, StripedCausalIsATriangleOfRows) {
  const std::int64_t n = std::int64_t{1} << 48, rows = n / 4;
  const Partition partition = Partition::striped(n, 4);
  const BoundMask bound(Mask::causal(), n, 1);
  EXPECT_EQ(bound.between(partition.pieces(2), partition.pieces(1)), (std::vector<BandSlice>{{0, rows, 0, rows, 1 - rows, 0}}));
  EXPECT_EQ(bound.between(partition.pieces(1), partition.pieces(2)), (std::vector<BandSlice>{{1, rows - 1, 0, rows - 1, 1 - rows, -1}}));
}

TEST(BoundMask, AllRanksTogetherSeeEveryPairOfAHugeSequence) {
  const std::int64_t n = (std::int64_t{1} << 44) + 12345;
  const auto documents = Mask::documents({n / 3, 5, n - n / 3 - 5});
  for (const Mask& mask : {Mask::full(), Mask::causal(), Mask::window(1 << 20, 3), Mask::prefix(777) & documents})
    for (const Partition& partition : {Partition::contiguous(n, 7), Partition::zigzag(n, 7), Partition::striped(n, 7)}) {
      const BoundMask bound(mask, n, 3);
      double pairs = 0;
      for (Rank a = 0; a < 7; ++a)
        for (Rank b = 0; b < 7; ++b)
          for (const BandSlice& slice : bound.between(partition.pieces(a), partition.pieces(b))) pairs += 3 * num_pairs(slice);
      EXPECT_NEAR(pairs / bound.num_pairs(), 1, 1e-13) << mask.describe() << " " << partition.describe();
    }
}

TEST(BoundMask, FindsALongSliceBehindManyShortOnes) {
  std::vector<BandSlice> slices{{0, 1000, 0, 1}};  // all queries see key 0, and query q sees key q
  for (std::int64_t q = 1; q < 1000; ++q) slices.push_back({q, 1, q, 1});
  const BoundMask bound(Mask::slices(slices), 1000, 1);
  const Piece keys{0, {0, 1000, 1}};
  for (std::int64_t q = 1; q < 1000; ++q) {
    const Piece query{0, {q, 1, 1}};
    ASSERT_EQ(bound.visible_keys(std::span(&query, 1), std::span(&keys, 1)).size(), q == 1 ? 1u : 2u) << q;
  }
}

TEST(BoundMask, EmptyThings) {
  const BoundMask nothing, empty(Mask::causal(), 0, 1), bound(Mask::causal(), 8, 1);
  const Piece piece{0, {0, 8, 1}};
  EXPECT_TRUE(nothing.between(std::span(&piece, 1), std::span(&piece, 1)).empty());
  EXPECT_EQ(nothing.num_pairs(), 0);
  EXPECT_EQ(empty.num_pairs(), 0);
  EXPECT_TRUE(bound.between({}, std::span(&piece, 1)).empty());
  EXPECT_TRUE(bound.visible_keys(std::span(&piece, 1), {}).empty());
}

}  // namespace
}  // namespace seqccl
