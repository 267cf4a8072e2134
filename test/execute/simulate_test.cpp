// simulate_test.cpp - simulated times against closed forms.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/simulate.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "seqccl/recorder.hpp"

namespace seqccl {
namespace {

constexpr std::int64_t message_tokens = 250;  // of one f32
constexpr double message_bytes = 1000, latency = 3e-6;

/// A message of 1000 bytes takes `transfer_s` without its latency; a step that reads it takes `compute_s`.
Cluster cluster_with(double transfer_s, double compute_s) {
  Cluster cluster;
  cluster.inside = {latency, message_bytes / transfer_s};
  cluster.between = cluster.inside;
  cluster.flops_per_s = 1e30;
  cluster.memory_bytes_per_s = message_bytes / compute_s;
  cluster.step_overhead_s = 0;
  return cluster;
}

Block input(Recorder& plan, std::int64_t tokens = message_tokens) { return plan.input(Tensor::k, f32, {1, tokens, 1, 1}, true); }
Block scratch(Recorder& plan, std::int64_t tokens = message_tokens) { return plan.scratch(f32, {1, tokens, 1, 1}); }

Custom reads(const Block& block) {
  Custom op;
  op.in[0] = block;
  return op;
}

std::vector<Schedule> record(int num_ranks, const std::function<void(Recorder&)>& write) {
  std::vector<Schedule> schedules;
  for (Rank rank = 0; rank < num_ranks; ++rank) {
    Recorder plan{"test", rank, num_ranks};
    write(plan);
    schedules.push_back(std::move(plan).finish("test"));
  }
  return schedules;
}

/// Every rank passes blocks to its left and treats each of the P blocks while the next one comes.
std::vector<Schedule> ring(int num_ranks, int num_spare_blocks, std::int64_t tokens = message_tokens) {
  return record(num_ranks, [=](Recorder& plan) {
    const Rank left = (plan.rank() + num_ranks - 1) % num_ranks, right = (plan.rank() + 1) % num_ranks;
    std::vector<Block> spare;
    for (int i = 0; i < num_spare_blocks; ++i) spare.push_back(scratch(plan, tokens));
    Block current = input(plan, tokens);
    for (int i = 0; i + 1 < num_ranks; ++i) {
      const Block next = spare[i % num_spare_blocks];
      plan.exchange({{left, current}}, {{right, next}});
      plan.compute(reads(current));
      current = next;
    }
    plan.compute(reads(current));
  });
}

/// One exchange in which every rank sends to all others; rotated, no two ranks send to one at a time.
std::vector<Schedule> to_all(int num_ranks, bool is_rotated, bool sends_one_block) {
  return record(num_ranks, [=](Recorder& plan) {
    const Block mine = input(plan, message_tokens * num_ranks), all = scratch(plan, message_tokens * num_ranks);
    std::vector<Transfer> sends, receives;
    for (int i = 0; i < num_ranks; ++i) {
      const Rank to = is_rotated ? (plan.rank() + i) % num_ranks : i, from = is_rotated ? (plan.rank() + num_ranks - i) % num_ranks : i;
      if (to != plan.rank()) sends.push_back({to, mine.tokens(sends_one_block ? 0 : to * message_tokens, message_tokens)});
      if (from != plan.rank()) receives.push_back({from, all.tokens(from * message_tokens, message_tokens)});
    }
    plan.exchange(sends, receives);
  });
}

double seconds(const std::vector<Schedule>& schedules, const Cluster& cluster) { return simulate(schedules, cluster).seconds; }

// --- Closed forms. ----------------------------------------------------------------------------------------------------

TEST(Simulate, RingHidesTheShorterOfComputeAndTransfer) {
  for (const int num_ranks : {2, 3, 8, 64})
    for (const int num_spare_blocks : {2, num_ranks})  // two are enough: a block is read again only when it is late anyway
      for (const double transfer : {2e-6, 20e-6, 50e-6})
        for (const double compute : {1e-6, 23e-6, 80e-6}) {
          const double want = (num_ranks - 1) * std::max(compute, latency + transfer) + compute;
          EXPECT_NEAR(seconds(ring(num_ranks, num_spare_blocks), cluster_with(transfer, compute)), want, 1e-9 * want)
              << num_ranks << " ranks, " << num_spare_blocks << " spare blocks, transfer " << transfer << ", compute " << compute;
        }
}

TEST(Simulate, OneSpareBlockSerialisesTheRing) {
  // The second exchange would receive into what it sends and what is being read: late, never wrong.
  const auto schedules = record(2, [](Recorder& plan) {
    const Block mine = input(plan), spare = scratch(plan);
    for (int i = 0; i < 3; ++i) {
      plan.exchange({{1 - plan.rank(), mine}}, {{1 - plan.rank(), spare}});
      plan.compute(reads(spare));
    }
  });
  EXPECT_NEAR(seconds(schedules, cluster_with(10e-6, 20e-6)), 3 * (latency + 10e-6 + 20e-6), 1e-14);
}

TEST(Simulate, AllGatherAndAllToAllTakeOneLatencyAndPMinus1Messages) {
  for (const int num_ranks : {2, 3, 7, 64})
    for (const bool sends_one_block : {true, false}) {
      const double want = latency + (num_ranks - 1) * 10e-6;
      EXPECT_NEAR(seconds(to_all(num_ranks, true, sends_one_block), cluster_with(10e-6, 1)), want, 1e-9 * want) << num_ranks;
    }
}

TEST(Simulate, UnrotatedOrderIsSlower) {
  EXPECT_GT(seconds(to_all(8, false, true), cluster_with(10e-6, 1)), 1.2 * seconds(to_all(8, true, true), cluster_with(10e-6, 1)));
}

TEST(Simulate, ChainTakesPMinus1Hops) {
  for (const int num_ranks : {2, 3, 8, 64}) {
    const auto schedules = record(num_ranks, [=](Recorder& plan) {
      Block block = plan.rank() == 0 ? input(plan) : scratch(plan);
      if (plan.rank() > 0) plan.exchange({}, {{plan.rank() - 1, block}});
      if (plan.rank() + 1 < num_ranks) plan.exchange({{plan.rank() + 1, block}}, {});
    });
    const double want = (num_ranks - 1) * (latency + 10e-6);
    EXPECT_NEAR(seconds(schedules, cluster_with(10e-6, 1)), want, 1e-9 * want);
  }
}

TEST(Simulate, ComputeStepTakesOverheadAndTheSlowerOfFlopsAndBytes) {
  const auto schedules = record(1, [](Recorder& plan) { plan.compute(Copy{input(plan), scratch(plan)}); });  // 2000 bytes, 500 flops
  Cluster cluster;
  cluster.step_overhead_s = 5e-6;
  cluster.memory_bytes_per_s = 1e9;
  cluster.flops_per_s = 1e12;
  EXPECT_NEAR(seconds(schedules, cluster), 5e-6 + 2e-6, 1e-15);
  cluster.flops_per_s = 50e6;
  EXPECT_NEAR(seconds(schedules, cluster), 5e-6 + 10e-6, 1e-15);
}

// --- Links and ports. -------------------------------------------------------------------------------------------------

/// Rank 0 sends 1000 bytes to each of `to`, one lane each.
std::vector<Schedule> fan_out(int num_ranks, const std::vector<Rank>& to) {
  return record(num_ranks, [&](Recorder& plan) {
    const Block mine = input(plan);
    for (std::size_t i = 0; i < to.size(); ++i) {
      const auto lane = static_cast<Lane>(i + 1);
      if (plan.rank() == 0) plan.exchange({{to[i], mine}}, {}, lane);
      if (plan.rank() == to[i]) plan.exchange({}, {{0, scratch(plan)}}, lane);
    }
  });
}

TEST(Simulate, LinkClassIsChosenByNode) {
  Cluster cluster = cluster_with(10e-6, 1);
  cluster.between = {7e-6, message_bytes / 40e-6};
  cluster.topology.node = {0, 0, 1, 1};
  EXPECT_NEAR(seconds(fan_out(4, {1}), cluster), latency + 10e-6, 1e-14);
  EXPECT_NEAR(seconds(fan_out(4, {2}), cluster), 7e-6 + 40e-6, 1e-14);
  EXPECT_NEAR(seconds(fan_out(4, {1, 2}), cluster), 7e-6 + 40e-6, 1e-14) << "each class has its own port";
  EXPECT_NEAR(seconds(fan_out(4, {2, 3}), cluster), 7e-6 + 80e-6, 1e-14);
  cluster.topology.node.clear();
  EXPECT_NEAR(seconds(fan_out(4, {2}), cluster), latency + 10e-6, 1e-14) << "no topology: all on one node";
}

TEST(Simulate, LanesShareThePort) {
  EXPECT_NEAR(seconds(fan_out(3, {1, 2}), cluster_with(10e-6, 1)), latency + 20e-6, 1e-14);
  EXPECT_NEAR(seconds(fan_out(3, {1, 1, 1}), cluster_with(10e-6, 1)), latency + 30e-6, 1e-14);
}

TEST(Simulate, SendIsDoneWhenItsMessageArrives) {
  const Simulation simulation = simulate(fan_out(2, {1}), cluster_with(10e-6, 1));
  EXPECT_NEAR(simulation.steps[0][0].end_s, latency + 10e-6, 1e-14);
  EXPECT_EQ(simulation.steps[0][0].end_s, simulation.steps[1][0].end_s);
}

TEST(Simulate, PortsAreFullDuplex) {
  const auto schedules = record(2, [](Recorder& plan) {
    const Block mine = input(plan), other = scratch(plan);
    plan.exchange({{1 - plan.rank(), mine}}, {{1 - plan.rank(), other}});
  });
  EXPECT_NEAR(seconds(schedules, cluster_with(10e-6, 1)), latency + 10e-6, 1e-14);
}

TEST(Simulate, WhoIsReadyFirstGoesFirst) {
  // Rank 0 computes what it sends; rank 1 has it ready. Both send to rank 2, whose port takes rank 1's message first.
  const auto schedules = record(3, [](Recorder& plan) {
    const Block mine = input(plan);
    if (plan.rank() == 0) {
      const Block made = scratch(plan);
      plan.compute(Copy{mine, made});
      plan.exchange({{2, made}}, {}, Lane::comm);
    } else if (plan.rank() == 1) {
      plan.exchange({{2, mine}}, {}, Lane::comm2);
    } else {
      plan.exchange({}, {{0, scratch(plan)}}, Lane::comm);
      plan.exchange({}, {{1, scratch(plan)}}, Lane::comm2);
    }
  });
  const Simulation simulation = simulate(schedules, cluster_with(10e-6, 2e-6));  // the copy takes 4 us
  EXPECT_NEAR(simulation.steps[2][1].end_s, latency + 10e-6, 1e-14);
  EXPECT_NEAR(simulation.steps[2][0].end_s, latency + 20e-6, 1e-14);
}

// --- What a rank waits for. -------------------------------------------------------------------------------------------

TEST(Simulate, ExposedTimeIsWhatComputingDoesNotFill) {
  const Simulation bound_by_transfer = simulate(ring(4, 2), cluster_with(50e-6, 10e-6));
  for (Rank rank = 0; rank < 4; ++rank) {
    EXPECT_NEAR(bound_by_transfer.compute_s[rank], 4 * 10e-6, 1e-14);
    EXPECT_NEAR(bound_by_transfer.exposed_s[rank], 3 * (latency + 50e-6 - 10e-6), 1e-14);
    EXPECT_GE(bound_by_transfer.exposing_step[rank], 0);
  }
  const Simulation bound_by_compute = simulate(ring(4, 2), cluster_with(10e-6, 50e-6));
  for (Rank rank = 0; rank < 4; ++rank) {
    EXPECT_NEAR(bound_by_compute.exposed_s[rank], 0, 1e-14);
    EXPECT_EQ(bound_by_compute.exposing_step[rank], -1);
  }
}

TEST(Simulate, ExposingStepIsTheOneOfTheLongestWait) {
  for (const int longest : {0, 1, 2}) {
    const auto schedules = record(2, [&](Recorder& plan) {
      for (int i = 0; i < 3; ++i) {
        const std::int64_t tokens = message_tokens * (i == longest ? 3 : 1);
        const Block mine = input(plan, tokens), other = scratch(plan, tokens);
        plan.exchange({{1 - plan.rank(), mine}}, {{1 - plan.rank(), other}});  // steps 0, 2, 4
        if (i < 2) plan.compute(reads(other));                                 // steps 1, 3; the last wait has no step after it
      }
    });
    const Simulation simulation = simulate(schedules, cluster_with(10e-6, 1e-6));
    EXPECT_EQ(simulation.exposing_step[0], 2 * longest);
    EXPECT_EQ(simulation.exposing_step[1], 2 * longest);
  }
}

TEST(Simulate, PureCommunicationIsAllExposed) {
  const Simulation simulation = simulate(to_all(5, true, true), cluster_with(10e-6, 1));
  EXPECT_EQ(simulation.exposed_s[3], simulation.seconds);
  EXPECT_EQ(simulation.exposing_step[3], 0);
}

// --- Properties. ------------------------------------------------------------------------------------------------------

TEST(Simulate, IsDeterministic) {
  const auto schedules = to_all(16, false, false);
  const Simulation a = simulate(schedules, cluster_with(10e-6, 1)), b = simulate(schedules, cluster_with(10e-6, 1));
  EXPECT_EQ(a.seconds, b.seconds);
  for (Rank rank = 0; rank < 16; ++rank) EXPECT_EQ(a.steps[rank][0].end_s, b.steps[rank][0].end_s);
}

TEST(Simulate, MoreBytesTakeLonger) {
  double before = -1;
  for (const std::int64_t tokens : {0, 1, 10, 100, 1000, 10000}) {
    const double now = seconds(ring(8, 2, tokens), cluster_with(10e-6, 5e-6));
    EXPECT_GT(now, before) << tokens;
    before = now;
  }
}

TEST(Simulate, NoRanksAndNoSteps) {
  EXPECT_EQ(simulate({}, Cluster{}).seconds, 0);
  EXPECT_EQ(seconds(record(3, [](Recorder&) {}), Cluster{}), 0);
}

TEST(Simulate, StepsOfALaneFollowEachOtherAndTheirClocks) {
  const auto schedules = ring(8, 2);
  const Simulation simulation = simulate(schedules, cluster_with(10e-6, 12e-6));
  for (const Schedule& schedule : schedules) {
    const auto& times = simulation.steps[schedule.rank];
    std::array<std::vector<double>, num_lanes> ends;
    for (std::size_t i = 0; i < schedule.steps.size(); ++i) ends[static_cast<int>(schedule.steps[i].lane)].push_back(times[i].end_s);
    std::array<double, num_lanes> free{};
    for (std::size_t i = 0; i < schedule.steps.size(); ++i) {
      const Step& step = schedule.steps[i];
      double& lane_free = free[static_cast<int>(step.lane)];
      EXPECT_GE(times[i].begin_s, lane_free);
      for (int lane = 0; lane < num_lanes; ++lane)
        EXPECT_GE(times[i].begin_s, step.after[lane] == 0 ? 0 : ends[lane][step.after[lane] - 1]);
      lane_free = times[i].end_s;
    }
  }
}

// --- Refusals. --------------------------------------------------------------------------------------------------------

void expect_refused(const std::vector<Schedule>& schedules, const Cluster& cluster, ErrorKind kind, const std::string& words) {
  try {
    (void)simulate(schedules, cluster);
    FAIL() << "want an error that says: " << words;
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind);
    EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
  }
}

TEST(Simulate, RefusesDeadlock) {
  const auto schedules = record(2, [](Recorder& plan) {  // both receive before they send
    plan.exchange({}, {{1 - plan.rank(), scratch(plan)}});
    plan.exchange({{1 - plan.rank(), input(plan)}}, {});
  });
  expect_refused(schedules, Cluster{}, ErrorKind::internal, "deadlock: 0 of 4 steps end; rank 0 waits for ever in step 0");
}

TEST(Simulate, RefusesWhatDoesNotMatch) {
  const auto lonely_send = record(2, [](Recorder& plan) {
    if (plan.rank() == 0) plan.exchange({{1, input(plan)}}, {});
  });
  expect_refused(lonely_send, Cluster{}, ErrorKind::internal, "step 0 of rank 0 sends to rank 1 on lane 1, which has no receive for it");
  const auto lonely_receive = record(2, [](Recorder& plan) {
    if (plan.rank() == 0) plan.exchange({}, {{1, scratch(plan)}});
  });
  expect_refused(lonely_receive, Cluster{}, ErrorKind::internal, "step 0 of rank 0 receives from rank 1 on lane 1, which has no send");
  const auto other_bytes = record(2, [](Recorder& plan) {
    if (plan.rank() == 0) plan.exchange({{1, input(plan, 4)}}, {});
    if (plan.rank() == 1) plan.exchange({}, {{0, scratch(plan, 5)}});
  });
  expect_refused(other_bytes, Cluster{}, ErrorKind::internal, "sends 16 bytes to rank 1, which expects 20");
  const auto other_lane = record(2, [](Recorder& plan) {
    if (plan.rank() == 0) plan.exchange({{1, input(plan)}}, {}, Lane::comm);
    if (plan.rank() == 1) plan.exchange({}, {{0, scratch(plan)}}, Lane::comm2);
  });
  expect_refused(other_lane, Cluster{}, ErrorKind::internal, "on lane");
}

TEST(Simulate, RefusesWrongClustersAndRanks) {
  Cluster cluster;
  cluster.between.bytes_per_s = 0;
  expect_refused(ring(2, 2), cluster, ErrorKind::argument, "between.bytes_per_s is 0, want above 0");
  cluster = {};
  cluster.topology.node = {0, 0};
  expect_refused(ring(3, 2), cluster, ErrorKind::argument, "topology has 2 ranks, want 3");
  auto swapped = ring(2, 2);
  std::swap(swapped[0], swapped[1]);
  expect_refused(swapped, Cluster{}, ErrorKind::argument, "schedules[0] is of rank 1 of 2, want rank 0 of 2");
}

}  // namespace
}  // namespace seqccl
