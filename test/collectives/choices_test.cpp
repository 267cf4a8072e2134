// choices_test.cpp - closed forms of the methods that are choices: two ways round, rings of rings, burst, meshes, helpers, head groups.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <array>

#include "collectives/plans.hpp"
#include "seqccl/cost.hpp"
#include "seqccl/simulate.hpp"

namespace seqccl::test {
namespace {

using LaneBytes = std::array<std::int64_t, num_lanes>;

/// Bytes that a rank receives on each lane.
LaneBytes received_by_lane(const Schedule& schedule) {
  LaneBytes bytes{};
  for (const Step& step : schedule.steps) {
    if (step.lane == Lane::compute) continue;
    for (const Transfer& receive : schedule.receives(schedule.exchanges[step.index]))
      bytes[static_cast<std::size_t>(step.lane)] += static_cast<std::int64_t>(schedule.num_bytes(receive.block));
  }
  return bytes;
}
constexpr auto comm = static_cast<std::size_t>(Lane::comm), comm2 = static_cast<std::size_t>(Lane::comm2),
               comm3 = static_cast<std::size_t>(Lane::comm3);

template <class Kind>
std::int64_t count(const Schedule& schedule) {
  return std::count_if(schedule.ops.begin(), schedule.ops.end(), [](const Op& op) { return std::holds_alternative<Kind>(op); });
}
std::int64_t total_received(const std::vector<Schedule>& schedules) {
  std::int64_t total = 0;
  for (const Schedule& schedule : schedules) total += static_cast<std::int64_t>(cost_of(schedule).total_received_bytes);
  return total;
}

class Choices : public ::testing::TestWithParam<int> {
 protected:
  static constexpr std::int64_t c = 8, Hq = 8, Hkv = 4, D = 16, b = 2;
  static constexpr std::int64_t keys = 2 * c * Hkv * D * b, key_gradients = 2 * c * Hkv * D * 4;
  static constexpr std::int64_t queries = c * Hq * D * b, partials = c * Hq * (4 * D + 4);
  static constexpr std::int64_t burst_queries = c * Hq * (2 * D * b + 8), burst_gradients = c * Hq * D * 4;
  const int P = GetParam();

  [[nodiscard]] AttentionSpec spec(const Mask& mask = Mask::full()) const {
    AttentionSpec result = small_spec(Partition::zigzag(c * P, P), mask, Hq, Hkv);
    result.head_dim = D;
    result.dtype = bf16;
    return result;
  }
};

// Half of the blocks on each lane, floor(P / 2) rounds; the way back is as long again.
TEST_P(Choices, BidirectionalRingHalvesEachDirection) {
  for (const Schedule& schedule : record_all(collectives::bidirectional_ring_forward, spec())) {
    const LaneBytes bytes = received_by_lane(schedule);
    EXPECT_EQ(2 * bytes[comm], (P - 1) * keys);
    EXPECT_EQ(2 * bytes[comm2], (P - 1) * keys);
    EXPECT_EQ(schedule.exchanges.size(), 2u * (P / 2));
    const Cost cost = cost_of(schedule);
    for (Rank peer = 0; peer < P; ++peer) {
      const bool is_neighbour = peer == (schedule.rank + 1) % P || peer == (schedule.rank + P - 1) % P;
      EXPECT_EQ(cost.received_messages[peer] != 0, is_neighbour && P > 1);
    }
  }
  for (const Schedule& schedule : record_all(collectives::bidirectional_ring_backward, spec())) {
    const LaneBytes bytes = received_by_lane(schedule);
    EXPECT_EQ(2 * bytes[comm], (P - 1) * (keys + key_gradients));
    EXPECT_EQ(2 * bytes[comm2], (P - 1) * (keys + key_gradients));
    EXPECT_EQ(schedule.exchanges.size(), 4u * (P / 2));
  }
}

// Every rank gets what it needs and no more: three quarters under causal zigzag.
TEST_P(Choices, BidirectionalRingCausalZigzag) {
  EXPECT_EQ(total_received(record_all(collectives::bidirectional_ring_forward, spec(Mask::causal()))), 3 * P * (P - 1) * keys / 4);
  EXPECT_EQ(total_received(record_all(collectives::bidirectional_ring_backward, spec(Mask::causal()))),
            3 * P * (P - 1) * (keys + key_gradients) / 4);
}

TEST_P(Choices, BurstMovesQueriesAndTheirGradients) {
  AttentionSpec layer = spec();
  layer.backward = Backward::burst;
  for (const auto record : {collectives::ring_backward, collectives::bidirectional_ring_backward})
    for (const Schedule& schedule : record_all(record, layer))
      EXPECT_EQ(cost_of(schedule).total_received_bytes, static_cast<std::uint64_t>((P - 1) * (burst_queries + burst_gradients)));
}

TEST_P(Choices, TokenRingBackwardMirrorsForward) {
  for (const Schedule& schedule : record_all(collectives::token_ring_backward, spec())) {
    const LaneBytes bytes = received_by_lane(schedule);
    EXPECT_EQ(bytes[comm], (P - 1) * burst_queries);
    EXPECT_EQ(bytes[comm2], (P - 1) * burst_gradients);
    EXPECT_EQ(schedule.exchanges.size(), 2u * (P - 1));
  }
  EXPECT_EQ(total_received(record_all(collectives::token_ring_backward, spec(Mask::causal()))),
            3 * P * (P - 1) * (burst_queries + burst_gradients) / 4);
}

// outer x inner: every rank gets R (g - 1) blocks from its node and R - 1 from others; gradients take as many.
TEST_P(Choices, RingsOfRings) {
  for (int inner = 1; inner <= P; ++inner) {
    if (P % inner != 0) continue;
    const int R = P / inner;
    AttentionSpec layer = spec();
    layer.mesh = Mesh{1, R, inner};
    for (const Schedule& schedule : record_all(collectives::ring_forward, layer)) {
      const LaneBytes bytes = received_by_lane(schedule);
      EXPECT_EQ(bytes[comm], R * (inner - 1) * keys);
      EXPECT_EQ(bytes[comm3], (R - 1) * keys);
      const Cost cost = cost_of(schedule);
      for (Rank peer = 0; peer < P; ++peer) {
        const bool crosses = peer / inner != schedule.rank / inner;
        EXPECT_TRUE(cost.received_messages[peer] == 0 || !crosses || peer % inner == schedule.rank % inner) << "only places of one column";
      }
    }
    for (const Schedule& schedule : record_all(collectives::ring_backward, layer)) {
      const LaneBytes bytes = received_by_lane(schedule);
      EXPECT_EQ(bytes[comm], R * (inner - 1) * keys);
      EXPECT_EQ(bytes[comm2], R * (inner - 1) * key_gradients);
      EXPECT_EQ(bytes[comm3], (R - 1) * (keys + key_gradients));
    }
    layer.backward = Backward::burst;
    for (const Schedule& schedule : record_all(collectives::ring_backward, layer)) {
      const LaneBytes bytes = received_by_lane(schedule);
      EXPECT_EQ(bytes[comm] + bytes[comm2], R * (inner - 1) * (burst_queries + burst_gradients));
      EXPECT_EQ(bytes[comm3], (R - 1) * (burst_queries + burst_gradients));
    }
  }
}

// U ranks swap heads, R = P / U form a ring: c (2 Hq + 2 Hkv) D b (U - 1) / U and lse, then (R - 1) blocks of U c tokens, 1 / U of the
// heads.
TEST_P(Choices, Mesh) {
  for (const int U : {2, 4}) {
    if (P % U != 0) continue;
    for (const bool outermost : {false, true}) {
      AttentionSpec layer = spec();
      layer.mesh = Mesh{U, 1, P / U, outermost};
      for (const Schedule& schedule : record_all(collectives::ring_forward, layer))
        EXPECT_EQ(static_cast<std::int64_t>(cost_of(schedule).total_received_bytes),
                  c * (2 * Hq + 2 * Hkv) * D * b * (U - 1) / U + 4 * c * Hq * (U - 1) / U + (P / U - 1) * keys);
    }
  }
}

// Causal, contiguous: every rank attends floor(P / 2) + 1 times at most, and no pair of ranks meets twice.
TEST_P(Choices, BalancedHelperEvensOutCausalContiguousShards) {
  AttentionSpec layer = spec(Mask::causal());
  layer.partition = Partition::contiguous(c * P, P);
  std::int64_t taken_keys = 0, helped = 0;
  for (std::int64_t t = 1; 2 * t <= P; ++t) taken_keys += P - t, helped += 2 * t < P ? t : 0;
  const std::vector<Schedule> forward = record_all(collectives::balanced_helper_forward, layer);
  for (const Schedule& schedule : forward) EXPECT_LE(count<Attend>(schedule), P / 2 + 1);
  EXPECT_EQ(total_received(forward), taken_keys * keys + helped * (queries + partials));
  const std::vector<Schedule> backward = record_all(collectives::balanced_helper_backward, layer);
  for (const Schedule& schedule : backward) EXPECT_LE(count<AttendBackward>(schedule), P / 2 + 1);
  EXPECT_EQ(total_received(backward), taken_keys * (keys + key_gradients) + helped * (burst_queries + burst_gradients));
  // A ring leaves the last rank P attends.
  EXPECT_EQ(count<Attend>(collectives::ring_forward(layer, P - 1, {})), P);
}

// Group i + 1 is on its way while group i is attended to: no exchange of keys waits for an attend.
TEST_P(Choices, HeadGroupsOfKvAllGatherDoNotWaitForAttention) {
  AttentionSpec layer = spec();
  layer.head_groups = 4;
  for (const auto record : {collectives::kv_all_gather_forward, collectives::kv_all_gather_backward})
    for (const Schedule& schedule : record_all(record, layer)) {
      std::vector<bool> attends;  // per compute step
      for (const Step& step : schedule.steps)
        if (step.lane == Lane::compute)
          attends.push_back(std::holds_alternative<Attend>(schedule.ops[step.index]) ||
                            std::holds_alternative<AttendBackward>(schedule.ops[step.index]));
      std::int64_t gathers = 0;
      for (const Step& step : schedule.steps) {
        if (step.lane == Lane::compute || gathers == 4) continue;
        ++gathers;
        EXPECT_TRUE(std::none_of(attends.begin(), attends.begin() + step.after[0], [](bool attend) { return attend; }));
      }
      EXPECT_EQ(gathers, P == 1 ? 0 : 4);
    }
  layer.head_groups = 1;
  const std::int64_t whole = total_received(record_all(collectives::kv_all_gather_forward, layer));
  layer.head_groups = 4;
  EXPECT_EQ(total_received(record_all(collectives::kv_all_gather_forward, layer)), whole) << "the same bytes";
}

// In groups all is hidden but the first way in and the last way out: 1 / G of what is exposed with one group.
TEST_P(Choices, HeadGroupsHideAllButOneGroup) {
  AttentionSpec layer = spec();
  layer.partition = Partition::contiguous(1024 * P, P);
  layer.mask = Mask::full();
  layer.q_heads = layer.kv_heads = 8 * P;
  layer.head_dim = 128;
  Cluster cluster;
  cluster.inside = cluster.between = {1e-6, 1e10};
  cluster.flops_per_s = 1e10;
  cluster.memory_bytes_per_s = 1e18;
  cluster.step_overhead_s = 0;
  for (const auto record : {collectives::head_swap_forward, collectives::head_swap_backward, collectives::kv_all_gather_backward}) {
    const auto exposed = [&](int groups) {
      layer.head_groups = groups;
      const Simulation simulation = simulate(record_all(record, layer), cluster);
      return *std::max_element(simulation.exposed_s.begin(), simulation.exposed_s.end());
    };
    if (P == 1) continue;
    const double whole = exposed(1);
    for (const int groups : {2, 4, 8}) EXPECT_LT(exposed(groups), 1.1 / groups * whole) << groups << " groups";
  }
}

// Two rounds where a ring has one after the other, on links of their own; nothing is exposed where a hop is shorter than attention.
TEST_P(Choices, BidirectionalRingExposesTheLastGradientsOnly) {
  AttentionSpec layer = spec();
  layer.dtype = f32;
  layer.partition = Partition::zigzag(64 * P, P);
  Cluster cluster;
  cluster.inside = cluster.between = {1e-6, 1e10};
  cluster.flops_per_s = 1e10;
  cluster.memory_bytes_per_s = 1e18;
  cluster.step_overhead_s = 0;
  const auto exposed = [&](auto record) {
    const Simulation simulation = simulate(record_all(record, layer), cluster);
    return *std::max_element(simulation.exposed_s.begin(), simulation.exposed_s.end());
  };
  EXPECT_NEAR(exposed(collectives::bidirectional_ring_forward), 0, 1e-9);
  const double home_s = P == 1 ? 0 : 1e-6 + 2.0 * 64 * Hkv * D * 4 / 1e10;
  EXPECT_LE(exposed(collectives::bidirectional_ring_backward), 2 * home_s + 1e-9);
}

// A round's returns travel while the next is worked on; after the last one nothing is left to hide them.
TEST_P(Choices, BalancedHelperExposesTheLastReturnOnly) {
  AttentionSpec layer = spec();
  layer.partition = Partition::contiguous(256 * P, P);
  layer.mask = Mask::full();
  layer.head_dim = 128;
  Cluster cluster;
  cluster.inside = cluster.between = {1e-6, 1e9};
  cluster.flops_per_s = 1e9;
  cluster.memory_bytes_per_s = 1e18;
  cluster.step_overhead_s = 0;
  for (const auto record : {collectives::balanced_helper_forward, collectives::balanced_helper_backward}) {
    const auto schedules = record_all(record, layer);
    const Simulation simulation = simulate(schedules, cluster);
    double last_s = 0;  // the longest way of all: no return takes longer
    for (const Schedule& schedule : schedules)
      for (const Exchange& exchange : schedule.exchanges) {
        double bytes = 0;
        for (const Transfer& receive : schedule.receives(exchange)) bytes += static_cast<double>(schedule.num_bytes(receive.block));
        last_s = std::max(last_s, 1e-6 + bytes / 1e9);
      }
    EXPECT_LE(*std::max_element(simulation.exposed_s.begin(), simulation.exposed_s.end()), 2 * last_s + 1e-9);
  }
}

// A window is a halo for every method that moves keys or queries: rows of the neighbour within the window, nothing else.
TEST_P(Choices, WindowsMoveHalosOnly) {
  AttentionSpec layer = spec(Mask::window(3, 0));
  layer.partition = Partition::contiguous(c * P, P);
  const std::int64_t key_rows = keys / c, query_rows = queries / c, partial_rows = partials / c;
  for (const auto record : {collectives::ring_forward, collectives::bidirectional_ring_forward, collectives::kv_all_gather_forward,
                            collectives::balanced_helper_forward})
    EXPECT_EQ(total_received(record_all(record, layer)), (P - 1) * 3 * key_rows);
  EXPECT_EQ(total_received(record_all(collectives::token_ring_forward, layer)), (P - 1) * 3 * (query_rows + partial_rows));
  for (int inner = 1; inner <= P; ++inner) {
    if (P % inner != 0) continue;
    layer.mesh = Mesh{1, P / inner, inner};
    // What crosses to a node lands at its own place first, so each border between nodes is paid twice.
    const std::int64_t borders = inner > 1 ? P / inner - 1 : 0;
    EXPECT_EQ(total_received(record_all(collectives::ring_forward, layer)), (P - 1 + borders) * 3 * key_rows) << "rings of " << inner;
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, Choices, ::testing::Values(1, 2, 3, 4, 5, 6, 7, 8, 16));

}  // namespace
}  // namespace seqccl::test
