// balance_test.cpp - what a plan promises: every sequence once, the limit, nested groups, one run of rows per reader, the cost.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/balance.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "random_problem.hpp"
#include "refusal.hpp"

namespace seqccl {
namespace {

BatchCost cheap_cost() {
  BatchCost cost = BatchCost::attention(4, 2, 32, 4, false);
  cost.sequence_s = 1e-6;
  return cost;
}

BalanceProblem random_problem(test::Generator& generator, int num_ranks) {
  BalanceProblem problem;
  problem.num_ranks = num_ranks;
  std::int64_t longest = 1;
  for (std::int64_t i = test::pick(generator, 1, 30); i > 0; --i) {
    problem.lengths.push_back(
        generator() % 8 == 0 ? 0 : static_cast<std::int64_t>(std::exp(8.0 * static_cast<double>(generator() % 1000) / 1000)));
    longest = std::max(longest, problem.lengths.back());
  }
  if (num_ranks % 2 == 0 && generator() % 2 == 0) problem.topology = Topology::nodes(2, num_ranks / 2);
  if (generator() % 3 != 0) problem.max_tokens_per_rank = (longest - 1) / num_ranks + 1 + test::pick(generator, 0, longest / 2);
  problem.cost = cheap_cost();
  problem.cost.causal = generator() % 4 != 0;
  problem.cost.overlap = generator() % 3 == 0;
  problem.cost.inside_bytes_per_s = std::pow(10.0, 8 + static_cast<double>(generator() % 4));
  problem.cost.between_bytes_per_s = problem.cost.inside_bytes_per_s / 4;
  if (generator() % 2 == 0) problem.cost.micro_batch_s = 1e-5;
  return problem;
}

std::vector<std::int64_t> lengths_of(const BalanceProblem& problem, const MicroBatch& micro) {
  std::vector<std::int64_t> lengths;
  for (const std::int64_t sequence : micro.sequences) lengths.push_back(problem.lengths[sequence]);
  return lengths;
}

void expect_times(const BalanceProblem& problem, const MicroBatch& micro) {
  const BatchCost& cost = problem.cost;
  double slowest = 0;
  for (Rank rank = 0; rank < problem.num_ranks; ++rank) {
    double compute = 0, transfer = 0;
    for (std::size_t i = 0; i < micro.sequences.size(); ++i) {
      const std::vector<Rank>& group = micro.groups[i];
      if (std::find(group.begin(), group.end(), rank) == group.end()) continue;
      const bool between = std::any_of(group.begin(), group.end(), [&](Rank other) { return !problem.topology.same_node(rank, other); });
      const std::int64_t length = problem.lengths[micro.sequences[i]];
      compute += cost.compute_s(length, static_cast<int>(group.size()));
      transfer += cost.transfer_s(length, static_cast<int>(group.size()), between);
    }
    const double seconds = cost.overlap ? std::max(compute, transfer) : compute + transfer;
    ASSERT_NEAR(micro.rank_seconds.at(rank), seconds, 1e-12 + 1e-9 * seconds);
    slowest = std::max(slowest, seconds);
  }
  ASSERT_NEAR(micro.seconds, slowest + (micro.partition.num_tokens() > 0 ? cost.micro_batch_s : 0), 1e-12 + 1e-9 * slowest);
}

void expect_promises(const BalanceProblem& problem, const BatchPlan& plan) {
  std::vector<int> seen(problem.lengths.size());
  double seconds = 0;
  for (const MicroBatch& micro : plan.micro_batches) {
    ASSERT_EQ(micro.groups.size(), micro.sequences.size());
    ASSERT_EQ(micro.first_token.size(), micro.sequences.size());
    ASSERT_EQ(micro.partition.num_ranks(), problem.num_ranks);
    ASSERT_EQ(static_cast<int>(micro.rank_seconds.size()), problem.num_ranks);
    const std::vector<std::int64_t> lengths = lengths_of(problem, micro);
    const Mask documents = Mask::documents(lengths);
    ASSERT_EQ(micro.mask, problem.cost.causal ? Mask::causal() & documents : documents);
    std::int64_t first = 0;
    for (std::size_t i = 0; i < lengths.size(); ++i) {
      ++seen.at(micro.sequences[i]);
      ASSERT_EQ(micro.first_token[i], first);
      const std::vector<Rank>& group = micro.groups[i];
      ASSERT_TRUE(std::is_sorted(group.begin(), group.end()) && std::adjacent_find(group.begin(), group.end()) == group.end());
      ASSERT_EQ(group.empty(), lengths[i] == 0);
      // Its tokens are where the group says: L / g on each, one more on the first L mod g.
      std::vector<std::int64_t> held(problem.num_ranks);
      for (Rank rank = 0; rank < problem.num_ranks; ++rank)
        for (const Piece& piece : micro.partition.pieces(rank))
          held[rank] +=
              std::max<std::int64_t>(0, std::min(piece.tokens.last() + 1, first + lengths[i]) - std::max(piece.tokens.first, first));
      for (std::size_t member = 0; member < group.size(); ++member) {
        const auto g = static_cast<std::int64_t>(group.size());
        ASSERT_EQ(held.at(group[member]), lengths[i] / g + (static_cast<std::int64_t>(member) < lengths[i] % g ? 1 : 0));
        held[group[member]] = 0;
      }
      ASSERT_TRUE(std::all_of(held.begin(), held.end(), [](std::int64_t tokens) { return tokens == 0; }));
      first += lengths[i];
    }
    ASSERT_EQ(micro.partition.num_tokens(), first);
    for (Rank rank = 0; rank < problem.num_ranks && problem.max_tokens_per_rank != 0; ++rank)
      ASSERT_LE(micro.partition.tokens_on(rank), problem.max_tokens_per_rank);
    for (const std::vector<Rank>& a : micro.groups)
      for (const std::vector<Rank>& b : micro.groups) {
        std::vector<Rank> both;
        std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(both));
        ASSERT_TRUE(both.empty() || both.size() == a.size() || both.size() == b.size()) << "groups cross";
      }
    expect_times(problem, micro);
    seconds += micro.seconds;
  }
  ASSERT_TRUE(std::all_of(seen.begin(), seen.end(), [](int times) { return times == 1; }));
  ASSERT_NEAR(plan.seconds, seconds, 1e-9 * seconds);
  ASSERT_GE(plan.seconds, plan.lower_bound_s * (1 - 1e-9));
  ASSERT_GE(plan.uniform_seconds, plan.lower_bound_s * (1 - 1e-9));
}

TEST(Balance, KeepsItsPromises) {
  test::Generator generator(3);
  for (const int num_ranks : {1, 2, 3, 4, 5, 7, 8, 12})
    for (int round = 0; round < 6; ++round) {
      const BalanceProblem problem = random_problem(generator, num_ranks);
      const BatchPlan plan = balance(problem);
      SCOPED_TRACE(plan.describe());
      ASSERT_NO_FATAL_FAILURE(expect_promises(problem, plan));
    }
}

// What makes a ring receive exactly what it needs: a reader needs one run of rows of every other rank, and nothing foreign in it.
TEST(Balance, AReaderNeedsOneRunOfRowsOfEveryRank) {
  test::Generator generator(4);
  int num_nested = 0;
  for (const int num_ranks : {4, 5, 8, 12})
    for (int round = 0; round < 4; ++round) {
      BalanceProblem problem = random_problem(generator, num_ranks);
      problem.cost.inside_bytes_per_s = problem.cost.between_bytes_per_s = 1e12;  // wide groups
      for (const MicroBatch& micro : balance(problem).micro_batches) {
        std::set<std::vector<Rank>> groups(micro.groups.begin(), micro.groups.end());
        num_nested += std::count_if(groups.begin(), groups.end(), [](const auto& group) { return group.size() > 1; }) > 1 ? 1 : 0;
        const BoundMask mask(micro.mask, micro.partition.num_tokens(), 1);
        for (Rank reader = 0; reader < num_ranks; ++reader)
          for (Rank owner = 0; owner < num_ranks; ++owner)
            if (reader != owner) {
              ASSERT_LE(mask.visible_keys(micro.partition.pieces(reader), micro.partition.pieces(owner)).size(), 1u)
                  << micro.partition.describe() << ", reader " << reader << ", owner " << owner;
            }
      }
    }
  EXPECT_GE(num_nested, 5) << "the problems have no micro-batches with several groups";
}

TEST(Balance, PositionsAreThoseWithinTheSequences) {
  BalanceProblem problem{{40, 0, 7, 12, 1}, 3, {}, 0, cheap_cost()};
  for (const MicroBatch& micro : balance(problem).micro_batches) {
    const std::vector<std::int64_t> lengths = lengths_of(problem, micro);
    std::multiset<std::int64_t> want, got;
    for (const std::int64_t length : lengths)
      for (std::int64_t i = 0; i < length; ++i) want.insert(i);
    for (Rank rank = 0; rank < 3; ++rank) {
      const std::vector<std::int64_t> ids = micro.position_ids(rank), packed = micro.partition.position_ids(rank);
      ASSERT_EQ(ids.size(), packed.size());
      got.insert(ids.begin(), ids.end());
      for (std::size_t i = 0; i < ids.size(); ++i) {
        const std::int64_t first = packed[i] - ids[i];
        EXPECT_NE(std::find(micro.first_token.begin(), micro.first_token.end(), first), micro.first_token.end());
      }
    }
    EXPECT_EQ(got, want);
  }
}

TEST(Balance, EqualProblemsHaveEqualPlans) {
  test::Generator generator(5);
  for (int round = 0; round < 5; ++round) {
    const BalanceProblem problem = random_problem(generator, 8);
    const BatchPlan a = balance(problem), b = balance(problem);
    ASSERT_EQ(a.micro_batches.size(), b.micro_batches.size());
    EXPECT_EQ(a.seconds, b.seconds);
    for (std::size_t i = 0; i < a.micro_batches.size(); ++i) {
      EXPECT_EQ(a.micro_batches[i].sequences, b.micro_batches[i].sequences);
      EXPECT_EQ(a.micro_batches[i].partition, b.micro_batches[i].partition);
      EXPECT_EQ(a.micro_batches[i].mask, b.micro_batches[i].mask);
    }
  }
}

TEST(Balance, SharesOnlyWhatIsWorthIt) {
  // Eight equal sequences on eight ranks: one each, nothing is sent.
  const BatchPlan equal = balance({std::vector<std::int64_t>(8, 1000), 8, {}, 0, cheap_cost()});
  ASSERT_EQ(equal.micro_batches.size(), 1u);
  for (const auto& group : equal.micro_batches[0].groups) EXPECT_EQ(group.size(), 1u);
  EXPECT_NEAR(equal.seconds, equal.lower_bound_s, 1e-12);
  EXPECT_GT(equal.uniform_seconds, equal.seconds);

  // One long and many short: the long one is shared, by fewer than all.
  std::vector<std::int64_t> lengths(64, 100);
  lengths.push_back(4000);
  const BatchPlan mixed = balance({lengths, 8, {}, 0, cheap_cost()});
  for (const MicroBatch& micro : mixed.micro_batches)
    for (std::size_t i = 0; i < micro.groups.size(); ++i)
      if (lengths[micro.sequences[i]] == 100) {
        EXPECT_EQ(micro.groups[i].size(), 1u);
      } else {
        EXPECT_GT(micro.groups[i].size(), 4u);
      }
}

TEST(Balance, GroupsStayInsideANodeWhereLinksBetweenAreSlow) {
  BalanceProblem problem{{3000, 3000, 2900, 100, 90, 80}, 8, Topology{{1, 0, 1, 0, 1, 0, 1, 0}}, 0, cheap_cost()};
  problem.cost.between_bytes_per_s = 1e7;
  for (const MicroBatch& micro : balance(problem).micro_batches)
    for (const std::vector<Rank>& group : micro.groups)
      for (const Rank rank : group) EXPECT_TRUE(problem.topology.same_node(rank, group[0]));
  // Where the memory of one node is too small there is no choice.
  problem.max_tokens_per_rank = 500;
  bool spans = false;
  for (const MicroBatch& micro : balance(problem).micro_batches)
    for (const std::vector<Rank>& group : micro.groups)
      for (const Rank rank : group) spans = spans || !problem.topology.same_node(rank, group[0]);
  EXPECT_TRUE(spans);
}

TEST(Balance, TheLimitForcesMicroBatches) {
  BalanceProblem problem{std::vector<std::int64_t>(12, 100), 4, {}, 100, cheap_cost()};
  const BatchPlan plan = balance(problem);  // no slack at all: 12 x 100 tokens in 3 x 4 x 100
  EXPECT_EQ(plan.micro_batches.size(), 3u);
  problem.max_tokens_per_rank = 0;
  problem.cost.micro_batch_s = 1;
  EXPECT_EQ(balance(problem).micro_batches.size(), 1u);
  problem.max_tokens_per_rank = 25;  // every sequence needs all ranks
  const BatchPlan wide = balance(problem);
  EXPECT_EQ(wide.micro_batches.size(), 12u);
  EXPECT_NEAR(wide.seconds, wide.uniform_seconds, 1e-9);
  EXPECT_NEAR(wide.seconds, wide.lower_bound_s, 1e-9);
}

TEST(Balance, WhatIsOpenIsFilledFirst) {
  // Nothing is gained by micro-batches that the memory does not force, even where they are free.
  BalanceProblem problem{std::vector<std::int64_t>(10, std::int64_t{1} << 20), 64, {}, 0, BatchCost::attention(8, 8, 64, 4, true)};
  ASSERT_EQ(problem.cost.micro_batch_s, 0);
  const BatchPlan free = balance(problem);
  problem.cost.micro_batch_s = 1e-12;
  EXPECT_LE(free.seconds, balance(problem).seconds * (1 + 1e-9));
  EXPECT_LT(free.micro_batches.size(), 10u);
}

TEST(Balance, UniformIsNeverBelowTheBound) {
  BalanceProblem problem{{2}, 11, {}, 0, cheap_cost()};  // shorter than the ranks are many: two of them share it
  BatchPlan plan = balance(problem);
  EXPECT_GE(plan.uniform_seconds, plan.lower_bound_s);
  problem.lengths = {2, 1, 3, 12};
  plan = balance(problem);
  EXPECT_GE(plan.uniform_seconds, plan.lower_bound_s);
}

TEST(Balance, SequencesOfMoreThanHalfTheRoomAddUp) {
  const BalanceProblem one{{300}, 4, {}, 100, cheap_cost()}, three{{300, 300, 300}, 4, {}, 100, cheap_cost()};
  EXPECT_GE(balance(three).lower_bound_s, 3 * balance(one).lower_bound_s * (1 - 1e-12));
}

TEST(Balance, Extremes) {
  const BatchPlan none = balance({{}, 4, {}, 10, cheap_cost()});
  EXPECT_TRUE(none.micro_batches.empty());
  EXPECT_EQ(none.seconds, 0);
  EXPECT_EQ(none.describe(), "0 micro-batches, 0.000 us\n");

  const BatchPlan zeros = balance({{0, 0}, 4, {}, 10, cheap_cost()});
  ASSERT_EQ(zeros.micro_batches.size(), 1u);
  EXPECT_EQ(zeros.micro_batches[0].partition.num_tokens(), 0);
  EXPECT_EQ(zeros.micro_batches[0].sequences, (std::vector<std::int64_t>{0, 1}));
  EXPECT_EQ(zeros.seconds, 0);

  const BalanceProblem free{{5, 6, 7}, 3, {}, 7, {}};  // all costs are zero: only the limit counts
  ASSERT_NO_FATAL_FAILURE(expect_promises(free, balance(free)));
  const BalanceProblem ones{std::vector<std::int64_t>(9, 1), 4, {}, 1, cheap_cost()};
  ASSERT_NO_FATAL_FAILURE(expect_promises(ones, balance(ones)));
  EXPECT_EQ(balance(ones).micro_batches.size(), 3u);
  const BalanceProblem huge{{std::int64_t{1} << 50, 1000}, 7, {}, 0, cheap_cost()};
  ASSERT_NO_FATAL_FAILURE(expect_promises(huge, balance(huge)));
  const BalanceProblem one_rank{{100, 50, 60}, 1, {}, 110, cheap_cost()};
  EXPECT_EQ(balance(one_rank).micro_batches.size(), 2u);
  const BalanceProblem full{{400}, 4, {}, 100, cheap_cost()};
  EXPECT_EQ(balance(full).micro_batches.at(0).groups.at(0), (std::vector<Rank>{0, 1, 2, 3}));
}

TEST(Balance, RefusesWrongArguments) {
  const BatchCost cost = cheap_cost();
  EXPECT_REFUSED("lengths[2] is 401 tokens, want at most num_ranks * max_tokens_per_rank = 4 * 100 = 400",
                 balance({{1, 400, 401}, 4, {}, 100, cost}));
  EXPECT_REFUSED("lengths[1] is -5", balance({{1, -5}, 4, {}, 100, cost}));
  EXPECT_REFUSED("at most 2^56", balance({{std::int64_t{1} << 56, 1}, 4, {}, 0, cost}));
  EXPECT_REFUSED("num_ranks is 0", balance({{1}, 0, {}, 100, cost}));
  EXPECT_REFUSED("topology.node has 3 entries, want none or num_ranks = 4", balance({{1}, 4, Topology{{0, 0, 1}}, 100, cost}));
  EXPECT_REFUSED("max_tokens_per_rank is -1", balance({{1}, 4, {}, -1, cost}));
  EXPECT_REFUSED("effort is 0", balance({{1}, 4, {}, 0, cost, 0}));
  const auto with = [&](double BatchCost::*field, double value) {
    BalanceProblem problem{{1}, 4, {}, 0, cost};
    problem.cost.*field = value;
    return balance(problem);
  };
  EXPECT_REFUSED("cost.flops_per_pair is -1", with(&BatchCost::flops_per_pair, -1));
  EXPECT_REFUSED("cost.flops_per_s is 0", with(&BatchCost::flops_per_s, 0));
  EXPECT_REFUSED("cost.inside_bytes_per_s is 0", with(&BatchCost::inside_bytes_per_s, 0));
  EXPECT_REFUSED("cost.between_latency_s is nan", with(&BatchCost::between_latency_s, std::nan("")));
  EXPECT_REFUSED("cost.micro_batch_s is inf", with(&BatchCost::micro_batch_s, INFINITY));
  EXPECT_REFUSED("want finite times", with(&BatchCost::flops_per_s, 1e-310));
  EXPECT_REFUSED("BatchCost::attention: kv_heads is 0", BatchCost::attention(4, 0, 32, 2, false));
}

TEST(Balance, TheUniformPlanByHand) {
  // 4 ranks, at most 30 tokens each: {80, 40} fill the first micro-batch, {20, 60, 1} the second.
  BalanceProblem problem{{80, 40, 20, 60, 1}, 4, {}, 30, {}};
  problem.cost.flops_per_token = 100;
  problem.cost.flops_per_s = 1e3;
  problem.cost.bytes_per_token = 10;
  problem.cost.inside_bytes_per_s = 1e3;
  problem.cost.inside_latency_s = 0.5;
  problem.cost.sequence_s = 3;
  problem.cost.micro_batch_s = 7;
  // The one of a single token is on one rank.
  const double tokens = 200, compute = 5 * 3 + tokens * 100 / 4e3 + 100 / 1e3, transfer = 4 * 3 * 0.5 + 3 * tokens * 10 / 4e3;
  EXPECT_NEAR(balance(problem).uniform_seconds, 2 * 7 + compute + transfer, 1e-9);
}

TEST(Balance, DescribeIsATable) {
  std::vector<std::int64_t> lengths(8, 100);
  lengths.push_back(4000);
  lengths.push_back(0);
  const BatchPlan plan = balance({lengths, 4, {}, 1200, cheap_cost()});
  const std::string text = plan.describe();
  EXPECT_NE(text.find("micro-batch"), std::string::npos);
  EXPECT_NE(text.find("uniform"), std::string::npos);
  EXPECT_NE(text.find("ranks 0-3: 1 sequence, 4000 tokens"), std::string::npos) << text;
  EXPECT_NE(text.find("one rank each: "), std::string::npos) << text;
  EXPECT_NE(text.find("nowhere: 1 sequence, 0 tokens"), std::string::npos) << text;
}

TEST(BatchCost, FormulasByHand) {
  BatchCost cost;
  cost.flops_per_pair = 8;
  cost.flops_per_token = 100;
  cost.bytes_per_token = 50;
  cost.flops_per_s = 1e6;
  cost.inside_latency_s = 0.25;
  cost.inside_bytes_per_s = 1e3;
  cost.between_latency_s = 0.5;
  cost.between_bytes_per_s = 100;
  cost.sequence_s = 2;
  EXPECT_DOUBLE_EQ(cost.compute_s(10, 1), 2 + (8 * 55 + 1000) / 1e6);
  EXPECT_DOUBLE_EQ(cost.compute_s(10, 4), 2 + (8 * 55 + 1000) / 4e6);
  EXPECT_DOUBLE_EQ(cost.transfer_s(10, 1, true), 0);
  EXPECT_DOUBLE_EQ(cost.transfer_s(10, 5, false), 4 * 0.25 + 0.8 * 10 * 50 / 1e3);
  EXPECT_DOUBLE_EQ(cost.transfer_s(10, 5, true), 4 * 0.5 + 0.8 * 10 * 50 / 100);
  EXPECT_DOUBLE_EQ(cost.seconds(10, 5, true), cost.compute_s(10, 5) + 6);
  EXPECT_EQ(cost.seconds(0, 3), 0);
  cost.overlap = true;
  EXPECT_DOUBLE_EQ(cost.seconds(10, 5, true), 6);
  cost.causal = false;
  EXPECT_DOUBLE_EQ(cost.compute_s(10, 1), 2 + (8 * 100 + 1000) / 1e6);

  const BatchCost forward = BatchCost::attention(8, 2, 64, 2, false), both = BatchCost::attention(8, 2, 64, 2, true);
  EXPECT_EQ(forward.flops_per_pair, 4 * 8 * 64);
  EXPECT_EQ(forward.bytes_per_token, 2 * 2 * 64 * 2);
  EXPECT_EQ(both.flops_per_pair, 14 * 8 * 64);
  EXPECT_EQ(both.bytes_per_token, 2 * forward.bytes_per_token + 2 * 2 * 64 * 4);
}

}  // namespace
}  // namespace seqccl
