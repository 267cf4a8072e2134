// workspace_test.cpp - scratch memory of each method against the closed forms in the notes beside it.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "collectives/plans.hpp"

namespace seqccl::test {
namespace {

/// Even shards of c tokens; all sizes are multiples of the arena's alignment.
class Workspace : public ::testing::TestWithParam<std::tuple<int, DType>> {
 protected:
  static constexpr std::int64_t c = 64, Hq = 16, Hkv = 8, D = 16;
  const std::int64_t P = std::get<0>(GetParam());
  const DType dtype = std::get<1>(GetParam());
  const std::int64_t b = static_cast<std::int64_t>(size_bytes(dtype));
  const bool narrow = dtype != f32;  // 16-bit results are summed in f32 scratch

  const std::int64_t keys = 2 * c * Hkv * D * b, key_gradients = 2 * c * Hkv * D * 4;    // k and v of one rank
  const std::int64_t queries = c * Hq * D * b, sums = c * Hq * D * 4, row = c * Hq * 4;  // row: one number per query and head

  [[nodiscard]] AttentionSpec spec(const Mask& mask = Mask::full()) const {
    AttentionSpec result = small_spec(Partition::zigzag(c * P, static_cast<int>(P)), mask, Hq, Hkv);
    result.head_dim = D;
    result.dtype = dtype;
    return result;
  }
  static void expect_bytes(const Schedule& schedule, std::int64_t bytes) {
    EXPECT_EQ(schedule.workspace_bytes, static_cast<std::size_t>(bytes)) << schedule.name << " rank " << schedule.rank;
  }
};

TEST_P(Workspace, Ring) {
  for (const Schedule& schedule : record_all(collectives::ring_forward, spec())) expect_bytes(schedule, 2 * keys + narrow * sums);
  for (const Schedule& schedule : record_all(collectives::ring_backward, spec()))
    expect_bytes(schedule, 2 * keys + 4 * key_gradients + row + narrow * (sums + key_gradients));
  // Causal zigzag: rank P - 1 meets halves only.
  for (const Schedule& schedule : record_all(collectives::ring_forward, spec(Mask::causal())))
    expect_bytes(schedule, (schedule.rank + 1 < P ? 2 : 1) * keys + narrow * sums);
}

TEST_P(Workspace, KvAllGather) {
  for (const Schedule& schedule : record_all(collectives::kv_all_gather_forward, spec()))
    expect_bytes(schedule, (P - 1) * keys + narrow * sums);
  for (const Schedule& schedule : record_all(collectives::kv_all_gather_backward, spec()))
    expect_bytes(schedule, (P - 1) * (keys + 2 * key_gradients) + row + narrow * (sums + key_gradients));
  for (const Schedule& schedule : record_all(collectives::kv_all_gather_forward, spec(Mask::causal())))
    expect_bytes(schedule, (P - 1 - schedule.rank) * keys + schedule.rank * keys / 2 + narrow * sums);
}

TEST_P(Workspace, HeadSwap) {
  if (Hkv % P != 0) return;
  const std::int64_t in = (queries + keys) * (2 * P - 1) / P;  // swapped, and packed for the other P - 1 ranks
  for (const Schedule& schedule : record_all(collectives::head_swap_forward, spec(Mask::causal())))
    expect_bytes(schedule, in + (sums + row) + narrow * queries + (queries + row));
  // dout, lse, delta go in as well; lse and dout are packed, delta too; dq, dk, dv come out.
  for (const Schedule& schedule : record_all(collectives::head_swap_backward, spec(Mask::causal())))
    expect_bytes(schedule,
                 in + (queries + 2 * row) * (2 * P - 1) / P + row + (sums + key_gradients) + narrow * (queries + keys) + (queries + keys));
}

TEST_P(Workspace, TokenRing) {
  for (const Schedule& schedule : record_all(collectives::token_ring_forward, spec()))
    expect_bytes(schedule, 2 * queries + 3 * (sums + row) + narrow * sums);
}

TEST_P(Workspace, StateScan) {
  LinearSpec layer;
  layer.heads = 16;
  layer.head_dim = D;
  layer.dtype = dtype;
  layer.partition = Partition::contiguous(c * P, static_cast<int>(P));
  layer.kind = LinearKind::vector_gate;
  const std::int64_t m_E = 16 * D * D * 4, m_M = 16 * D * 4, sums_in_f32 = narrow * c * 16 * D * 4;
  // Nobody asks for what the last run leaves, nor for what the first does to a state.
  const auto own = [&](std::int64_t r) { return (r + 1 < P) * m_E + (r > 0 && r + 1 < P) * m_M; };
  for (const Schedule& schedule : record_all(collectives::linear_forward, layer)) {
    const std::int64_t r = schedule.rank;
    expect_bytes(schedule, own(r) + (r > 0 ? r * m_E + (r - 1) * m_M + m_E : 0) + sums_in_f32);
  }
  layer.scan = Scan::chain;
  for (const Schedule& schedule : record_all(collectives::linear_forward, layer)) {
    const std::int64_t r = schedule.rank;
    const bool in_the_middle = r > 0 && r + 1 < P;
    expect_bytes(schedule, own(r) + (r > 0) * m_E + in_the_middle * m_E + sums_in_f32);
  }
  layer.scan = Scan::pipelined_chain;  // and columns apart, and joined again
  for (const Schedule& schedule : record_all(collectives::linear_forward, layer)) {
    const std::int64_t r = schedule.rank;
    const bool in_the_middle = r > 0 && r + 1 < P;
    expect_bytes(schedule, own(r) + (r + 1 < P) * m_E + (r > 0) * 2 * m_E + in_the_middle * m_E + sums_in_f32);
  }
  layer.scan = Scan::doubling;  // every round receives into memory of its own
  for (const Schedule& schedule : record_all(collectives::linear_forward, layer)) {
    const std::int64_t r = schedule.rank;
    std::int64_t rounds = 0;
    for (std::int64_t reach = 1; reach <= r; reach *= 2) {
      const bool has_transition = 2 * reach <= r, goes_on = r + 2 * reach < P;
      rounds += (1 + goes_on) * (m_E + has_transition * m_M);
    }
    expect_bytes(schedule, own(r) + rounds + sums_in_f32);
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, Workspace, ::testing::Combine(::testing::Values(2, 4, 5, 8), ::testing::Values(f32, bf16)));

}  // namespace
}  // namespace seqccl::test
