// linear_plan_test.cpp - schedules of linear attention: proven, and as many rounds and bytes as the closed forms say.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "collectives/plans.hpp"
#include "seqccl/check.hpp"
#include "seqccl/cost.hpp"

namespace seqccl::test {
namespace {

constexpr LinearKind kinds[] = {LinearKind::basic, LinearKind::constant_decay, LinearKind::scalar_gate, LinearKind::vector_gate};

LinearSpec linear_spec(const Partition& partition, LinearKind kind, Scan scan) {
  LinearSpec spec;
  spec.heads = 3;
  spec.head_dim = 8;
  spec.v_head_dim = 16;
  spec.partition = partition;
  spec.kind = kind;
  spec.scan = scan;
  return spec;
}

TEST(LinearPlan, EveryPartitionKindAndScanIsProven) {
  for (const int num_ranks : {1, 2, 3, 4, 5, 7, 8, 16, 64})
    for (const std::int64_t num_tokens : {std::int64_t{4} * num_ranks, std::int64_t{53}, std::int64_t{1}, std::int64_t{0}})
      for (const Partition& partition : all_partitions(num_tokens, num_ranks)) {
        if (!partition.has_contiguous_segments()) continue;
        for (const LinearKind kind : kinds)
          for (const Scan scan : {Scan::all_gather, Scan::chain})
            for (const bool states : {false, true}) {
              if (num_ranks > 8 && kind != LinearKind::vector_gate) continue;
              LinearSpec spec = linear_spec(partition, kind, scan);
              spec.state_in = spec.state_out = states;
              SCOPED_TRACE(spec.describe());
              const Claim claim{.partition = &spec.partition, .batch = 1, .q_heads = spec.heads, .kv_heads = spec.heads};
              const CheckReport forward = check(record_all(collectives::linear_forward, spec), claim);
              ASSERT_TRUE(forward.ok()) << "forward: " << forward.text();
              const CheckReport backward = check(record_all(collectives::linear_backward, spec), claim);
              ASSERT_TRUE(backward.ok()) << "backward: " << backward.text();
            }
      }
}

class ScanCost : public ::testing::TestWithParam<int> {
 protected:
  const int P = GetParam();
  static constexpr std::uint64_t m_E = 3 * 8 * 16 * 4;  // a state, f32
  [[nodiscard]] static std::uint64_t m_M(LinearKind kind) {
    return kind == LinearKind::scalar_gate ? 3 * 4 : kind == LinearKind::vector_gate ? 3 * 8 * 4 : 0;
  }
  [[nodiscard]] Partition contiguous() const { return Partition::contiguous(4 * P, P); }
  [[nodiscard]] Partition zigzag() const { return Partition::zigzag(4 * P, P); }
};

TEST_P(ScanCost, AllGatherContiguous) {
  for (const LinearKind kind : kinds)
    for (int r = 0; r < P; ++r) {
      const auto later = static_cast<std::uint64_t>(P - 1 - r), earlier = static_cast<std::uint64_t>(r);
      const Schedule forward = collectives::linear_forward(linear_spec(contiguous(), kind, Scan::all_gather), r);
      EXPECT_LE(forward.exchanges.size(), 1u);
      EXPECT_EQ(cost_of(forward).total_received_bytes, earlier * m_E + (earlier > 1 ? earlier - 1 : 0) * m_M(kind));
      const Schedule backward = collectives::linear_backward(linear_spec(contiguous(), kind, Scan::all_gather), r);
      EXPECT_EQ(cost_of(backward).total_received_bytes, later * m_E + (later > 1 ? later - 1 : 0) * m_M(kind));
    }
}

// 2P virtual ranks would give rank r 2P - 2 - r summaries; the two chunks of rank P - 1 are one run, which saves one.
TEST_P(ScanCost, AllGatherZigzag) {
  for (int r = 0; r < P; ++r) {
    const Schedule schedule = collectives::linear_forward(linear_spec(zigzag(), LinearKind::basic, Scan::all_gather), r);
    const std::uint64_t summaries = r == P - 1 ? P - 1 : 2 * P - 3 - r;
    EXPECT_EQ(cost_of(schedule).total_received_bytes, summaries * m_E) << "rank " << r << " of " << P;
  }
}

TEST_P(ScanCost, ChainIsOneStateARank) {
  for (const LinearKind kind : kinds)
    for (int r = 0; r < P; ++r) {
      const Schedule schedule = collectives::linear_forward(linear_spec(contiguous(), kind, Scan::chain), r);
      EXPECT_EQ(cost_of(schedule).total_received_bytes, r > 0 ? m_E : 0u);  // no M travels
      const Schedule zigzagged = collectives::linear_forward(linear_spec(zigzag(), kind, Scan::chain), r);
      EXPECT_EQ(cost_of(zigzagged).total_received_bytes, ((r > 0 ? 1u : 0u) + (r < P - 1 ? 1u : 0u)) * m_E);
    }
}

INSTANTIATE_TEST_SUITE_P(Ranks, ScanCost, ::testing::Values(1, 2, 3, 4, 5, 7, 8, 16, 64));

}  // namespace
}  // namespace seqccl::test
