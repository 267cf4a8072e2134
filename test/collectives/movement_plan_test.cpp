// movement_plan_test.cpp - schedules of the movement primitives: proven, and as many bytes as the closed forms say.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "collectives/linear_plans.hpp"
#include "seqccl/check.hpp"
#include "seqccl/cost.hpp"
#include "support/ranks.hpp"

namespace seqccl::test {
namespace {

std::uint64_t received(const Schedule& schedule) { return cost_of(schedule).total_received_bytes; }

HeadSwapSpec swap_spec(const Partition& partition, std::int64_t batch = 1) {
  return {.batch = batch, .heads = 6, .head_dim = 8, .dtype = bf16, .partition = partition};
}
KvSpec kv_spec(const Partition& partition, const Mask& mask, std::int64_t batch = 1) {
  return {.batch = batch, .kv_heads = 2, .head_dim = 8, .v_head_dim = 4, .dtype = bf16, .partition = partition, .mask = mask};
}

const RingStep no_step = [](const RingBlock&) {};

std::vector<Schedule> record_ring(const RingSpec& spec, const RecordOptions& options = {}) {
  std::vector<Schedule> schedules;
  for (Rank rank = 0; rank < spec.partition.num_ranks(); ++rank) {
    const std::int64_t T = spec.partition.tokens_on(rank);
    const std::vector<Slot> states{{.dtype = f32, .batch = spec.batch, .tokens = T, .heads = 4, .dim = 4},
                                   {.dtype = DType::f64, .batch = 1, .tokens = 1, .heads = 1, .dim = 1}};
    schedules.push_back(collectives::ring_blocks(spec, rank, options, no_step, states));
  }
  return schedules;
}

void expect_proven(const std::vector<Schedule>& schedules, const Partition& partition, const Mask& mask, std::int64_t batch,
                   std::int64_t heads) {
  const Claim claim{.partition = &partition, .mask = &mask, .batch = batch, .q_heads = heads, .kv_heads = heads};
  const CheckReport report = check(schedules, claim);
  ASSERT_TRUE(report.ok()) << schedules.front().name << ": " << report.text();
}

TEST(MovementPlan, EveryPartitionAndMaskIsProven) {
  for (const int num_ranks : ranks_of)
    for (const std::int64_t num_tokens : {std::int64_t{4} * num_ranks, std::int64_t{53}, std::int64_t{2}, std::int64_t{0}})
      for (const Partition& partition : all_partitions(num_tokens, num_ranks))
        for (const std::int64_t batch : {1, 2})
          for (const bool sendable : {true, false}) {
            if (batch == 2 && sendable) continue;  // only a batch of 1 is sent in place
            const RecordOptions options{.inputs_sendable = sendable};
            SCOPED_TRACE(partition.describe());
            const HeadSwapSpec swap = swap_spec(partition, batch);
            expect_proven(record_all(collectives::head_swap_to_heads, swap, options), partition, Mask::full(), batch, swap.heads);
            expect_proven(record_all(collectives::head_swap_to_tokens, swap, options), partition, Mask::full(), batch, swap.heads);
            for (const Mask& mask : num_tokens >= 8 ? all_masks(num_tokens) : std::vector{Mask::full(), Mask::causal()}) {
              const KvSpec keys = kv_spec(partition, mask, batch);
              expect_proven(record_all(collectives::kv_gather, keys, options), partition, mask, batch, keys.kv_heads);
              expect_proven(record_all(collectives::kv_reduce, keys, options), partition, mask, batch, keys.kv_heads);
              expect_proven(record_ring(keys, options), partition, mask, batch, keys.kv_heads);
            }
            if (HasFatalFailure()) return;
          }
}

TEST(MovementPlan, EveryScanIsProven) {
  int number = 0;
  for (const int num_ranks : ranks_of)
    for (const std::int64_t num_tokens : {std::int64_t{4} * num_ranks, std::int64_t{53}, std::int64_t{2}, std::int64_t{0}})
      for (const Partition& partition : all_partitions(num_tokens, num_ranks)) {
        if (!partition.has_contiguous_segments()) continue;
        for (const LinearKind decay :
             {LinearKind::basic, LinearKind::constant_decay, LinearKind::scalar_gate, LinearKind::vector_gate, LinearKind::gated_delta})
          for (const Scan scan : all_scans)
            for (int flags = ++number % 3; flags < 8; flags += 3) {
              const StateScanSpec spec{.batch = 1 + flags % 2,
                                       .heads = 3,
                                       .key_dim = 4,
                                       .value_dim = 2,
                                       .decay = decay,
                                       .partition = partition,
                                       .scan = scan,
                                       .reverse = (flags & 2) != 0,
                                       .initial = (flags & 4) != 0,
                                       .column_blocks = 2,
                                       .ranks_per_node = num_ranks < 3 ? 0 : 2};
              SCOPED_TRACE(spec.describe());
              expect_proven(record_all(collectives::state_scan, spec, {.inputs_sendable = flags < 4}), partition, Mask::full(), spec.batch,
                            3);
              if (HasFatalFailure()) return;
            }
      }
}

TEST(MovementPlan, HeadSwapReceivesOthersTokensOfMyHeadsAndBack) {
  for (const int num_ranks : ranks_of)
    for (const Partition& partition : all_partitions(41, num_ranks)) {
      const HeadSwapSpec spec = swap_spec(partition, 2);
      for (Rank rank = 0; rank < num_ranks; ++rank) {
        const std::int64_t T = partition.tokens_on(rank), mine = collectives::head_swap_heads(spec, rank).count, element = 2 * 8 * 2;
        EXPECT_EQ(received(collectives::head_swap_to_heads(spec, rank)), static_cast<std::uint64_t>((41 - T) * mine * element));
        EXPECT_EQ(received(collectives::head_swap_to_tokens(spec, rank)), static_cast<std::uint64_t>(T * (6 - mine) * element));
      }
    }
}

TEST(MovementPlan, GatherAndRingReceiveWhatTheMethodsReceive) {
  for (const int num_ranks : ranks_of)
    for (const Partition& partition : all_partitions(4 * num_ranks, num_ranks))
      for (const Mask& mask : all_masks(4 * num_ranks)) {
        const KvSpec keys = kv_spec(partition, mask);
        AttentionSpec layer = small_spec(partition, mask, 2, 2);
        layer.v_head_dim = 4;
        layer.dtype = bf16;
        std::uint64_t gathered = 0, reduced = 0;
        for (Rank rank = 0; rank < num_ranks; ++rank) {
          const Schedule gather = collectives::kv_gather(keys, rank), method = collectives::kv_all_gather_forward(layer, rank);
          EXPECT_EQ(cost_of(gather).received_bytes, cost_of(method).received_bytes);
          gathered += received(gather);
          reduced += received(collectives::kv_reduce(keys, rank));
          const std::vector<Piece> pieces = collectives::kv_gather_pieces(keys, rank);
          const std::int64_t rows = pieces.empty() ? 0 : pieces.back().row + pieces.back().tokens.count;
          EXPECT_EQ(received(gather), static_cast<std::uint64_t>((rows - partition.tokens_on(rank)) * 2 * (8 + 4) * 2));
          EXPECT_EQ(cost_of(record_ring(keys)[rank]).received_bytes, cost_of(collectives::ring_forward(layer, rank)).received_bytes);
        }
        EXPECT_EQ(reduced, 2 * gathered);  // f32 for bf16
      }
}

TEST(MovementPlan, ScanReceivesWhatLinearAttentionReceives) {
  for (const int num_ranks : ranks_of)
    for (const Partition& partition : {Partition::contiguous(4 * num_ranks, num_ranks), Partition::zigzag(4 * num_ranks, num_ranks)})
      for (const LinearKind decay : all_kinds)
        for (const Scan scan : all_scans) {
          LinearSpec layer{.heads = 3, .head_dim = 4, .v_head_dim = 6, .partition = partition, .kind = decay, .scan = scan};
          StateScanSpec spec{.heads = 3, .key_dim = 4, .value_dim = 6, .decay = decay, .partition = partition, .scan = scan};
          for (Rank rank = 0; rank < num_ranks; ++rank) {
            spec.reverse = false;
            EXPECT_EQ(received(collectives::state_scan(spec, rank)), received(collectives::linear_forward(layer, rank)));
            spec.reverse = true;
            EXPECT_EQ(received(collectives::state_scan(spec, rank)), received(collectives::linear_backward(layer, rank)));
          }
        }
}

// The step's blocks are operands: the next block may come in while the step reads this one, and not into it.
TEST(MovementPlan, RingOverlapsStepsWithHopsAndOrdersStates) {
  const KvSpec keys = kv_spec(Partition::contiguous(32, 4), Mask::full());
  const std::vector<Schedule> schedules = record_ring(keys);
  for (const Schedule& schedule : schedules) {
    EXPECT_FALSE(schedule.is_sequential);
    ASSERT_EQ(schedule.exchanges.size(), 3u);
    ASSERT_EQ(schedule.functions.size(), 4u);
    for (const Op& op : schedule.ops)
      if (const auto* custom = std::get_if<Custom>(&op)) {
        EXPECT_TRUE(custom->in[0].present() && custom->in[1].present() && custom->inout[0].present() && custom->inout[1].present());
      }
  }
}

}  // namespace
}  // namespace seqccl::test
