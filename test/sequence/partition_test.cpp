// partition_test.cpp - who holds which token, there and back.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/partition.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "random_problem.hpp"
#include "refusal.hpp"

namespace seqccl {
namespace {

using List = std::vector<Segment>;

List list(const Partition& partition, Rank rank) {
  const auto segments = partition.segments(rank);
  return {segments.begin(), segments.end()};
}

std::vector<Rank> owners(const Partition& partition) {
  std::vector<Rank> result;
  for (std::int64_t position = 0; position < partition.num_tokens(); ++position) result.push_back(partition.place_of(position).rank);
  return result;
}

TEST(Partition, PicturesOfTheHeader) {
  EXPECT_EQ(owners(Partition::contiguous(12, 3)), (std::vector<Rank>{0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2}));
  EXPECT_EQ(owners(Partition::striped(12, 3)), (std::vector<Rank>{0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2}));
  EXPECT_EQ(owners(Partition::zigzag(12, 3)), (std::vector<Rank>{0, 0, 1, 1, 2, 2, 2, 2, 1, 1, 0, 0}));
}

TEST(Partition, ChunksOfIndivisibleLengthsAreFloors) {
  const Partition zigzag = Partition::zigzag(10, 2);  // boundaries 0 2 5 7 10
  EXPECT_EQ(list(zigzag, 0), (List{{0, 2, 1}, {7, 3, 1}}));
  EXPECT_EQ(list(zigzag, 1), (List{{2, 5, 1}}));  // its two chunks touch: one segment
  EXPECT_EQ(list(Partition::contiguous(10, 3), 2), (List{{6, 4, 1}}));
  EXPECT_EQ(list(Partition::striped(10, 4), 1), (List{{1, 3, 4}}));
  EXPECT_EQ(list(Partition::striped(5, 4), 1), (List{{1, 1, 1}}));
  EXPECT_EQ(Partition::contiguous(2, 3).tokens_on(0), 0);
  EXPECT_TRUE(Partition::contiguous(2, 3).segments(0).empty());
}

TEST(Partition, EveryTokenHasOnePlace) {
  test::Generator generator(8);
  for (const int num_ranks : {1, 2, 3, 4, 5, 7, 8})
    for (int kind = 0; kind < test::num_partition_kinds; ++kind)
      for (std::int64_t num_tokens = 0; num_tokens <= 40; ++num_tokens) {
        const Partition partition = test::random_partition(generator, kind, num_tokens, num_ranks);
        SCOPED_TRACE(partition.describe());
        ASSERT_EQ(partition.num_ranks(), num_ranks);
        std::vector<int> seen(static_cast<std::size_t>(num_tokens));
        std::int64_t total = 0;
        for (Rank rank = 0; rank < num_ranks; ++rank) {
          const std::vector<std::int64_t> ids = partition.position_ids(rank);
          ASSERT_EQ(static_cast<std::int64_t>(ids.size()), partition.tokens_on(rank));
          total += partition.tokens_on(rank);
          for (std::int64_t local = 0; local < partition.tokens_on(rank); ++local) {
            const std::int64_t position = partition.global_position(rank, local);
            ASSERT_EQ(position, ids[local]);
            ++seen.at(position);
            const Partition::Place place = partition.place_of(position);
            ASSERT_EQ(place.rank, rank);
            ASSERT_EQ(place.local, local);
          }
          for (const Segment& segment : partition.segments(rank)) {
            ASSERT_GT(segment.count, 0);
            ASSERT_TRUE(segment.count > 1 || segment.step == 1);
          }
        }
        ASSERT_EQ(total, num_tokens);
        ASSERT_TRUE(std::all_of(seen.begin(), seen.end(), [](int count) { return count == 1; }));
      }
}

TEST(Partition, PiecesAreThePositionIdsOfTheRows) {
  test::Generator generator(9);
  for (int round = 0; round < 500; ++round) {
    const int num_ranks = static_cast<int>(test::pick(generator, 1, 5));
    const Partition partition =
        test::random_partition(generator, round % test::num_partition_kinds, test::pick(generator, 0, 40), num_ranks);
    const Rank rank = static_cast<Rank>(test::pick(generator, 0, num_ranks - 1));
    const std::int64_t first = test::pick(generator, 0, partition.tokens_on(rank));
    const Rows rows{first, test::pick(generator, 0, partition.tokens_on(rank) - first)};
    const std::int64_t offset = test::pick(generator, 0, 100);
    std::int64_t row = offset;
    for (const Piece& piece : partition.pieces(rank, rows, offset)) {
      ASSERT_EQ(piece.row, row);
      for (std::int64_t i = 0; i < piece.tokens.count; ++i, ++row)
        ASSERT_EQ(piece.tokens[i], partition.global_position(rank, rows.first + row - offset));
    }
    ASSERT_EQ(row, offset + rows.count);
  }
}

TEST(Partition, PiecesOfOneTokenHaveStepOne) {
  EXPECT_EQ(Partition::striped(12, 3).pieces(1, {2, 1}, 5), (std::vector<Piece>{{5, {7, 1, 1}}}));
  EXPECT_EQ(Partition::striped(12, 3).pieces(1, {2, 2}, 5), (std::vector<Piece>{{5, {7, 2, 3}}}));
}

TEST(Partition, PositionsBeyondMemory) {
  const std::int64_t n = (std::int64_t{1} << 50) + 7;
  for (const Partition& partition : {Partition::contiguous(n, 1000), Partition::zigzag(n, 1000), Partition::striped(n, 1000)}) {
    std::int64_t total = 0, least = n, most = 0;
    for (Rank rank = 0; rank < 1000; ++rank) {
      total += partition.tokens_on(rank);
      least = std::min(least, partition.tokens_on(rank));
      most = std::max(most, partition.tokens_on(rank));
    }
    EXPECT_EQ(total, n);
    EXPECT_LE(most - least, 2);
    for (const std::int64_t position : {std::int64_t{0}, std::int64_t{1}, n / 3, n / 2, n - 2, n - 1}) {
      const Partition::Place place = partition.place_of(position);
      EXPECT_EQ(partition.global_position(place.rank, place.local), position) << partition.describe();
    }
  }
  EXPECT_NO_THROW((void)Partition::from_segments(n, {{{0, n / 2, 1}}, {{n / 2, n - n / 2, 1}}}));
  EXPECT_NO_THROW((void)Partition::from_segments(n, {{{1, n / 2, 2}}, {{0, n / 2 + 1, 2}}}));
  EXPECT_REFUSED("twice", Partition::from_segments(n, {{{0, n / 2 + 1, 1}}, {{n / 2, n - n / 2 - 1, 1}}}));
  EXPECT_REFUSED("mix steps", Partition::from_segments(n, {{{0, 4, 2}, {1, 4, 2}}, {{8, n - 8, 1}}}));
}

TEST(Partition, EqualPartitionsHaveEqualTexts) {
  EXPECT_EQ(Partition::zigzag(4096, 4).describe(), "zigzag over 4 ranks, 4096 tokens");
  EXPECT_EQ(Partition::striped(12, 1), Partition::contiguous(12, 1));
  EXPECT_EQ(Partition::striped(12, 1).describe(), "contiguous over 1 ranks, 12 tokens");
  const std::int64_t halves[] = {6, 6}, others[] = {5, 7};
  EXPECT_EQ(Partition::uneven(halves).describe(), Partition::contiguous(12, 2).describe());
  EXPECT_EQ(Partition::uneven(others).describe(), "uneven over 2 ranks, 12 tokens: 0+5 | 5+7");
  EXPECT_EQ(Partition::from_segments(6, {{{0, 2, 2}}, {{1, 2, 2}, {4, 2, 1}}}).describe(),
            "explicit over 2 ranks, 6 tokens: 0+2x2 | 1+2x2 4+2");
  const Partition pieced = Partition::from_segments(12, {{{0, 1, 5}, {1, 2, 1}, {3, 0, 9}}, {{3, 4, 1}, {7, 2, 1}}, {{9, 3, 1}}});
  EXPECT_EQ(pieced.segments(1).size(), 1u);
  const std::int64_t lengths[] = {3, 6, 3};
  EXPECT_EQ(pieced, Partition::uneven(lengths));
  EXPECT_EQ(pieced.describe(), Partition::uneven(lengths).describe());
  EXPECT_EQ(Partition().describe(), "contiguous over 0 ranks, 0 tokens");
}

TEST(Partition, ContiguousSegments) {
  EXPECT_TRUE(Partition::contiguous(12, 3).has_contiguous_segments());
  EXPECT_TRUE(Partition::zigzag(12, 3).has_contiguous_segments());
  EXPECT_FALSE(Partition::striped(12, 3).has_contiguous_segments());
  EXPECT_TRUE(Partition::striped(3, 3).has_contiguous_segments());
}

TEST(Partition, RefusesWrongArguments) {
  EXPECT_REFUSED("contiguous: num_tokens is -1", Partition::contiguous(-1, 2));
  EXPECT_REFUSED("zigzag: num_ranks is 0", Partition::zigzag(8, 0));
  EXPECT_REFUSED("striped: num_ranks is -3", Partition::striped(8, -3));
  EXPECT_REFUSED("tokens_per_rank has 0 entries", Partition::uneven({}));
  const std::int64_t negative[] = {3, -1};
  EXPECT_REFUSED("tokens_per_rank[1] is -1", Partition::uneven(negative));
  const std::int64_t huge[] = {std::int64_t{1} << 62, std::int64_t{1} << 62, std::int64_t{1} << 62};
  EXPECT_REFUSED("tokens_per_rank[0] is 46", Partition::uneven(huge));
  const auto from = [](std::int64_t n, std::vector<List> segments) { return Partition::from_segments(n, std::move(segments)); };
  EXPECT_REFUSED("segments has 0 lists", from(4, {}));
  EXPECT_REFUSED("from_segments: num_tokens is -4", from(-4, {{}}));
  EXPECT_REFUSED("hold 3 tokens, want num_tokens = 4", from(4, {{{0, 3, 1}}}));
  EXPECT_REFUSED("hold more than num_tokens = 4", from(4, {{{0, 3, 1}}, {{0, 3, 1}}}));
  EXPECT_REFUSED("token 2 twice", from(4, {{{0, 3, 1}}, {{2, 1, 1}}}));
  EXPECT_REFUSED("token 2 twice", from(4, {{{0, 2, 2}, {2, 1, 1}}, {{3, 1, 1}}}));
  EXPECT_REFUSED("token 3 twice", from(9, {{{0, 4, 1}}, {{3, 2, 2}, {4, 1, 1}, {6, 2, 1}}}));
  EXPECT_REFUSED("segments[1] has {first 3, count 2, step 1}", from(4, {{{0, 2, 1}}, {{3, 2, 1}}}));
  EXPECT_REFUSED("segments[0] has {first -1, count 2, step 1}", from(4, {{{-1, 2, 1}}}));
  EXPECT_REFUSED("step -1", from(4, {{{3, 4, -1}}}));
  EXPECT_REFUSED("segments[0] has", from(4, {{{1, std::int64_t{1} << 62, std::int64_t{1} << 62}}}));
  const Partition partition = Partition::contiguous(8, 2);
  EXPECT_REFUSED("place_of: position is 8", partition.place_of(8));
  EXPECT_REFUSED("place_of: position is -1", partition.place_of(-1));
  EXPECT_REFUSED("global_position: local is 4", partition.global_position(1, 4));
  EXPECT_REFUSED("global_position: rank is 2", partition.global_position(2, 0));
  EXPECT_REFUSED("position_ids: rank is -1", partition.position_ids(-1));
  EXPECT_REFUSED("pieces: rows is {first 2, count 3}", partition.pieces(0, {2, 3}));
  EXPECT_REFUSED("pieces: rank is 7", partition.pieces(7, {0, 0}));
}

}  // namespace
}  // namespace seqccl
