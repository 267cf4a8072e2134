// receivable_plan_test.cpp - outputs that peers write in place: proven, the same messages and numbers, nothing copied twice.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "collectives/sequence_movement.hpp"
#include "seqccl/check.hpp"
#include "seqccl/cost.hpp"

namespace seqccl::test {
namespace {

constexpr int receivable_ranks[] = {1, 2, 3, 4, 5, 7, 8, 16};

enum class Who { nobody, everybody, odd_ranks };

bool has(Who who, Rank rank) { return who == Who::everybody || (who == Who::odd_ranks && rank % 2 == 1); }

template <class Record>
std::vector<Schedule> record_for(int num_ranks, Who who, Record&& record) {
  std::vector<Schedule> schedules;
  for (Rank rank = 0; rank < num_ranks; ++rank)
    schedules.push_back(record(rank, RecordOptions{.inputs_sendable = true, .outputs_receivable = has(who, rank)}));
  return schedules;
}

int num_landing(const Schedule& schedule) {
  int count = 0;
  for (const Exchange& exchange : schedule.exchanges)
    for (const Transfer& receive : schedule.receives(exchange))
      count += schedule.slots[receive.block.slot].kind == SlotKind::output ? 1 : 0;
  return count;
}

/// Ranks decide by themselves where their output lies, so every mixture must match, be free of races and give the same bits.
template <class Record>
void expect_same_in_place(int num_ranks, Record&& record) {
  const auto fill = [](Rank rank, std::size_t number, HostTensor& x) {
    for (std::int64_t i = 0; number == 0 && i < x.size(); ++i) x.set(i, static_cast<double>(1 + i + 4096 * rank));
  };
  const auto plain = record_for(num_ranks, Who::nobody, record);
  const PlanTensors want = run_plans(plain, 1, fill);
  for (const Who who : {Who::everybody, Who::odd_ranks}) {
    const auto schedules = record_for(num_ranks, who, record);
    ASSERT_TRUE(check_matching(schedules).ok()) << check_matching(schedules).text();
    ASSERT_TRUE(check_deadlock_free(schedules).ok()) << check_deadlock_free(schedules).text();
    const PlanTensors got = run_plans(schedules, 2, fill);
    for (Rank rank = 0; rank < num_ranks; ++rank) {
      ASSERT_TRUE(check_races(schedules[rank]).ok()) << check_races(schedules[rank]).text();
      ASSERT_EQ(cost_of(schedules[rank]).received_bytes, cost_of(plain[rank]).received_bytes);
      ASSERT_LE(schedules[rank].workspace_bytes, plain[rank].workspace_bytes);
      ASSERT_EQ(num_landing(plain[rank]), 0);
      if (!has(who, rank)) {
        EXPECT_EQ(num_landing(schedules[rank]), 0);
      }
      for (std::size_t i = 0; i < want[rank].size(); ++i) ASSERT_EQ(got[rank][i].bytes, want[rank][i].bytes) << "rank " << rank;
    }
  }
}

TEST(ReceivablePlan, SequenceGather) {
  for (const int num_ranks : receivable_ranks)
    for (const std::int64_t N : {std::int64_t{4} * num_ranks, std::int64_t{29}})
      for (const Partition& partition : all_partitions(N, num_ranks)) {
        SCOPED_TRACE(partition.describe());
        const SequenceGatherSpec spec{.heads = 2, .head_dim = 3, .partition = partition};
        expect_same_in_place(num_ranks, [&](Rank rank, const RecordOptions& o) { return collectives::sequence_gather(spec, rank, o); });
        if (HasFatalFailure()) return;
      }
}

TEST(ReceivablePlan, HeadSwap) {
  for (const int num_ranks : receivable_ranks)
    for (const std::int64_t N : {std::int64_t{4} * num_ranks, std::int64_t{29}})
      for (const Partition& partition : all_partitions(N, num_ranks)) {
        SCOPED_TRACE(partition.describe());
        const HeadSwapSpec spec{.heads = 6, .head_dim = 3, .partition = partition};
        expect_same_in_place(num_ranks, [&](Rank rank, const RecordOptions& o) { return collectives::head_swap_to_heads(spec, rank, o); });
        if (HasFatalFailure()) return;
      }
}

TEST(ReceivablePlan, DimensionSwitch) {
  for (const int num_ranks : receivable_ranks)
    for (const DimensionSwitchSpec& there : switches(num_ranks))
      for (DimensionSwitchSpec spec : {there, there.transposed()}) {
        spec.dtype = f32;
        SCOPED_TRACE(spec.describe());
        expect_same_in_place(num_ranks,
                             [&](Rank rank, const RecordOptions& o) { return collectives::dimension_switch(spec, rank, num_ranks, o); });
        if (HasFatalFailure()) return;
      }
}

// Where the layout allows it, all that comes lands where it stays: no workspace, and no copy but that of the rank's own part.
TEST(ReceivablePlan, NothingIsCopiedTwice) {
  for (const int num_ranks : {2, 4, 8}) {
    const Partition partition = Partition::contiguous(16 * num_ranks, num_ranks);
    const RecordOptions options{.inputs_sendable = true, .outputs_receivable = true};
    const Schedule gather = collectives::sequence_gather({.heads = 2, .head_dim = 8, .partition = partition}, 1, options);
    EXPECT_EQ(gather.workspace_bytes, 0u);
    EXPECT_EQ(gather.ops.size(), 1u);
    EXPECT_EQ(num_landing(gather), num_ranks - 1);
    const HeadSwapSpec swap{.heads = 2 * num_ranks, .head_dim = 8, .partition = partition};
    EXPECT_EQ(num_landing(collectives::head_swap_to_heads(swap, 1, options)), num_ranks - 1);
    const DimensionSwitchSpec dimensions{.shape = {2 * num_ranks, 3, 2 * num_ranks, 16}, .from = 0, .to = 2};
    EXPECT_EQ(num_landing(collectives::dimension_switch(dimensions, 1, num_ranks, options)), num_ranks - 1);
    // Tokens of a rank that are two runs of the sequence come in one message, and cannot. The last rank's runs meet in the middle.
    const Partition zigzag = Partition::zigzag(16 * num_ranks, num_ranks);
    EXPECT_EQ(num_landing(collectives::sequence_gather({.heads = 2, .head_dim = 8, .partition = zigzag}, 1, options)),
              num_ranks == 2 ? 0 : 1);
  }
}

}  // namespace
}  // namespace seqccl::test
