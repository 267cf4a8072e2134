// rounds_test.cpp - messages and exchanges of each method, and the bytes of its backward pass, against the closed forms in the notes.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>

#include "collectives/plans.hpp"
#include "seqccl/cost.hpp"

namespace seqccl::test {
namespace {

/// Even shards of c tokens, more than one rank.
class Rounds : public ::testing::TestWithParam<int> {
 protected:
  static constexpr std::int64_t c = 8, Hq = 8, Hkv = 4, D = 16, b = 2;
  static constexpr std::int64_t key_block = 2 * c * Hkv * D * b, gradient_block = 2 * c * Hkv * D * 4;
  const int P = GetParam();
  const std::uint64_t others = static_cast<std::uint64_t>(P) - 1;

  [[nodiscard]] AttentionSpec spec(const Mask& mask) const {
    AttentionSpec result = small_spec(Partition::zigzag(c * P, P), mask, Hq, Hkv);
    result.head_dim = D;
    result.dtype = bf16;
    return result;
  }
  static void expect_messages(const Schedule& schedule, std::uint64_t messages, std::uint64_t exchanges) {
    EXPECT_EQ(cost_of(schedule).total_received_messages, messages) << schedule.name << " rank " << schedule.rank;
    EXPECT_EQ(schedule.exchanges.size(), exchanges) << schedule.name << " rank " << schedule.rank;
  }
};

TEST_P(Rounds, Ring) {
  for (const Mask& mask : {Mask::full(), Mask::causal()})
    for (const Schedule& schedule : record_all(collectives::ring_forward, spec(mask))) expect_messages(schedule, 2 * others, others);
  for (const Schedule& schedule : record_all(collectives::ring_backward, spec(Mask::full())))
    expect_messages(schedule, 4 * others, 2 * others);
}

// Keys and gradients alike: 3/4 of the full mask, because the half whose way ends at rank 0 goes straight home from there.
TEST_P(Rounds, RingBackwardCausalZigzag) {
  std::uint64_t total = 0;
  for (const Schedule& schedule : record_all(collectives::ring_backward, spec(Mask::causal())))
    total += cost_of(schedule).total_received_bytes;
  EXPECT_EQ(total, static_cast<std::uint64_t>(3 * P * (P - 1) * (key_block + gradient_block) / 4));
}

TEST_P(Rounds, KvAllGather) {
  for (const Mask& mask : {Mask::full(), Mask::causal()}) {
    for (const Schedule& schedule : record_all(collectives::kv_all_gather_forward, spec(mask))) expect_messages(schedule, 2 * others, 1);
    for (const Schedule& schedule : record_all(collectives::kv_all_gather_backward, spec(mask))) expect_messages(schedule, 4 * others, 2);
  }
}

// Several visible intervals of one peer travel as one message.
TEST_P(Rounds, KvAllGatherPacksIntervals) {
  const Partition striped = Partition::striped(c * P, P);
  const Mask mask = Mask::causal() & Mask::documents({c * P / 2, c * P / 2});
  AttentionSpec layer = spec(mask);
  for (const Partition& partition : {striped, Partition::zigzag(c * P, P)}) {
    layer.partition = partition;
    for (const Schedule& schedule : record_all(collectives::kv_all_gather_forward, layer)) {
      const Cost cost = cost_of(schedule);
      EXPECT_LE(*std::max_element(cost.received_messages.begin(), cost.received_messages.end()), 2u);
    }
  }
}

// One message per segment of the sender (in) or of mine (out); contiguous: one segment a rank.
TEST_P(Rounds, HeadSwap) {
  AttentionSpec layer = spec(Mask::causal());
  layer.partition = Partition::contiguous(c * P, P);
  if (Hkv % P != 0) return;
  for (const Schedule& schedule : record_all(collectives::head_swap_forward, layer)) expect_messages(schedule, 5 * others, 2);
  for (const Schedule& schedule : record_all(collectives::head_swap_backward, layer)) expect_messages(schedule, 9 * others, 2);
}

TEST_P(Rounds, HeadSwapBackwardBytes) {
  std::vector<std::int64_t> hq(P), e(P);
  std::int64_t sum_e = 0;
  for (std::int64_t r = 0; r < P; ++r) {
    const std::int64_t first = r * Hq / P, end = (r + 1) * Hq / P, group = Hq / Hkv;
    hq[r] = end - first;
    e[r] = hq[r] == 0 ? 0 : (end - 1) / group - first / group + 1;
    sum_e += e[r];
  }
  const std::int64_t gradient = sum_e > Hkv ? 4 : b;  // partial dk, dv of replicated heads are f32
  for (const Schedule& schedule : record_all(collectives::head_swap_backward, spec(Mask::causal()))) {
    const std::int64_t r = schedule.rank;
    const std::int64_t in = (c * P - c) * ((2 * hq[r] + 2 * e[r]) * D * b + hq[r] * 8);
    const std::int64_t out = c * (Hq - hq[r]) * D * b + c * 2 * (sum_e - e[r]) * D * gradient;
    EXPECT_EQ(cost_of(schedule).total_received_bytes, static_cast<std::uint64_t>(in + out)) << "rank " << r << " of " << P;
  }
}

TEST_P(Rounds, TokenRing) {
  for (const Mask& mask : {Mask::full(), Mask::causal()})
    for (const Schedule& schedule : record_all(collectives::token_ring_forward, spec(mask)))
      expect_messages(schedule, 3 * others, 2 * others);
  AttentionSpec narrow = spec(Mask::full());
  narrow.partials_in_dtype = true;
  for (const Schedule& schedule : record_all(collectives::token_ring_forward, narrow))
    EXPECT_EQ(cost_of(schedule).total_received_bytes, others * c * Hq * (2 * D * b + 4));
}

INSTANTIATE_TEST_SUITE_P(Ranks, Rounds, ::testing::Values(2, 3, 4, 5, 8, 16));

}  // namespace
}  // namespace seqccl::test
