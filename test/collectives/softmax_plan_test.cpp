// softmax_plan_test.cpp - every softmax method's schedule: matched, deadlock-free, race-free, covering, and as many bytes as the
// closed forms say.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>

#include "collectives/plans.hpp"
#include "seqccl/check.hpp"
#include "seqccl/cost.hpp"
#include "support/ranks.hpp"

namespace seqccl::test {
namespace {

Claim claim_of(const AttentionSpec& spec) {
  return {.partition = &spec.partition, .mask = &spec.mask, .batch = spec.batch, .q_heads = spec.q_heads, .kv_heads = spec.num_kv_heads()};
}

void expect_proven(const AttentionSpec& spec, const RecordOptions& options = {}) {
  for (const MethodEntry& entry : method_table()) {
    SCOPED_TRACE(std::string(entry.name) + ", " + spec.describe());
    const auto forward = record_all(entry.forward, spec, options);
    const CheckReport report = check(forward, claim_of(spec));
    ASSERT_TRUE(report.ok()) << "forward: " << report.text();
    const CheckReport backward = check(record_all(entry.backward, spec, options), claim_of(spec));
    ASSERT_TRUE(backward.ok()) << "backward: " << backward.text();
  }
}

TEST(SoftmaxPlan, EveryPartitionAndMaskIsProven) {
  for (const int num_ranks : {1, 2, 3, 4, 5, 7, 8})
    for (const std::int64_t num_tokens : {std::int64_t{4} * num_ranks, std::int64_t{53}})
      for (const Partition& partition : all_partitions(num_tokens, num_ranks))
        for (const Mask& mask : all_masks(num_tokens)) {
          expect_proven(small_spec(partition, mask));
          if (HasFatalFailure()) return;
        }
}

TEST(SoftmaxPlan, FewerTokensThanRanks) {
  for (const int num_ranks : {4, 7, 8})
    for (const std::int64_t num_tokens : {0, 1, 3})
      for (const Partition& partition : {Partition::contiguous(num_tokens, num_ranks), Partition::zigzag(num_tokens, num_ranks)}) {
        expect_proven(small_spec(partition, Mask::causal()));
        if (HasFatalFailure()) return;
      }
}

TEST(SoftmaxPlan, SixteenAndSixtyFourRanks) {
  for (const int num_ranks : up_to_if_sanitized(16, {16, 64}))
    for (const Mask& mask : {Mask::full(), Mask::causal()}) {
      expect_proven(small_spec(Partition::zigzag(1000, num_ranks), mask, 64, 8));
      if (HasFatalFailure()) return;
    }
}

TEST(SoftmaxPlan, HeadsOfEveryRatio) {
  const std::pair<int, int> ratios[] = {{1, 1}, {4, 4}, {8, 2}, {8, 1}, {6, 3}, {28, 4}, {3, 1}};
  for (const int num_ranks : {1, 2, 3, 4, 5, 8})
    for (const auto& [q_heads, kv_heads] : ratios) {
      expect_proven(small_spec(Partition::zigzag(64, num_ranks), Mask::causal(), q_heads, kv_heads));
      if (HasFatalFailure()) return;
    }
}

TEST(SoftmaxPlan, BatchSinksDtypesAndInputsThatMustBePacked) {
  for (const int num_ranks : {2, 4, 5}) {
    AttentionSpec spec = small_spec(Partition::zigzag(50, num_ranks), Mask::causal());
    spec.batch = 3;
    spec.sinks = true;
    spec.dtype = bf16;
    spec.v_head_dim = 16;
    expect_proven(spec);
    expect_proven(spec, {.inputs_sendable = false});
    spec.batch = 1;
    spec.partials_in_dtype = true;
    expect_proven(spec, {.inputs_sendable = false});
    spec.kernel = {.name = "mine", .accumulates = false, .run = [](const AttendArguments&) {}};
    expect_proven(spec);
    if (HasFatalFailure()) return;
  }
}

/// Meshes over `num_ranks` with every split, both placements.
std::vector<Mesh> all_meshes(int num_ranks) {
  std::vector<Mesh> meshes;
  for (int heads = 1; heads <= num_ranks; ++heads)
    for (int outer = 1; heads * outer <= num_ranks; ++outer) {
      if (num_ranks % (heads * outer) != 0) continue;
      meshes.push_back({heads, outer, num_ranks / (heads * outer)});
      if (heads > 1 && heads < num_ranks) meshes.push_back({heads, outer, num_ranks / (heads * outer), true});
    }
  return meshes;
}

// Every method with every choice of mesh, backward and head groups that it takes; what it does not take it refuses.
TEST(SoftmaxPlan, MeshesBackwardsAndHeadGroups) {
  for (const int num_ranks : {1, 2, 3, 4, 6, 8})
    for (const Mesh& mesh : all_meshes(num_ranks))
      for (const Backward backward : {Backward::standard, Backward::burst})
        for (const MethodEntry& entry : method_table()) {
          int seed = num_ranks + mesh.heads * 3 + mesh.outer * 5 + static_cast<int>(entry.method);
          const std::int64_t num_tokens = 57 + seed % 3;
          AttentionSpec spec = small_spec(all_partitions(num_tokens, num_ranks)[seed % 5], all_masks(num_tokens)[seed % 9], 6, 3);
          if (seed % 2 == 0) spec.q_heads = spec.kv_heads = 4;
          spec.method = entry.method;
          spec.mesh = mesh;
          spec.backward = backward;
          spec.head_groups = 1 + seed % 3;
          try {
            validate(spec, num_ranks);
          } catch (const Error& refused) {
            EXPECT_EQ(refused.kind(), ErrorKind::argument);
            continue;
          }
          SCOPED_TRACE(std::string(entry.name) + ", " + spec.describe());
          for (const Mask& mask : {Mask::causal(), spec.mask}) {
            spec.mask = mask;
            const CheckReport forward = check(record_all(entry.forward, spec), claim_of(spec));
            ASSERT_TRUE(forward.ok()) << "forward: " << forward.text();
            const CheckReport back = check(record_all(entry.backward, spec), claim_of(spec));
            ASSERT_TRUE(back.ok()) << "backward: " << back.text();
          }
        }
}

TEST(SoftmaxPlan, NativeHintsWhereTheExchangeIsACollective) {
  const AttentionSpec spec = small_spec(Partition::contiguous(64, 4), Mask::full());
  expect_proven(spec, {.native_collectives = true});
  const Schedule even = collectives::kv_all_gather_forward(spec, 1, {.native_collectives = true});
  ASSERT_EQ(even.exchanges.size(), 1u);
  EXPECT_EQ(even.exchanges[0].native, Native::all_gather);
  const Schedule backward = collectives::kv_all_gather_backward(spec, 1, {.native_collectives = true});
  EXPECT_EQ(backward.exchanges.back().native, Native::reduce_scatter);
  const Schedule masked =
      collectives::kv_all_gather_forward(small_spec(Partition::contiguous(64, 4), Mask::causal()), 1, {.native_collectives = true});
  EXPECT_EQ(masked.exchanges[0].native, Native::none);
  const Schedule uneven =
      collectives::kv_all_gather_forward(small_spec(Partition::contiguous(65, 4), Mask::full()), 1, {.native_collectives = true});
  EXPECT_EQ(uneven.exchanges[0].native, Native::none);
}

TEST(SoftmaxPlan, SizesBeyondTwoToTheForty) {
  AttentionSpec spec = small_spec(Partition::zigzag(std::int64_t{1} << 42, 8), Mask::causal(), 32, 8);
  spec.head_dim = 128;
  spec.dtype = bf16;
  expect_proven(spec);
  const Cost cost = cost_of(collectives::ring_forward(spec, 0, {}));
  EXPECT_EQ(cost.total_received_bytes, std::uint64_t{7} * (1ull << 39) * 2 * 8 * 128 * 2);  // 7 shards of k and v
}

// --- Closed forms: bytes that rank r receives. ------------------------------------------------------------------------

struct Bytes {
  std::vector<std::uint64_t> per_rank;
  std::uint64_t total = 0;
};
Bytes received(const std::vector<Schedule>& schedules) {
  Bytes bytes;
  for (const Schedule& schedule : schedules) {
    bytes.per_rank.push_back(cost_of(schedule).total_received_bytes);
    bytes.total += bytes.per_rank.back();
  }
  return bytes;
}

class ClosedForm : public ::testing::TestWithParam<int> {
 protected:
  static constexpr std::int64_t c = 8, Hq = 8, Hkv = 8, D = 16, b = 2;  // divisible by every P below
  const std::int64_t P = GetParam();
  [[nodiscard]] AttentionSpec spec(const Partition& partition, const Mask& mask, std::int64_t q_heads = Hq) const {
    AttentionSpec result = small_spec(partition, mask, q_heads, std::min(Hkv, q_heads));
    result.head_dim = D;
    result.dtype = bf16;
    return result;
  }
  [[nodiscard]] Partition zigzag() const { return Partition::zigzag(c * P, static_cast<int>(P)); }
  [[nodiscard]] Partition contiguous() const { return Partition::contiguous(c * P, static_cast<int>(P)); }
};

TEST_P(ClosedForm, RingFullMask) {
  const auto key_block = static_cast<std::uint64_t>(2 * c * Hkv * D * b), gradient_block = static_cast<std::uint64_t>(2 * c * Hkv * D * 4);
  for (const std::uint64_t bytes : received(record_all(collectives::ring_forward, spec(zigzag(), Mask::full()))).per_rank)
    EXPECT_EQ(bytes, (P - 1) * key_block);
  for (const std::uint64_t bytes : received(record_all(collectives::ring_backward, spec(zigzag(), Mask::full()))).per_rank)
    EXPECT_EQ(bytes, (P - 1) * (key_block + gradient_block));
}

// Rank r: (P-1-r) whole blocks and r halves; the mean is 3/4. A fully masked pair sends nothing.
TEST_P(ClosedForm, RingCausalZigzag) {
  const std::int64_t key_block = 2 * c * Hkv * D * b;
  const Bytes bytes = received(record_all(collectives::ring_forward, spec(zigzag(), Mask::causal())));
  for (std::int64_t r = 0; r < P; ++r)
    EXPECT_EQ(bytes.per_rank[r], static_cast<std::uint64_t>((P - 1 - r) * key_block + r * key_block / 2));
  EXPECT_EQ(bytes.total, static_cast<std::uint64_t>(3 * P * (P - 1) * key_block / 4));
}

TEST_P(ClosedForm, RingMessagesGoToNeighboursUnderAFullMask) {
  for (const Schedule& schedule : record_all(collectives::ring_forward, spec(zigzag(), Mask::full()))) {
    const Cost cost = cost_of(schedule);
    for (Rank peer = 0; peer < P; ++peer)
      EXPECT_EQ(cost.received_messages[peer], peer == (schedule.rank + 1) % P && P > 1 ? 2u * (P - 1) : 0u);
    EXPECT_EQ(schedule.exchanges.size(), static_cast<std::size_t>(P - 1));
  }
}

TEST_P(ClosedForm, RingWindowIsAHalo) {
  // Three keys back: only the predecessor in sequence order is asked, once, for three rows of k and of v.
  for (const Schedule& schedule : record_all(collectives::ring_forward, spec(contiguous(), Mask::window(3, 0)))) {
    const Cost cost = cost_of(schedule);
    EXPECT_EQ(cost.total_received_bytes, schedule.rank == 0 ? 0u : static_cast<std::uint64_t>(2 * 3 * Hkv * D * b));
    EXPECT_EQ(cost.total_received_messages, schedule.rank == 0 ? 0u : 2u);
  }
}

TEST_P(ClosedForm, DocumentsThatEndOnRankEdgesSendNothing) {
  const Mask mask = Mask::documents(std::vector<std::int64_t>(P, c));
  for (const MethodEntry& entry : method_table())
    if (entry.method != Method::head_swap) {
      EXPECT_EQ(received(record_all(entry.forward, spec(contiguous(), mask))).total, 0u) << entry.name;
    }
}

TEST_P(ClosedForm, KvAllGatherMaskedCausal) {
  const std::int64_t row = 2 * Hkv * D * b;
  const auto remote_rows = [&](const Partition& partition) {
    std::vector<std::int64_t> rows;
    for (const std::uint64_t bytes : received(record_all(collectives::kv_all_gather_forward, spec(partition, Mask::causal()))).per_rank)
      rows.push_back(static_cast<std::int64_t>(bytes) / row);
    return rows;
  };
  const auto in_order = remote_rows(contiguous()), head_tail = remote_rows(zigzag()),
             striped = remote_rows(Partition::striped(c * P, static_cast<int>(P)));
  for (std::int64_t r = 0; r < P; ++r) {
    EXPECT_EQ(in_order[r], r * c);
    EXPECT_EQ(head_tail[r], (P - 1 - r) * c + r * c / 2);
    EXPECT_EQ(striped[r], (P - 1) * c - (P - 1 - r));
  }
  // The gradients take the same paths back, in f32.
  std::int64_t forward = 0;
  for (const std::int64_t rows : head_tail) forward += rows;
  const std::uint64_t backward = received(record_all(collectives::kv_all_gather_backward, spec(zigzag(), Mask::causal()))).total;
  EXPECT_EQ(backward, static_cast<std::uint64_t>(forward * (row + 2 * Hkv * D * 4)));
}

TEST_P(ClosedForm, HeadSwap) {
  if (Hq % P != 0) return;  // uneven heads: below
  for (const Schedule& schedule : record_all(collectives::head_swap_forward, spec(zigzag(), Mask::causal())))
    EXPECT_EQ(cost_of(schedule).total_received_bytes,
              static_cast<std::uint64_t>(c * (2 * Hq + 2 * Hkv) * D * b * (P - 1) / P + c * (Hq - Hq / P) * 4));  // and lse in f32
}

// In general, with hq_r query heads on rank r that touch e_r key heads: in (N - c)(hq_r + 2 e_r), back c (Hq - hq_r), of D numbers.
TEST_P(ClosedForm, HeadSwapWithUnevenAndReplicatedHeads) {
  const AttentionSpec layer = spec(zigzag(), Mask::causal(), 28);
  AttentionSpec grouped = layer;
  grouped.kv_heads = 4;
  for (const Schedule& schedule : record_all(collectives::head_swap_forward, grouped)) {
    const std::int64_t r = schedule.rank, first = r * 28 / P, end = (r + 1) * 28 / P, hq = end - first;
    const std::int64_t e = hq == 0 ? 0 : (end - 1) / 7 - first / 7 + 1;
    EXPECT_EQ(cost_of(schedule).total_received_bytes,
              static_cast<std::uint64_t>((c * P - c) * (hq + 2 * e) * D * b + c * (28 - hq) * (D * b + 4)));
  }
}

TEST_P(ClosedForm, TokenRing) {
  const std::int64_t out = c * Hq * D * b, back = c * Hq * (4 * D + 4);
  for (const std::uint64_t bytes : received(record_all(collectives::token_ring_forward, spec(zigzag(), Mask::full()))).per_rank)
    EXPECT_EQ(bytes, static_cast<std::uint64_t>((P - 1) * (out + back)));
  EXPECT_EQ(received(record_all(collectives::token_ring_forward, spec(zigzag(), Mask::causal()))).total,
            static_cast<std::uint64_t>(3 * P * (P - 1) * (out + back) / 4));
}

INSTANTIATE_TEST_SUITE_P(Ranks, ClosedForm, ::testing::Values(1, 2, 3, 4, 5, 7, 8, 16));

}  // namespace
}  // namespace seqccl::test
