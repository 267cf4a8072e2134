// decode_plan_test.cpp - decode schedules: proven, and as many bytes, messages and rounds as the closed forms say.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <set>

#include "seqccl/check.hpp"
#include "seqccl/collectives.hpp"
#include "seqccl/cost.hpp"
#include "seqccl/simulate.hpp"
#include "support/ranks.hpp"

namespace seqccl::test {
namespace {

using collectives::CacheRows, collectives::CacheStep, collectives::CacheWrite;

DecodeSpec small_decode(DecodeMerge merge, DecodeResult result = DecodeResult::everywhere) {
  DecodeSpec spec;
  spec.q_heads = 8;
  spec.kv_heads = 2;
  spec.head_dim = 16;
  spec.merge = merge;
  spec.result = result;
  return spec;
}

/// A sequence whose old tokens lie on the ranks in runs (every third rank may have none), and whose last Tq tokens are new.
struct Sequence {
  DecodeSpec spec;
  int num_ranks;
  std::vector<std::int64_t> first, length;  // old tokens of each rank
  std::vector<Rank> owners;                 // (Tq) of the new ones
  std::int64_t num_tokens = 0;

  Sequence(const DecodeSpec& decode, int ranks, bool with_empty, bool appends = true) : spec(decode), num_ranks(ranks) {
    for (Rank rank = 0; rank < ranks; ++rank) {
      first.push_back(num_tokens);
      length.push_back(with_empty && rank % 3 == 1 ? 0 : 5 + rank % 4);
      num_tokens += length.back();
    }
    if (appends)
      for (std::int64_t t = 0; t < spec.q_tokens; ++t) owners.push_back(decode_owner(num_tokens + t, ranks));
    num_tokens += spec.q_tokens;
  }
  [[nodiscard]] std::vector<Piece> keys_of(Rank rank) const {
    const auto r = static_cast<std::size_t>(rank);
    std::vector<Piece> pieces{{0, {first[r], length[r], 1}}};
    std::int64_t row = length[r];
    for (std::size_t t = 0; t < owners.size(); ++t)
      if (owners[t] == rank) pieces.push_back({row++, {num_tokens - spec.q_tokens + static_cast<std::int64_t>(t), 1, 1}});
    return pieces;
  }
  [[nodiscard]] std::int64_t rows_of(Rank rank) const {
    return length[static_cast<std::size_t>(rank)] + std::count(owners.begin(), owners.end(), rank);
  }
  [[nodiscard]] std::vector<Schedule> record() const {
    std::vector<Schedule> schedules;
    std::vector<Rank> all_owners;
    for (std::int64_t b = 0; b < spec.batch; ++b) all_owners.insert(all_owners.end(), owners.begin(), owners.end());
    for (Rank rank = 0; rank < num_ranks; ++rank) {
      CacheStep step;
      const std::vector<std::int64_t> lengths(static_cast<std::size_t>(spec.batch), length[static_cast<std::size_t>(rank)]);
      collectives::plan_cache_step(spec, num_ranks, rank, {.capacity = rows_of(rank)}, lengths, all_owners, step);
      schedules.push_back(collectives::decode(spec, num_ranks, rank, rows_of(rank), step.slices));
    }
    return schedules;
  }
  [[nodiscard]] CheckReport checked(std::span<const Schedule> schedules) const {
    const Partition partition = Partition::contiguous(num_tokens, num_ranks);
    // A step that appends nothing: every query sees every key of a shard.
    const Mask mask =
        owners.empty() ? Mask::slices({{num_tokens - spec.q_tokens, spec.q_tokens, 0, num_tokens - spec.q_tokens}}) : Mask::causal();
    const auto names = [this](Rank rank, Tensor tensor, int) -> SlotNames {
      if (tensor == Tensor::k || tensor == Tensor::v) return {keys_of(rank), 0};
      const std::vector<Piece> queries{{0, {num_tokens - spec.q_tokens, spec.q_tokens, 1}}};
      return {queries, tensor == Tensor::q ? 0 : spec.heads_of(rank, num_ranks).first};
    };
    return check(schedules, {.partition = &partition,
                             .mask = &mask,
                             .batch = spec.batch,
                             .q_heads = spec.q_heads,
                             .kv_heads = spec.num_kv_heads(),
                             .names = names});
  }
};

constexpr DecodeMerge all_merges[] = {DecodeMerge::butterfly, DecodeMerge::tree, DecodeMerge::all_to_all};
constexpr DecodeResult all_results[] = {DecodeResult::everywhere, DecodeResult::by_heads};
const std::vector<int> decode_ranks = up_to_if_sanitized(9, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 64});

TEST(DecodePlan, EveryMergeCountsEveryPartialOnce) {
  const std::pair<int, int> heads[] = {{8, 2}, {6, 3}, {1, 1}, {28, 4}};
  for (const int num_ranks : decode_ranks)
    for (const DecodeMerge merge : all_merges)
      for (const DecodeResult result : all_results)
        for (const auto& [q_heads, kv_heads] : heads)
          for (const std::int64_t q_tokens : {1, 4}) {
            DecodeSpec spec = small_decode(merge, result);
            spec.q_heads = q_heads;
            spec.kv_heads = kv_heads;
            spec.q_tokens = q_tokens;
            spec.batch = num_ranks % 2 + 1;
            spec.dtype = num_ranks % 3 == 0 ? bf16 : f32;
            for (const bool with_empty : {false, true}) {
              const Sequence sequence(spec, num_ranks, with_empty, /*appends=*/num_ranks % 4 != 3);
              const CheckReport report = sequence.checked(sequence.record());
              ASSERT_TRUE(report.ok()) << num_ranks << " ranks, " << spec.describe() << report.text();
            }
          }
}

TEST(DecodePlan, APartialThatIsMergedTwiceIsFound) {
  for (const DecodeMerge form : all_merges) {
    const Sequence sequence(small_decode(form), 5, false);
    std::vector<Schedule> schedules = sequence.record();
    for (Op& op : schedules[0].ops)
      if (auto* merge = std::get_if<Merge>(&op)) {
        merge->part_out = merge->out;
        merge->part_lse = merge->lse;
        break;
      }
    EXPECT_FALSE(sequence.checked(schedules).ok()) << name(form);
  }
}

TEST(DecodePlan, AKeyThatIsNotAttendedIsFound) {
  const Sequence sequence(small_decode(DecodeMerge::butterfly), 4, false);
  std::vector<Schedule> schedules = sequence.record();
  std::vector<BandSlice> slices(schedules[2].slices);
  --slices[0].k_count;
  collectives::replace_slices(schedules[2], slices);
  EXPECT_FALSE(sequence.checked(schedules).ok());
}

// Two new tokens in each other's rows: the causal order among them is wrong.
TEST(DecodePlan, NewTokensInTheWrongOrderAreFound) {
  DecodeSpec spec = small_decode(DecodeMerge::butterfly);
  spec.q_tokens = 4;
  Sequence sequence(spec, 2, false);
  const std::vector<Schedule> schedules = sequence.record();
  ASSERT_TRUE(sequence.checked(schedules).ok());
  std::swap(sequence.owners[0], sequence.owners[1]);
  EXPECT_FALSE(sequence.checked(schedules).ok());
}

// Pages in any order: rows of the slot are pages, tokens go through them.
TEST(DecodePlan, PagesInAnyOrderAreProven) {
  DecodeSpec spec = small_decode(DecodeMerge::butterfly);
  spec.q_tokens = 3;
  const std::vector<std::int32_t> table{5, 1, 2, 0, 4, 3};  // token n is at page table[n / 4], row n % 4
  const std::int64_t num_tokens = 24;
  CacheStep step;
  const std::int64_t length = num_tokens - 3;
  const std::vector<Rank> owners{0, 0, 0};
  collectives::plan_cache_step(spec, 1, 0, {.capacity = 24, .page_tokens = 4, .page_rows = 4, .num_pages = 6, .page_table = table},
                               std::span(&length, 1), owners, step);
  const std::vector<CacheWrite> writes{{0, 0, 3, 3 * 4 + 1}};
  EXPECT_EQ(step.writes, writes);
  // Pages 1, 2 follow each other, and token 21 all queries see: 5 | 1 2 | 0 | 4 | 3, and the two last tokens.
  EXPECT_EQ(step.slices.size(), 6u);
  const std::vector<Schedule> schedules{collectives::decode(spec, 1, 0, 24, step.slices)};
  const Partition partition = Partition::contiguous(num_tokens, 1);
  const Mask mask = Mask::causal();
  const auto names = [&](Rank, Tensor tensor, int) -> SlotNames {
    if (tensor != Tensor::k && tensor != Tensor::v) return {{{0, {num_tokens - 3, 3, 1}}}, 0};
    std::vector<Piece> pieces;
    for (std::int64_t page = 0; page < 6; ++page) {
      const std::int64_t place = std::find(table.begin(), table.end(), page) - table.begin();
      pieces.push_back({page * 4, {place * 4, 4, 1}});
    }
    return {pieces, 0};
  };
  const CheckReport report =
      check(schedules, {.partition = &partition, .mask = &mask, .q_heads = spec.q_heads, .kv_heads = spec.num_kv_heads(), .names = names});
  EXPECT_TRUE(report.ok()) << report.text();
}

TEST(DecodePlan, SlicesOfPagesKeepToTheirBatchRowAndLength) {
  DecodeSpec spec = small_decode(DecodeMerge::butterfly);
  spec.batch = 3;
  spec.q_tokens = 2;
  // Pages lie 10 rows apart and have 4 tokens. Row 1 is empty, row 2 ends in the middle of a page.
  const std::vector<std::int32_t> table{2, 0, -1, 7, -1, -1, 1, 3, -1};
  const std::vector<std::int64_t> lengths{7, 0, 5};
  const std::vector<Rank> owners{1, 1, 0, 1, 1, 0};
  const CacheRows rows{.capacity = 12, .page_tokens = 4, .page_rows = 10, .num_pages = 8, .page_table = table};
  CacheStep step;
  const std::vector<Rank> first_row_elsewhere{0, 1, 0, 1, 1, 0};
  collectives::plan_cache_step(spec, 2, 1, rows, lengths, first_row_elsewhere, step);
  const std::vector<BandSlice> slices{{0, 2, 20, 4, -unbounded, unbounded, 0}, {0, 2, 0, 3, -unbounded, unbounded, 0},
                                      {1, 1, 3, 1, -unbounded, 2, 0},          {1, 1, 70, 1, -unbounded, 69, 1},
                                      {0, 2, 10, 4, -unbounded, unbounded, 2}, {0, 2, 30, 2, -unbounded, unbounded, 2}};
  EXPECT_EQ(step.slices, slices);
  const std::vector<CacheWrite> writes{{0, 1, 1, 3}, {1, 1, 1, 70}, {2, 0, 1, 31}};
  EXPECT_EQ(step.writes, writes);
  // Both new tokens of row 0 need a page that is not there.
  EXPECT_THROW(collectives::plan_cache_step(spec, 2, 1, rows, lengths, owners, step), Error);
  // One slice for a batch whose rows are alike.
  const std::vector<std::int64_t> alike{4, 4, 4};
  collectives::plan_cache_step(spec, 2, 1, {.capacity = 8}, alike, {}, step);
  EXPECT_EQ(step.slices, (std::vector<BandSlice>{{0, 2, 0, 4, -unbounded, unbounded, -1}}));
}

TEST(DecodePlan, WhatDoesNotFitIsRefused) {
  DecodeSpec spec = small_decode(DecodeMerge::butterfly);
  spec.batch = 2;
  CacheStep step;
  const auto plan = [&](std::vector<std::int64_t> lengths, std::vector<Rank> owners) {
    collectives::plan_cache_step(spec, 4, 1, {.capacity = 8}, lengths, owners, step);
  };
  EXPECT_NO_THROW(plan({8, 7}, {0, 1}));
  EXPECT_THROW(plan({8, 7}, {1, 1}), Error);
  EXPECT_THROW(plan({9, 0}, {}), Error);
  EXPECT_THROW(plan({-1, 0}, {}), Error);
  EXPECT_THROW(plan({0}, {}), Error);
  EXPECT_THROW(plan({0, 0}, {0}), Error);
  EXPECT_THROW(plan({0, 0}, {0, 4}), Error);
  EXPECT_THROW(plan({0, 0}, {0, -1}), Error);
  spec.kv_heads = 3;
  EXPECT_THROW(validate(spec, 4), Error);
}

TEST(DecodeOwner, InterleavesRunsOfPositions) {
  std::vector<Rank> owners;
  for (std::int64_t position = 0; position < 8; ++position) owners.push_back(decode_owner(position, 3, 2));
  EXPECT_EQ(owners, (std::vector<Rank>{0, 0, 1, 1, 2, 2, 0, 0}));
  const std::vector<std::int64_t> positions{5, 9};
  EXPECT_EQ(decode_owners(positions, 2, 4), (std::vector<Rank>{1, 2, 1, 2}));
  EXPECT_THROW((void)decode_owner(-1, 4), Error);
}

// --- Closed forms. ------------------------------------------------------------------------------------------------------

class DecodeForm : public ::testing::TestWithParam<int> {
 protected:
  const int P = GetParam();
  const int R = std::bit_width(static_cast<unsigned>(P)) - 1, power = 1 << R;           // floor(log2 P)
  const int depth = P == 1 ? 0 : std::bit_width(static_cast<unsigned>(P - 1));          // ceil(log2 P)
  static constexpr std::uint64_t B = 2, Tq = 3, Hq = 8, Dv = 16, b = 2, rows = B * Tq;  // bf16
  static constexpr std::uint64_t m = 4 * rows * Hq * (Dv + 1), g = rows * Hq * (Dv * b + 4);
  static std::uint64_t partial(std::uint64_t heads) { return 4 * rows * heads * (Dv + 1); }
  static std::uint64_t result(std::uint64_t heads) { return rows * heads * (Dv * b + 4); }

  [[nodiscard]] std::vector<Schedule> record(DecodeMerge merge, DecodeResult where = DecodeResult::everywhere) const {
    DecodeSpec spec = small_decode(merge, where);
    spec.batch = B;
    spec.q_tokens = Tq;
    spec.dtype = bf16;
    return Sequence(spec, P, true).record();
  }
  [[nodiscard]] std::uint64_t heads_of(Rank rank) const {
    return static_cast<std::uint64_t>((rank + 1) * static_cast<int>(Hq) / P - rank * static_cast<int>(Hq) / P);
  }
  static void expect_received(const Schedule& schedule, std::uint64_t bytes, std::uint64_t messages, std::size_t exchanges) {
    const Cost cost = cost_of(schedule);
    EXPECT_EQ(cost.total_received_bytes, bytes) << schedule.name << " rank " << schedule.rank;
    EXPECT_EQ(cost.total_received_messages, messages) << schedule.name << " rank " << schedule.rank;
    EXPECT_EQ(schedule.exchanges.size(), exchanges) << schedule.name << " rank " << schedule.rank;
  }
  /// Time under a cluster in which only latency counts.
  static double rounds(std::span<const Schedule> schedules) {
    Cluster cluster;
    cluster.inside = cluster.between = {1, 1e30};
    cluster.flops_per_s = cluster.memory_bytes_per_s = 1e30;
    cluster.step_overhead_s = 0;
    return simulate(schedules, cluster).seconds;
  }
};

TEST_P(DecodeForm, Butterfly) {
  const std::vector<Schedule> schedules = record(DecodeMerge::butterfly);
  const auto logarithm = static_cast<std::uint64_t>(R);
  for (Rank rank = 0; rank < P; ++rank) {
    const Schedule& schedule = schedules[static_cast<std::size_t>(rank)];
    if (rank >= power)
      expect_received(schedule, g, 2, 2);
    else if (rank + power < P)
      expect_received(schedule, m * (logarithm + 1), 2 * (logarithm + 1), logarithm + 2);
    else
      expect_received(schedule, m * logarithm, 2 * logarithm, logarithm);
  }
  EXPECT_NEAR(rounds(schedules), P == power ? R : R + 2, 1e-9);
}

TEST_P(DecodeForm, Tree) {
  const std::vector<Schedule> schedules = record(DecodeMerge::tree);
  std::uint64_t messages = 0;
  for (Rank rank = 0; rank < P; ++rank) {
    std::uint64_t children = 0;
    for (int distance = 1; distance < P && (rank & distance) == 0; distance *= 2) children += rank + distance < P ? 1 : 0;
    const std::uint64_t below = rank == 0 ? 0 : 1;
    expect_received(schedules[static_cast<std::size_t>(rank)], m * children + g * below, 2 * (children + below), 2 * (children + below));
    messages += 2 * (children + below);
  }
  EXPECT_EQ(messages, 4u * static_cast<std::uint64_t>(P - 1));
  EXPECT_NEAR(rounds(schedules), 2 * depth, 1e-9);
}

TEST_P(DecodeForm, AllToAll) {
  for (const DecodeResult where : all_results) {
    const std::vector<Schedule> schedules = record(DecodeMerge::all_to_all, where);
    const bool everywhere = where == DecodeResult::everywhere;
    const auto others = static_cast<std::uint64_t>(P - 1);
    for (Rank rank = 0; rank < P; ++rank) {
      const std::uint64_t own = heads_of(rank);
      std::uint64_t with_heads = 0;  // other ranks that have some
      for (Rank other = 0; other < P; ++other) with_heads += other != rank && heads_of(other) != 0 ? 1 : 0;
      const std::uint64_t bytes = others * partial(own) + (everywhere ? result(Hq - own) : 0);
      const std::uint64_t messages = (own != 0 ? 2 * others : 0) + (everywhere ? 2 * with_heads : 0);
      expect_received(schedules[static_cast<std::size_t>(rank)], bytes, messages, P == 1 ? 0 : everywhere ? 2 : 1);
    }
  }
}

// By heads costs a butterfly nothing more, and its surplus ranks get their own heads only.
TEST_P(DecodeForm, ButterflyByHeads) {
  const std::vector<Schedule> schedules = record(DecodeMerge::butterfly, DecodeResult::by_heads);
  for (Rank rank = 0; rank < P; ++rank) {
    const std::uint64_t received = cost_of(schedules[static_cast<std::size_t>(rank)]).total_received_bytes;
    EXPECT_EQ(received, rank >= power ? result(heads_of(rank)) : m * static_cast<std::uint64_t>(R + (rank + power < P ? 1 : 0)));
  }
}

// Same bits on every rank, even where a multiply-add makes a merge depend on its order: the lower ranks' part is the first operand.
TEST_P(DecodeForm, ButterflyMergesTheLowerRanksFirst) {
  for (const Schedule& schedule : record(DecodeMerge::butterfly)) {
    Block received;
    for (const Step& step : schedule.steps) {
      if (step.lane != Lane::compute) {
        if (const auto from = schedule.receives(schedule.exchanges[step.index]); !from.empty()) received = from.front().block;
      } else if (const auto* merge = std::get_if<Merge>(&schedule.ops[step.index])) {
        ASSERT_NE(step.about, schedule.rank);
        const Block& first = merge->out;
        const Block& second = merge->part_out;
        EXPECT_EQ(step.about < schedule.rank ? first.slot : second.slot, received.slot) << "rank " << schedule.rank;
      }
    }
  }
}

// The partial, room for one that comes in, and what travels in another type; every slot begins at a multiple of 64 bytes.
TEST_P(DecodeForm, Workspace) {
  const std::size_t state = m, wire = g;
  static_assert(4 * rows * Hq % 64 == 0);
  for (const Schedule& schedule : record(DecodeMerge::butterfly)) {
    const bool sends_result = schedule.rank < power && schedule.rank + power < P, gets_result = schedule.rank >= power;
    EXPECT_EQ(schedule.workspace_bytes, state * (P == 1 || gets_result ? 1 : 2) + (sends_result || gets_result ? wire : 0));
  }
  for (const Schedule& schedule : record(DecodeMerge::tree)) EXPECT_EQ(schedule.workspace_bytes, P == 1 ? state : 2 * state + wire);
}

// One thread runs it: a step starts when the one before it is done.
TEST_P(DecodeForm, RunsInProgramOrder) {
  for (const DecodeMerge merge : all_merges)
    for (const Schedule& schedule : record(merge)) {
      EXPECT_TRUE(schedule.is_sequential);
      Clock done{};
      for (const Step& step : schedule.steps) {
        for (int lane = 0; lane < num_lanes; ++lane) {
          if (lane != static_cast<int>(step.lane)) {
            EXPECT_EQ(step.after[lane], done[lane]);
          }
        }
        ++done[static_cast<int>(step.lane)];
      }
    }
}

INSTANTIATE_TEST_SUITE_P(Ranks, DecodeForm, ::testing::ValuesIn(decode_ranks));

// Few bytes: few messages. Many bytes: each head merged on one rank only.
TEST(DecodeCost, ButterflyForSmallMessagesAllToAllForLargeOnes) {
  const LinkClass link{1e-6, 8e9};
  for (const DecodeResult where : all_results)
    for (const int num_ranks : {2, 3, 4, 5, 8, 16, 64}) {
      DecodeSpec spec = small_decode(DecodeMerge::automatic, where);
      spec.dtype = bf16;
      const auto seconds = [&](DecodeMerge merge) { return decode_merge_seconds(spec, num_ranks, merge, link); };
      const bool saves_messages = where == DecodeResult::everywhere ? num_ranks > 3 : num_ranks > 5;
      if (saves_messages) {
        EXPECT_LT(seconds(DecodeMerge::butterfly), seconds(DecodeMerge::all_to_all)) << num_ranks;
      }
      EXPECT_LE(seconds(DecodeMerge::butterfly), seconds(DecodeMerge::tree)) << num_ranks;
      spec.batch = 1 << 16;
      EXPECT_LT(seconds(DecodeMerge::all_to_all), seconds(DecodeMerge::butterfly)) << num_ranks;
      EXPECT_EQ(seconds(DecodeMerge::automatic), seconds(DecodeMerge::all_to_all)) << num_ranks;
    }
}

// Eight ranks, everywhere: 6 and 28 messages; 3 m and 7/8 (m + g) bytes.
TEST(DecodeCost, IsTheClosedForm) {
  DecodeSpec spec = small_decode(DecodeMerge::automatic);
  spec.batch = 3;
  const double m = 4.0 * 3 * 8 * 17, g = m, latency = 2e-6, rate = 5e9;
  EXPECT_DOUBLE_EQ(decode_merge_seconds(spec, 8, DecodeMerge::butterfly, {latency, rate}), 6 * latency + 3 * m / rate);
  EXPECT_DOUBLE_EQ(decode_merge_seconds(spec, 8, DecodeMerge::all_to_all, {latency, rate}), 28 * latency + 7 * (m + g) / 8 / rate);
  EXPECT_DOUBLE_EQ(decode_merge_seconds(spec, 8, DecodeMerge::tree, {latency, rate}), 12 * latency + 3 * (m + g) / rate);
  EXPECT_DOUBLE_EQ(decode_merge_seconds(spec, 5, DecodeMerge::butterfly, {latency, rate}), 8 * latency + (3 * m + g) / rate);
  EXPECT_EQ(decode_merge_seconds(spec, 1, DecodeMerge::butterfly, {latency, rate}), 0);
}

}  // namespace
}  // namespace seqccl::test
