// in_order_test.cpp - the adversarial executor: right schedules survive every order, a schedule without clocks does not.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "rings.hpp"
#include "support/watchdog.hpp"

namespace seqccl::test {
namespace {

/// Runs `num_runs` rings; true if every rank's output was right after every run.
bool ring_is_right(int num_ranks, std::uint64_t seed, int num_runs, bool ignore_comm_clocks) {
  std::vector<RingRank> ranks;
  std::vector<Schedule> schedules;
  std::vector<Bindings> memory;
  for (Rank rank = 0; rank < num_ranks; ++rank) {
    ranks.emplace_back(ring_gather(rank, num_ranks));
    ranks.back().prepare(0);
  }
  for (RingRank& rank : ranks) {
    Bindings bindings(rank.schedule, rank.own_arena.data());
    bindings.bind(Tensor::q, rank.q.view());
    bindings.bind(Tensor::out, rank.out.view());
    schedules.push_back(rank.schedule);
    memory.push_back(bindings);
  }
  bool right = true;
  InOrderOptions options{.seed = seed, .num_runs = num_runs, .ignore_comm_clocks = ignore_comm_clocks};
  options.between = [&](Rank rank, int run) {
    right = right && ranks[rank].right(run);
    ranks[rank].prepare(run + 1);
  };
  std::string why;
  EXPECT_TRUE(run_in_order(schedules, memory, options, why)) << why;
  for (const RingRank& rank : ranks) right = right && rank.right(num_runs - 1);
  return right;
}

TEST(InOrder, InferredClocksAreRightInEveryOrder) {
  Watchdog dog(std::chrono::seconds(120));
  for (const int num_ranks : {1, 2, 3, 4, 5, 8}) {
    for (std::uint64_t seed = 1; seed <= 60; ++seed) {
      ASSERT_TRUE(ring_is_right(num_ranks, seed, 3, false)) << num_ranks << " ranks, seed " << seed;
    }
  }
}

TEST(InOrder, IgnoringTheClocksOfExchangesGivesWrongResultsFromFourRanksOn) {
  Watchdog dog(std::chrono::seconds(120));
  for (const int num_ranks : {4, 5, 8}) {
    int num_wrong = 0;
    for (std::uint64_t seed = 1; seed <= 60; ++seed) num_wrong += !ring_is_right(num_ranks, seed, 1, true);
    EXPECT_GT(num_wrong, 5) << num_ranks << " ranks";
  }
  for (std::uint64_t seed = 1; seed <= 60; ++seed) EXPECT_TRUE(ring_is_right(3, seed, 1, true)) << "no spare block is used twice";
}

/// Two ranks on one lane that both receive before they send.
Schedule stuck(Rank rank) {
  Recorder plan("stuck", rank, 2);
  const Block from = plan.scratch(f32, {1, 1, 1, 4}), to = plan.scratch(f32, {1, 1, 1, 4});
  plan.compute(Zero{from});
  plan.exchange({}, {{1 - rank, to}});
  plan.exchange({{1 - rank, from}}, {});
  return std::move(plan).finish("stuck");
}

TEST(InOrder, SaysWhoIsStuckWhere) {
  std::vector<Schedule> schedules{stuck(0), stuck(1)};
  std::vector<std::byte> arena(1024);
  const std::vector<Bindings> memory{Bindings(schedules[0], arena.data()), Bindings(schedules[1], arena.data() + 512)};
  std::string why;
  EXPECT_FALSE(run_in_order(schedules, memory, {}, why));
  EXPECT_NE(why.find("rank 0, run 0, lane 1: step 1 (exchange, from 1) waits for 1 messages"), std::string::npos) << why;
  EXPECT_NE(why.find("rank 1, run 0, lane 1: step 1 (exchange, from 0) waits for 1 messages"), std::string::npos) << why;
}

TEST(InOrder, RefusesMessagesOfDifferentSizes) {
  std::vector<Schedule> schedules;
  for (Rank rank = 0; rank < 2; ++rank) {
    Recorder plan("sizes", rank, 2);
    const Block block = plan.scratch(f32, {1, 1, 1, 4 + rank});
    if (rank == 0)
      plan.exchange({{1, block}}, {});
    else
      plan.exchange({}, {{0, block}});
    schedules.push_back(std::move(plan).finish("sizes"));
  }
  std::vector<std::byte> arena(1024);
  const std::vector<Bindings> memory{Bindings(schedules[0], arena.data()), Bindings(schedules[1], arena.data() + 512)};
  std::string why;
  EXPECT_FALSE(run_in_order(schedules, memory, {}, why));
  EXPECT_EQ(why, "rank 0 sends 16 bytes where rank 1 expects 20");
}

}  // namespace
}  // namespace seqccl::test
