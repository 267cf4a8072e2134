// balance_optimum_test.cpp - plans against all assignments of small batches, and against the lower bound for large ones.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <limits>
#include <vector>

#include "random_problem.hpp"
#include "seqccl/balance.hpp"

namespace seqccl {
namespace {

/// The least seconds of all assignments: any subsets of ranks as groups, crossing ones too, and any number of micro-batches.
class AllAssignments {
 public:
  explicit AllAssignments(const BalanceProblem& problem) : problem_(problem), num_sequences_(static_cast<int>(problem.lengths.size())) {}

  [[nodiscard]] double least_seconds() {
    const int num_sets = 1 << num_sequences_;
    std::vector<double> of_one(num_sets), of_any(num_sets, std::numeric_limits<double>::infinity());
    for (int set = 1; set < num_sets; ++set) {
      least_s_ = std::numeric_limits<double>::infinity();
      std::vector<Load> loads(problem_.num_ranks);
      place(set, 0, loads);
      of_one[set] = least_s_ + problem_.cost.micro_batch_s;
    }
    of_any[0] = 0;
    for (int set = 1; set < num_sets; ++set)
      for (int part = set; part > 0; part = (part - 1) & set) of_any[set] = std::min(of_any[set], of_one[part] + of_any[set & ~part]);
    return of_any[num_sets - 1];
  }

 private:
  struct Load {
    double compute = 0, transfer = 0;
    std::int64_t tokens = 0;
  };

  void place(int set, int sequence, std::vector<Load>& loads) {
    const BatchCost& cost = problem_.cost;
    double slowest = 0;
    for (const Load& load : loads)
      slowest = std::max(slowest, cost.overlap ? std::max(load.compute, load.transfer) : load.compute + load.transfer);
    if (slowest >= least_s_) return;
    while (sequence < num_sequences_ && (set >> sequence & 1) == 0) ++sequence;
    if (sequence == num_sequences_) {
      least_s_ = slowest;
      return;
    }
    const double L = static_cast<double>(problem_.lengths[sequence]);
    for (int group = 1; group < 1 << problem_.num_ranks; ++group) {
      int g = 0, first_node = -1;
      bool between = false;
      for (int rank = 0; rank < problem_.num_ranks; ++rank) {
        if ((group >> rank & 1) == 0) continue;
        ++g;
        const int node = problem_.topology.node.empty() ? 0 : problem_.topology.node[rank];
        between = between || (first_node >= 0 && node != first_node);
        first_node = node;
      }
      if (static_cast<std::int64_t>(g) > problem_.lengths[sequence]) continue;
      // The formulas of balance.hpp, written down once more.
      const double pairs = cost.causal ? L * (L + 1) / 2 : L * L;
      const double compute = cost.sequence_s + (cost.flops_per_pair * pairs + cost.flops_per_token * L) / (g * cost.flops_per_s);
      const double transfer = (g - 1) * ((between ? cost.between_latency_s : cost.inside_latency_s) +
                                         cost.bytes_per_token * L / (g * (between ? cost.between_bytes_per_s : cost.inside_bytes_per_s)));
      const std::int64_t tokens = (problem_.lengths[sequence] + g - 1) / g;
      std::vector<Load> after = loads;
      bool fits = true;
      for (int rank = 0; rank < problem_.num_ranks; ++rank) {
        if ((group >> rank & 1) == 0) continue;
        after[rank].compute += compute;
        after[rank].transfer += transfer;
        after[rank].tokens += tokens;
        fits = fits && (problem_.max_tokens_per_rank == 0 || after[rank].tokens <= problem_.max_tokens_per_rank);
      }
      if (fits) place(set, sequence + 1, after);
    }
  }

  const BalanceProblem& problem_;
  int num_sequences_;
  double least_s_ = 0;
};

double uniform(test::Generator& generator) { return static_cast<double>(generator() >> 11) * 0x1p-53; }

/// Up to 5 sequences on up to 4 ranks; cheap and dear transfers, with and without a limit, nodes, overlap, fixed times.
BalanceProblem small_problem(test::Generator& generator) {
  BalanceProblem problem;
  problem.num_ranks = static_cast<int>(test::pick(generator, 1, 4));
  const std::int64_t num_sequences = test::pick(generator, 1, 5);
  std::int64_t longest = 0;
  for (std::int64_t i = 0; i < num_sequences; ++i) {
    problem.lengths.push_back(static_cast<std::int64_t>(std::exp(3 + 4 * uniform(generator))));
    longest = std::max(longest, problem.lengths.back());
  }
  if (problem.num_ranks == 4 && generator() % 2 == 0) problem.topology = Topology::nodes(2, 2);
  if (generator() % 3 != 0) problem.max_tokens_per_rank = (longest - 1) / problem.num_ranks + 1 + test::pick(generator, 0, longest);
  problem.cost = BatchCost::attention(4, 2, 32, 4, true);
  problem.cost.flops_per_token = generator() % 2 == 0 ? 1e6 : 0;
  problem.cost.inside_bytes_per_s = std::pow(10.0, 8 + 2.5 * uniform(generator));
  problem.cost.between_bytes_per_s = problem.cost.inside_bytes_per_s / (1 + 4 * uniform(generator));
  problem.cost.between_latency_s = 2e-5;
  if (generator() % 2 == 0) problem.cost.sequence_s = 2e-5;
  if (generator() % 3 == 0) problem.cost.micro_batch_s = 1e-4;
  problem.cost.causal = generator() % 4 != 0;
  problem.cost.overlap = generator() % 4 == 0;
  return problem;
}

TEST(BalanceOptimum, SmallBatchesAgainstAllAssignments) {
  test::Generator generator(20261123);
  int num_optimal = 0;
  double worst = 1;
  constexpr int num_problems = 200;
  for (int i = 0; i < num_problems; ++i) {
    const BalanceProblem problem = small_problem(generator);
    const BatchPlan plan = balance(problem);
    const double least_s = AllAssignments(problem).least_seconds();
    SCOPED_TRACE("problem " + std::to_string(i) + "\n" + plan.describe());
    ASSERT_GE(plan.seconds, least_s * (1 - 1e-9)) << "faster than every assignment: the cost is wrong";
    ASSERT_LE(plan.lower_bound_s, least_s * (1 + 1e-9)) << "not a lower bound";
    EXPECT_LE(plan.seconds, 1.1 * least_s);
    worst = std::max(worst, plan.seconds / least_s);
    num_optimal += plan.seconds <= least_s * (1 + 1e-9) ? 1 : 0;
  }
  EXPECT_GE(num_optimal, num_problems * 7 / 10);
  RecordProperty("optimal", num_optimal);
  RecordProperty("worst_percent", static_cast<int>(std::ceil(100 * (worst - 1))));
  std::printf("optimal in %d of %d, at worst %.4f of the optimum\n", num_optimal, num_problems, worst);
}

// Training steps of a transformer with 32 query heads on accelerators: batches of many short and a few long sequences.
BalanceProblem long_tailed(test::Generator& generator, int num_ranks, int num_sequences, bool pareto) {
  BalanceProblem problem;
  problem.num_ranks = num_ranks;
  std::int64_t total = 0, longest = 0;
  for (int i = 0; i < num_sequences; ++i) {
    const double u = uniform(generator), v = uniform(generator);
    const double length =
        pareto ? 200 * std::pow(1 - u, -1 / 0.9) : std::exp(7 + 1.3 * std::sqrt(-2 * std::log(1 - u)) * std::cos(6.283185307 * v));
    problem.lengths.push_back(std::clamp<std::int64_t>(static_cast<std::int64_t>(length), 1, 131072));
    total += problem.lengths.back();
    longest = std::max(longest, problem.lengths.back());
  }
  problem.max_tokens_per_rank = std::max((longest - 1) / num_ranks + 1, total / num_ranks / 3 + 1);
  problem.cost = BatchCost::attention(32, 8, 128, 2, true);
  problem.cost.flops_per_token = 1.2e9;
  problem.cost.flops_per_s = 400e12;
  problem.cost.inside_bytes_per_s = problem.cost.between_bytes_per_s = 300e9;
  problem.cost.sequence_s = 20e-6;
  return problem;
}

TEST(BalanceOptimum, LongTailedBatchesAgainstTheLowerBound) {
  test::Generator generator(7);
  for (const int num_ranks : {8, 16, 64})
    for (const int num_sequences : {128, 512})
      for (const bool pareto : {false, true})
        for (const int overlap : {0, 1}) {
          BalanceProblem problem = long_tailed(generator, num_ranks, num_sequences, pareto);
          problem.cost.overlap = overlap == 1;
          const auto begin = std::chrono::steady_clock::now();
          const BatchPlan plan = balance(problem);
          const double took_ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
          EXPECT_LE(plan.seconds, 1.25 * plan.lower_bound_s) << plan.describe();
          EXPECT_GE(plan.seconds, plan.lower_bound_s * (1 - 1e-9));
          EXPECT_LT(plan.seconds, plan.uniform_seconds);
          std::printf("%2d ranks, %3d sequences, %s%s: %.3f of the bound, %.2f times faster than uniform, planned in %.0f ms\n", num_ranks,
                      num_sequences, pareto ? "pareto" : "log-normal", overlap == 1 ? ", overlap" : "", plan.seconds / plan.lower_bound_s,
                      plan.uniform_seconds / plan.seconds, took_ms);
        }
}

TEST(BalanceOptimum, MoreEffortIsNoWorse) {
  test::Generator generator(11);
  for (int i = 0; i < 4; ++i) {
    BalanceProblem problem = long_tailed(generator, 16, 48, i % 2 == 0);
    const double once_s = balance(problem).seconds;
    problem.effort = 4;
    EXPECT_LE(balance(problem).seconds, once_s);
  }
}

}  // namespace
}  // namespace seqccl
