// context_pass_plan_test.cpp - context_pass schedules: proven, and as many bytes and messages as the closed forms say.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <numeric>

#include "seqccl/check.hpp"
#include "seqccl/collectives.hpp"
#include "seqccl/cost.hpp"
#include "seqccl/simulate.hpp"
#include "support/ranks.hpp"

namespace seqccl::test {
namespace {

std::vector<Schedule> record(const ContextPassSpec& spec, const RecordOptions& options = {}) {
  std::vector<Schedule> schedules;
  for (Rank rank = 0; rank < spec.num_ranks(); ++rank) schedules.push_back(collectives::context_pass(spec, rank, options));
  return schedules;
}

/// Anchor and selections are keys of their own, behind the N tokens of the sequence: first the anchor, then what rank 0, 1, ... passes.
CheckReport checked(const ContextPassSpec& spec, std::span<const Schedule> schedules) {
  const int num_ranks = spec.num_ranks();
  const std::int64_t num_tokens = std::accumulate(spec.tokens.begin(), spec.tokens.end(), std::int64_t{0});
  std::vector<std::int64_t> first, passed_first;
  std::vector<BandSlice> slices;
  std::int64_t own = 0, passed = num_tokens + spec.anchor_tokens;
  for (Rank rank = 0; rank < num_ranks; ++rank) {
    const std::int64_t count = spec.tokens_on(rank);
    first.push_back(own);
    passed_first.push_back(passed);
    if (count != 0) {
      slices.push_back({own, count, own, count, -unbounded, 0});
      if (spec.anchor_on(rank) != 0) slices.push_back({own, count, num_tokens, spec.anchor_tokens});
      if (passed != passed_first[0]) slices.push_back({own, count, passed_first[0], passed - passed_first[0]});
    }
    own += count;
    passed += spec.passed_by(rank);
  }
  std::vector<std::int64_t> held = spec.tokens;
  held.back() += passed - num_tokens;
  const Partition partition = Partition::uneven(held);
  const Mask mask = Mask::slices(slices);
  const auto names = [&](Rank rank, Tensor tensor, int nth) -> SlotNames {
    const auto r = static_cast<std::size_t>(rank);
    const bool is_key = tensor == Tensor::k || tensor == Tensor::v;
    if (!is_key || nth == 0) return {{{0, {first[r], spec.tokens_on(rank), 1}}}, 0};
    if (nth == 1) return {{{0, {num_tokens, spec.anchor_on(rank), 1}}}, 0};
    return {{{0, {passed_first[r], spec.passed_by(rank), 1}}}, 0};
  };
  return check(schedules, {.partition = &partition,
                           .mask = &mask,
                           .batch = spec.batch,
                           .q_heads = spec.q_heads,
                           .kv_heads = spec.num_kv_heads(),
                           .names = names});
}

ContextPassSpec small_pass(int num_ranks) {
  ContextPassSpec spec;
  spec.q_heads = 4;
  spec.kv_heads = 2;
  spec.head_dim = 8;
  spec.v_head_dim = 16;
  spec.anchor_tokens = 3;
  for (Rank rank = 0; rank < num_ranks; ++rank) {
    spec.tokens.push_back(6 + rank % 3);
    spec.passed_tokens.push_back(2 + rank % 2);
  }
  return spec;
}

const std::vector<int> pass_ranks = up_to_if_sanitized(17, {1, 2, 3, 4, 5, 7, 8, 17, 64});

TEST(ContextPassPlan, EveryPairOnce) {
  for (const int num_ranks : pass_ranks)
    for (const std::int64_t batch : {1, 2})
      for (const DType dtype : {f32, bf16})
        for (const bool sendable : {true, false}) {
          ContextPassSpec spec = small_pass(num_ranks);
          spec.batch = batch;
          spec.dtype = dtype;
          const CheckReport report = checked(spec, record(spec, {.inputs_sendable = sendable}));
          ASSERT_TRUE(report.ok()) << spec.describe() << report.text();
        }
}

TEST(ContextPassPlan, RanksWithoutTokensWithoutSelectionsWithoutAnchor) {
  for (const int num_ranks : pass_ranks) {
    ContextPassSpec spec = small_pass(num_ranks);
    for (Rank rank = 0; rank < num_ranks; ++rank) {
      if (rank % 3 == 1) spec.passed_tokens[static_cast<std::size_t>(rank)] = 0;
      if (rank % 4 == 2) spec.tokens[static_cast<std::size_t>(rank)] = 0;
    }
    for (const std::int64_t anchor : {0, 5}) {
      spec.anchor_tokens = anchor;
      const CheckReport report = checked(spec, record(spec));
      ASSERT_TRUE(report.ok()) << spec.describe() << report.text();
    }
    spec.kernel = {.name = "mine", .accumulates = false, .run = [](const AttendArguments&) {}};
    const CheckReport merged = checked(spec, record(spec));
    ASSERT_TRUE(merged.ok()) << spec.describe() << merged.text();
    spec.passed_tokens.clear();  // phase 1 of Star attention
    const std::vector<Schedule> star = record(spec);
    ASSERT_TRUE(checked(spec, star).ok()) << checked(spec, star).text();
    for (const Schedule& schedule : star) EXPECT_TRUE(schedule.exchanges.empty());
  }
}

TEST(ContextPassPlan, ASelectionInTheWrongPlaceIsFound) {
  ContextPassSpec spec = small_pass(4);
  spec.passed_tokens = {2, 2, 2, 2};
  std::vector<Schedule> schedules = record(spec);
  ASSERT_TRUE(checked(spec, schedules).ok());
  // Rank 3 takes the keys of ranks 0 and 1 into each other's rows, the values not.
  std::vector<Transfer>& transfers = schedules[3].transfers;
  std::swap(transfers[0].block, transfers[2].block);
  EXPECT_FALSE(checked(spec, schedules).ok());
  // A rank that sees the anchor twice.
  schedules = record(spec);
  for (Op& op : schedules[2].ops)
    if (auto* attend = std::get_if<Attend>(&op); attend != nullptr && attend->k.num_tokens == 4) {  // what is passed
      attend->k = std::get<Attend>(schedules[2].ops[1]).k;
      attend->v = std::get<Attend>(schedules[2].ops[1]).v;
    }
  EXPECT_FALSE(checked(spec, schedules).ok());
}

TEST(ContextPassPlan, BytesAndMessages) {
  for (const int num_ranks : pass_ranks) {
    ContextPassSpec spec = small_pass(num_ranks);
    spec.batch = 2;
    spec.dtype = bf16;
    const std::vector<Schedule> schedules = record(spec);
    std::uint64_t passed = 0;
    for (Rank rank = 0; rank < num_ranks; ++rank) {
      const Schedule& schedule = schedules[static_cast<std::size_t>(rank)];
      const Cost cost = cost_of(schedule);
      const std::uint64_t token_bytes = 2 * 2 * (8 + 16) * 2;  // B Hkv (Dk + Dv) b
      EXPECT_EQ(cost.total_received_bytes, passed * token_bytes);
      EXPECT_EQ(cost.total_received_messages, 2u * static_cast<unsigned>(rank));
      EXPECT_EQ(cost.total_sent_bytes,
                static_cast<std::uint64_t>(num_ranks - 1 - rank) * static_cast<std::uint64_t>(spec.passed_by(rank)) * token_bytes);
      EXPECT_EQ(schedule.exchanges.size(), num_ranks == 1 ? 0u : 1u);
      passed += static_cast<std::uint64_t>(spec.passed_by(rank));
    }
  }
}

// What comes in, the selection packed, and sums of 16-bit results; every slot begins at a multiple of 64 bytes.
TEST(ContextPassPlan, Workspace) {
  ContextPassSpec spec = small_pass(4);
  spec.tokens = {16, 16, 16, 16};
  spec.passed_tokens = {4, 8, 2, 6};
  spec.dtype = bf16;
  spec.v_head_dim = 32;
  std::size_t passed = 0;
  for (Rank rank = 0; rank < 4; ++rank) {
    const std::size_t token_bytes = 2 * (8 + 32) * 2, sums = 16 * 4 * 32 * 4, own = static_cast<std::size_t>(spec.passed_by(rank));
    EXPECT_EQ(collectives::context_pass(spec, rank).workspace_bytes, passed * token_bytes + sums);
    EXPECT_EQ(collectives::context_pass(spec, rank, {.inputs_sendable = false}).workspace_bytes,
              (passed + (rank == 3 ? 0 : own)) * token_bytes + sums);
    passed += own;
  }
}

// What the selections need to travel is hidden behind attention to own keys and anchor.
TEST(ContextPassPlan, TheExchangeIsHidden) {
  ContextPassSpec spec = small_pass(4);
  spec.tokens = {1024, 1024, 1024, 1024};
  spec.passed_tokens = {64, 64, 64, 64};
  spec.anchor_tokens = 128;
  spec.head_dim = spec.v_head_dim = 64;
  const std::vector<Schedule> schedules = record(spec);
  const Simulation simulation = simulate(schedules, Cluster::thread_ranks());
  for (Rank rank = 0; rank < 4; ++rank) {
    const auto r = static_cast<std::size_t>(rank);
    double end = 0;
    for (const StepTime& step : simulation.steps[r]) end = std::max(end, step.end_s);
    EXPECT_NEAR(end, simulation.compute_s[r], 1e-9) << "rank " << rank << " waits";
  }
  EXPECT_FALSE(schedules[1].is_sequential);
}

TEST(ContextPassPlan, WhatIsWrongIsRefused) {
  const auto expect_refused = [](auto&& change) {
    ContextPassSpec spec = small_pass(3);
    change(spec);
    EXPECT_THROW(validate(spec, 3), Error);
  };
  EXPECT_NO_THROW(validate(small_pass(3), 3));
  expect_refused([](ContextPassSpec& spec) { spec.tokens.pop_back(); });
  expect_refused([](ContextPassSpec& spec) { spec.passed_tokens.pop_back(); });
  expect_refused([](ContextPassSpec& spec) { spec.passed_tokens[1] = -1; });
  expect_refused([](ContextPassSpec& spec) { spec.tokens[2] = -1; });
  expect_refused([](ContextPassSpec& spec) { spec.anchor_tokens = -1; });
  expect_refused([](ContextPassSpec& spec) { spec.kv_heads = 3; });
  expect_refused([](ContextPassSpec& spec) { spec.head_dim = 0; });
  expect_refused([](ContextPassSpec& spec) { spec.dtype = DType::f64; });
  expect_refused([](ContextPassSpec& spec) { spec.softcap = -1; });
}

}  // namespace
}  // namespace seqccl::test
