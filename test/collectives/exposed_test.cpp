// exposed_test.cpp - simulated time in which a rank does not compute, against the formulas in the notes beside each method.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>

#include "collectives/plans.hpp"
#include "seqccl/cost.hpp"
#include "seqccl/simulate.hpp"

namespace seqccl::test {
namespace {

/// Copies and merges take next to no time, so that what is exposed is what the messages take.
Cluster cluster_with(double bytes_per_s) {
  Cluster cluster;
  cluster.inside = cluster.between = {1e-6, bytes_per_s};
  cluster.flops_per_s = 1e11;
  cluster.memory_bytes_per_s = 1e18;
  cluster.step_overhead_s = 0;
  return cluster;
}
constexpr double fast = 1e10, slow = 1e7;

class Exposed : public ::testing::TestWithParam<int> {
 protected:
  static constexpr std::int64_t c = 64, Hq = 8, Hkv = 8, D = 32;
  static constexpr double tolerance_s = 1e-9;
  const int P = GetParam();

  [[nodiscard]] AttentionSpec spec(const Mask& mask) const {
    AttentionSpec result = small_spec(Partition::zigzag(c * P, P), mask, Hq, Hkv);
    result.head_dim = D;
    return result;
  }
  /// A message, or several one after the other through one port.
  [[nodiscard]] static double transfer_s(double num_bytes, const Cluster& cluster) {
    return cluster.inside.latency_s + num_bytes / cluster.inside.bytes_per_s;
  }
  [[nodiscard]] static double most_exposed_s(const std::vector<Schedule>& schedules, const Cluster& cluster) {
    const Simulation simulation = simulate(schedules, cluster);
    return *std::max_element(simulation.exposed_s.begin(), simulation.exposed_s.end());
  }
  /// The compute step that takes longest.
  [[nodiscard]] static double longest_step_s(const Schedule& schedule, const Cluster& cluster) {
    double longest = 0;
    for (const Op& op : schedule.ops) longest = std::max(longest, compute_seconds(schedule, op, cluster));
    return longest;
  }
  static constexpr double key_block = 2 * c * Hkv * D * 4, gradient_block = 2 * c * Hkv * D * 4;
};

TEST_P(Exposed, RingForwardExposesNothingWhereAHopIsShorterThanAttention) {
  for (const Mask& mask : {Mask::full(), Mask::causal()})
    EXPECT_NEAR(most_exposed_s(record_all(collectives::ring_forward, spec(mask)), cluster_with(fast)), 0, tolerance_s);
}

TEST_P(Exposed, RingForwardExposesWhatAHopIsLongerThanAttention) {
  const Cluster cluster = cluster_with(slow);
  const std::vector<Schedule> schedules = record_all(collectives::ring_forward, spec(Mask::full()));
  const double hop_s = transfer_s(key_block, cluster), attend_s = longest_step_s(schedules[0], cluster);
  ASSERT_GT(hop_s, attend_s);
  EXPECT_NEAR(most_exposed_s(schedules, cluster), (P - 1) * (hop_s - attend_s), tolerance_s);
}

TEST_P(Exposed, RingBackwardExposesTheLastGradientsWayHome) {
  const Cluster cluster = cluster_with(fast);
  EXPECT_NEAR(most_exposed_s(record_all(collectives::ring_backward, spec(Mask::full())), cluster),
              P == 1 ? 0 : transfer_s(gradient_block, cluster), tolerance_s);
}

TEST_P(Exposed, KvAllGatherHidesBehindTheOwnBlockOnly) {
  for (const double bytes_per_s : {fast, slow}) {
    const Cluster cluster = cluster_with(bytes_per_s);
    const std::vector<Schedule> schedules = record_all(collectives::kv_all_gather_forward, spec(Mask::full()));
    const double gather_s = P == 1 ? 0 : transfer_s((P - 1) * key_block, cluster);
    const double own_s = compute_seconds(schedules[0], schedules[0].ops[0], cluster);
    EXPECT_NEAR(most_exposed_s(schedules, cluster), std::max(0.0, gather_s - own_s), tolerance_s);
    // Backward: and the gradients' way home, behind nothing.
    const std::vector<Schedule> backward = record_all(collectives::kv_all_gather_backward, spec(Mask::full()));
    const double own_backward_s = compute_seconds(backward[0], backward[0].ops[0], cluster) +  // delta, then the own block
                                  compute_seconds(backward[0], backward[0].ops[1], cluster);
    const double home_s = P == 1 ? 0 : transfer_s((P - 1) * gradient_block, cluster);
    EXPECT_NEAR(most_exposed_s(backward, cluster), std::max(0.0, gather_s - own_backward_s) + home_s, tolerance_s);
  }
}

// Attention hides nothing; only copies of the own part may run beside the messages. (Contiguous: under zigzag rank P - 1 has one
// segment where others have two, and messages of unequal size queue up behind each other.)
TEST_P(Exposed, HeadSwapExposesBothSwaps) {
  const Cluster cluster = cluster_with(fast);
  AttentionSpec layer = spec(Mask::full());
  layer.partition = Partition::contiguous(c * P, P);
  for (const auto record : {collectives::head_swap_forward, collectives::head_swap_backward}) {
    const std::vector<Schedule> schedules = record_all(record, layer);
    const auto received = static_cast<double>(cost_of(schedules[0]).total_received_bytes);
    const double swaps_s = P == 1 ? 0 : received / cluster.inside.bytes_per_s + 2 * cluster.inside.latency_s;
    double copies_s = 0;
    for (const Op& op : schedules[0].ops)
      if (std::holds_alternative<Copy>(op)) copies_s += compute_seconds(schedules[0], op, cluster);
    EXPECT_LE(most_exposed_s(schedules, cluster), swaps_s + tolerance_s);
    EXPECT_GE(most_exposed_s(schedules, cluster), swaps_s - copies_s);
  }
}

// Half of the own keys first, half last: the first hop of the queries and the last partials' way home have something to hide behind.
TEST_P(Exposed, TokenRingExposesNothingWhereMessagesAreShorterThanHalfTheOwnBlock) {
  for (const auto record : {collectives::token_ring_forward, collectives::token_ring_backward})
    EXPECT_NEAR(most_exposed_s(record_all(record, spec(Mask::full())), cluster_with(fast)), 0, tolerance_s);
}

TEST_P(Exposed, StateScan) {
  const Cluster cluster = cluster_with(fast);
  LinearSpec layer;
  layer.heads = 4;
  layer.head_dim = 16;
  layer.partition = Partition::contiguous(256 * P, P);
  layer.kind = LinearKind::scalar_gate;
  layer.state_out = true;  // so that the last rank makes its summary as the others do
  const double state = 4 * 4 * 16 * 16;
  // all_gather: hides behind the outputs of the own run.
  const Simulation gathered = simulate(record_all(collectives::linear_forward, layer), cluster);
  EXPECT_NEAR(gathered.exposed_s[P - 1], 0, tolerance_s);
  // chain: every hop but the first, which hides behind local work, is on the way to the last rank; between two lie a copy and a step.
  layer.scan = Scan::chain;
  const Simulation chained = simulate(record_all(collectives::linear_forward, layer), cluster);
  const double copy_s = 2 * state / 4 / cluster.flops_per_s, step_s = (3 * state + 4 * 4) / 4 / cluster.flops_per_s;
  EXPECT_NEAR(chained.exposed_s[P - 1], std::max(0, P - 2) * (transfer_s(state, cluster) + copy_s + step_s), tolerance_s);
  if (P > 4) {
    layer.scan = Scan::doubling;
    EXPECT_LT(simulate(record_all(collectives::linear_forward, layer), cluster).exposed_s[P - 1], chained.exposed_s[P - 1]);
  }
  // Backward has nothing to do while summaries travel.
  layer.scan = Scan::all_gather;
  const std::vector<Schedule> backward = record_all(collectives::linear_backward, layer);
  const auto received = static_cast<double>(cost_of(backward[0]).total_received_bytes);
  EXPECT_GE(simulate(backward, cluster).exposed_s[0], P == 1 ? 0 : transfer_s(received, cluster) - tolerance_s);
}

INSTANTIATE_TEST_SUITE_P(Ranks, Exposed, ::testing::Values(1, 2, 4, 8));

}  // namespace
}  // namespace seqccl::test
