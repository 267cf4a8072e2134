// sequence_movement_plan_test.cpp - plans of SequenceGather, DimensionSwitch, HaloExchange: proven, of closed-form cost, right.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "collectives/sequence_movement.hpp"
#include "seqccl/check.hpp"
#include "seqccl/cost.hpp"
#include "support/ranks.hpp"

namespace seqccl::test {
namespace {

const std::vector<int> plan_ranks_of = up_to_if_sanitized(16, {1, 2, 3, 4, 5, 7, 8, 16, 64});

void expect_sound(const std::vector<Schedule>& schedules) {
  ASSERT_TRUE(check_matching(schedules).ok()) << check_matching(schedules).text();
  ASSERT_TRUE(check_deadlock_free(schedules).ok()) << check_deadlock_free(schedules).text();
  for (const Schedule& schedule : schedules) ASSERT_TRUE(check_races(schedule).ok()) << check_races(schedule).text();
}
/// And every row of an output comes from a row of an input.
void expect_proven(const std::vector<Schedule>& schedules, const Partition& partition) {
  const Claim claim{.partition = &partition, .q_heads = 1, .kv_heads = 1};
  const CheckReport report = check(schedules, claim);
  ASSERT_TRUE(report.ok()) << schedules.front().name << ": " << report.text();
}

std::uint64_t bytes_of(std::int64_t elements, DType dtype) { return static_cast<std::uint64_t>(elements) * size_bytes(dtype); }

// --- SequenceGather -----------------------------------------------------------------------------------------------------

std::int64_t tokens_elsewhere(const Partition& partition, Rank rank) { return partition.num_tokens() - partition.tokens_on(rank); }

TEST(SequenceGatherPlan, EveryPartitionIsProvenAndCostsItsClosedForm) {
  int number = 0;
  for (const int num_ranks : plan_ranks_of)
    for (const std::int64_t num_tokens : {std::int64_t{4} * num_ranks, std::int64_t{53}, std::int64_t{2}, std::int64_t{0}})
      for (const Partition& partition : all_partitions(num_tokens, num_ranks))
        for (int flags = 0; flags < 4; ++flags) {
          ++number;
          const SequenceGatherSpec spec{
              .batch = 1 + number % 2, .heads = 2, .head_dim = 3, .dtype = number % 3 == 0 ? bf16 : f32, .partition = partition};
          const RecordOptions options{.inputs_sendable = (flags & 1) != 0, .native_collectives = (flags & 2) != 0};
          SCOPED_TRACE(spec.describe());
          validate(spec, num_ranks);
          const auto gathers = record_all(collectives::sequence_gather, spec, options);
          const auto reduces = record_all(collectives::sequence_reduce_scatter, spec, options);
          expect_proven(gathers, partition);
          expect_proven(reduces, partition);
          if (HasFatalFailure()) return;
          const std::int64_t row = spec.batch * spec.heads * spec.head_dim;
          int num_holders = 0;
          for (Rank rank = 0; rank < num_ranks; ++rank) num_holders += partition.tokens_on(rank) != 0 ? 1 : 0;
          for (Rank rank = 0; rank < num_ranks; ++rank) {
            const std::int64_t T = partition.tokens_on(rank);
            const Cost gather = cost_of(gathers[rank]), reduce = cost_of(reduces[rank]);
            ASSERT_EQ(gather.total_received_bytes, bytes_of(tokens_elsewhere(partition, rank) * row, spec.dtype));
            ASSERT_EQ(gather.total_received_messages, static_cast<std::uint64_t>(num_holders - (T != 0 ? 1 : 0)));
            ASSERT_EQ(reduce.total_received_bytes, bytes_of((num_ranks - 1) * T * row, spec.dtype));
            ASSERT_EQ(reduce.total_sent_bytes, bytes_of(tokens_elsewhere(partition, rank) * row, spec.dtype));
            ASSERT_EQ(reduce.total_received_messages, T == 0 ? 0u : static_cast<std::uint64_t>(num_ranks - 1));
            ASSERT_LE(gather.num_exchanges, 1u);
            ASSERT_LE(reduce.num_exchanges, 1u);
          }
        }
}

// 64-byte slots, so that workspace is exactly the sum of the buffers.
TEST(SequenceGatherPlan, WorkspaceIsWhatComesInAndWhatIsPacked) {
  for (const int num_ranks : {2, 4, 8}) {
    const std::int64_t T = 8, N = T * num_ranks;
    SequenceGatherSpec spec{.heads = 2, .head_dim = 8, .partition = Partition::contiguous(N, num_ranks)};
    const std::size_t row = bytes_of(16, f32);
    const auto workspace = [&](auto record, const RecordOptions& options) { return record(spec, 1, options).workspace_bytes; };
    EXPECT_EQ(workspace(collectives::sequence_gather, {}), (N - T) * row);
    EXPECT_EQ(workspace(collectives::sequence_gather, {.inputs_sendable = false}), N * row);
    EXPECT_EQ(workspace(collectives::sequence_gather, {.native_collectives = true}), N * row);
    EXPECT_EQ(workspace(collectives::sequence_reduce_scatter, {}), (num_ranks - 1) * T * row);
    EXPECT_EQ(workspace(collectives::sequence_reduce_scatter, {.inputs_sendable = false}), 2 * (N - T) * row);
    EXPECT_EQ(workspace(collectives::sequence_reduce_scatter, {.native_collectives = true}), N * row);
    spec.partition = Partition::zigzag(N, num_ranks);
    EXPECT_EQ(workspace(collectives::sequence_reduce_scatter, {}), 2 * (N - T) * row);
  }
}

// Hints stand where all ranks hold as much, on all ranks, with everybody's rows in rank order and a hole for this rank's own.
TEST(SequenceGatherPlan, NativeHintsWhereTheExchangeIsACollective) {
  const std::int64_t T = 6;
  for (const int num_ranks : {2, 4, 7})
    for (const Partition& partition : {Partition::contiguous(T * num_ranks, num_ranks), Partition::zigzag(2 * T * num_ranks, num_ranks),
                                       Partition::striped(T * num_ranks, num_ranks), Partition::contiguous(T * num_ranks + 1, num_ranks)})
      for (const bool sendable : {true, false}) {
        SCOPED_TRACE(partition.describe());
        const SequenceGatherSpec spec{.heads = 2, .head_dim = 4, .partition = partition};
        const bool even = partition.num_tokens() % num_ranks == 0;
        for (Rank rank = 0; rank < num_ranks; ++rank) {
          const RecordOptions options{.inputs_sendable = sendable, .native_collectives = true};
          const std::int64_t own = partition.tokens_on(rank);
          const Schedule gather = collectives::sequence_gather(spec, rank, options);
          const Schedule reduce = collectives::sequence_reduce_scatter(spec, rank, options);
          EXPECT_EQ(gather.exchanges.at(0).native, even ? Native::all_gather : Native::none);
          EXPECT_EQ(reduce.exchanges.at(0).native, even ? Native::all_to_all : Native::none);
          EXPECT_EQ(collectives::sequence_gather(spec, rank).exchanges.at(0).native, Native::none);
          if (!even) continue;
          const auto expect_rank_order = [&](const Schedule& schedule, std::span<const Transfer> transfers) {
            for (const Transfer& transfer : transfers) {
              EXPECT_EQ(transfer.block.slot, transfers.front().block.slot);
              EXPECT_EQ(transfer.block.token_first, transfer.peer * own);
              EXPECT_EQ(schedule.slots[transfer.block.slot].tokens, num_ranks * own);
            }
          };
          for (const Transfer& send : gather.sends(gather.exchanges[0])) EXPECT_EQ(send.block.num_tokens, own);
          expect_rank_order(gather, gather.receives(gather.exchanges[0]));
          expect_rank_order(reduce, reduce.sends(reduce.exchanges[0]));
          expect_rank_order(reduce, reduce.receives(reduce.exchanges[0]));
        }
      }
}

// --- DimensionSwitch ----------------------------------------------------------------------------------------------------

TEST(DimensionSwitchPlan, EveryShapeIsProvenAndCostsItsClosedForm) {
  for (const int num_ranks : plan_ranks_of)
    for (const DimensionSwitchSpec& there : switches(num_ranks))
      for (const DimensionSwitchSpec& spec : {there, there.transposed()})
        for (const bool sendable : {true, false}) {
          SCOPED_TRACE(spec.describe() + std::to_string(num_ranks) + " ranks");
          validate(spec, num_ranks);
          const auto schedules = record_switch(spec, num_ranks, {.inputs_sendable = sendable});
          const Partition any = Partition::contiguous(num_ranks, num_ranks);
          expect_proven(schedules, any);
          if (HasFatalFailure()) return;
          std::int64_t whole = 1, sent = 0;
          for (const std::int64_t extent : spec.shape) whole *= extent;
          const std::int64_t n_from = spec.shape[static_cast<std::size_t>(spec.from)], n_to = spec.shape[static_cast<std::size_t>(spec.to)];
          const auto count = [&](int axis, Rank rank) { return collectives::dimension_share(spec, axis, rank, num_ranks).count; };
          for (Rank rank = 0; rank < num_ranks; ++rank) {
            const Cost cost = cost_of(schedules[rank]);
            const std::int64_t rest = whole / n_from / n_to;
            ASSERT_EQ(cost.total_received_bytes, bytes_of((n_from - count(spec.from, rank)) * count(spec.to, rank) * rest, spec.dtype));
            ASSERT_LE(cost.num_exchanges, 1u);
            for (Rank peer = 0; peer < num_ranks; ++peer) {
              const bool meet = peer != rank && count(spec.from, peer) != 0 && count(spec.to, rank) != 0;
              ASSERT_EQ(cost.received_messages[peer], meet ? 1u : 0u);
            }
            sent += static_cast<std::int64_t>(cost.total_sent_bytes);
          }
          if (n_from % num_ranks == 0 && n_to % num_ranks == 0) {
            ASSERT_EQ(static_cast<std::uint64_t>(sent), bytes_of(whole / num_ranks * (num_ranks - 1), spec.dtype));
          }
        }
}

// E / P elements are a multiple of 64 bytes here, in every piece.
TEST(DimensionSwitchPlan, WorkspaceIsPackedAndArrived) {
  for (const int num_ranks : {2, 4, 8}) {
    const std::int64_t P = num_ranks;
    DimensionSwitchSpec spec{.shape = {2 * P, 3, 2 * P, 16}, .from = 0, .to = 2};
    const std::uint64_t share = bytes_of(2 * P * 3 * 2 * P * 16 / P, f32);
    const auto workspace = [&](const DimensionSwitchSpec& which) {
      return collectives::dimension_switch(which, 1, num_ranks).workspace_bytes;
    };
    EXPECT_EQ(workspace(spec), share + share / static_cast<std::uint64_t>(P) * static_cast<std::uint64_t>(P - 1));
    EXPECT_EQ(workspace(spec.transposed()), share);
    spec = {.shape = {3, 2 * P, 2 * P, 16}, .from = 2, .to = 1};
    EXPECT_EQ(workspace(spec), 2 * share);
  }
}

// --- HaloExchange -------------------------------------------------------------------------------------------------------

TEST(HaloExchangePlan, EveryPartitionIsSoundAndCostsItsClosedForm) {
  for (const int num_ranks : plan_ranks_of)
    for (const std::int64_t N : {std::int64_t{4} * num_ranks, std::int64_t{53}, std::int64_t{2}, std::int64_t{0}})
      for (const HaloExchangeSpec& spec : halos(num_ranks, N))
        for (const bool sendable : {true, false}) {
          if (num_ranks == 64 && sendable) continue;
          SCOPED_TRACE(spec.describe());
          validate(spec, num_ranks);
          const auto exchanges = record_all(collectives::halo_exchange, spec, {.inputs_sendable = sendable});
          const auto reduces = record_all(collectives::halo_reduce, spec, {.inputs_sendable = sendable});
          expect_proven(exchanges, spec.partition);
          expect_sound(reduces);
          if (HasFatalFailure()) return;
          std::vector<std::vector<std::int64_t>> rows(num_ranks, std::vector<std::int64_t>(num_ranks, 0));  // [reader][owner]
          for (Rank rank = 0; rank < num_ranks; ++rank)
            for (const std::int64_t token : halo_tokens(spec, rank))
              if (token >= 0) ++rows[rank][spec.partition.place_of(token).rank];
          const std::int64_t row = spec.batch * spec.heads * spec.head_dim;
          for (Rank rank = 0; rank < num_ranks; ++rank) {
            const Cost there = cost_of(exchanges[rank]), back = cost_of(reduces[rank]);
            ASSERT_LE(there.num_exchanges, 1u);
            ASSERT_LE(back.num_exchanges, 1u);
            for (Rank peer = 0; peer < num_ranks; ++peer) {
              const std::int64_t mine = peer == rank ? 0 : rows[rank][peer], his = peer == rank ? 0 : rows[peer][rank];
              ASSERT_EQ(there.received_bytes[peer], bytes_of(mine * row, spec.dtype));
              ASSERT_EQ(there.received_messages[peer], mine != 0 ? 1u : 0u);
              ASSERT_EQ(back.received_bytes[peer], bytes_of(his * row, f32));
              ASSERT_EQ(back.received_messages[peer], his != 0 ? 1u : 0u);
            }
          }
        }
}

TEST(HaloExchangePlan, RowsOfContiguousAndZigzagShards) {
  for (const int num_ranks : plan_ranks_of) {
    if (num_ranks == 1) continue;
    const std::int64_t w = 3, N = 8 * num_ranks;
    for (const bool zigzag : {false, true}) {
      const HaloExchangeSpec spec{.batch = 2,
                                  .heads = 4,
                                  .head_dim = 5,
                                  .dtype = bf16,
                                  .partition = zigzag ? Partition::zigzag(N, num_ranks) : Partition::contiguous(N, num_ranks),
                                  .width = w};
      for (Rank rank = 0; rank < num_ranks; ++rank) {
        // Zigzag: the first chunk of rank 0 has nothing before it, the two of rank P - 1 are one segment.
        const std::int64_t halos = zigzag ? (rank > 0 ? 1 : 0) + (rank + 1 < num_ranks ? 1 : 0) : (rank > 0 ? 1 : 0);
        EXPECT_EQ(cost_of(collectives::halo_exchange(spec, rank)).total_received_bytes, bytes_of(halos * 2 * w * 4 * 5, bf16));
        const std::int64_t given = zigzag ? (rank > 0 ? 1 : 0) + (rank + 1 < num_ranks ? 1 : 0) : (rank + 1 < num_ranks ? 1 : 0);
        EXPECT_EQ(cost_of(collectives::halo_reduce(spec, rank)).total_received_bytes, bytes_of(given * 2 * w * 4 * 5, f32));
      }
    }
  }
}

TEST(HaloExchangePlan, WorkspaceIsWhatComesIn) {
  const HaloExchangeSpec spec{.heads = 2, .head_dim = 16, .dtype = bf16, .partition = Partition::contiguous(40, 4), .width = 3};
  for (Rank rank = 0; rank < 4; ++rank) {
    EXPECT_EQ(collectives::halo_exchange(spec, rank).workspace_bytes, rank > 0 ? bytes_of(3 * 32, bf16) : 0u);
    EXPECT_EQ(collectives::halo_reduce(spec, rank).workspace_bytes, rank < 3 ? bytes_of(3 * 32, f32) : 0u);
  }
}

// --- Numbers, in an adversarial order of events ----------------------------------------------------------------------------

TEST(SequenceGatherPlan, NumbersInAnyOrderOfEvents) {
  for (const int num_ranks : {3, 8, 16}) expect_gathered_numbers(num_ranks);
}
TEST(DimensionSwitchPlan, NumbersInAnyOrderOfEvents) {
  for (const int num_ranks : {3, 8, 16}) expect_switched_numbers(num_ranks);
}
TEST(HaloExchangePlan, NumbersInAnyOrderOfEvents) {
  for (const int num_ranks : {3, 8, 16}) expect_halo_numbers(num_ranks);
}

}  // namespace
}  // namespace seqccl::test
