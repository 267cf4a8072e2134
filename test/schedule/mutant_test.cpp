// mutant_test.cpp - breaks good schedules in the ways that people do; the check that ought to notice, notices.
// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "recorded.hpp"

namespace seqccl::test {
namespace {

constexpr int num_ranks = 4;

Recorded ring(const Mask& mask = Mask::causal(), bool sinks = false) {
  AttentionSpec spec = small_spec(Partition::zigzag(64, num_ranks), mask);
  spec.sinks = sinks;
  return recorded(collectives::ring_forward, spec, {.inputs_sendable = true});
}
Recorded ring_backward() { return recorded(collectives::ring_backward, small_spec(Partition::zigzag(64, num_ranks), Mask::causal())); }
Recorded token_ring() { return recorded(collectives::token_ring_forward, small_spec(Partition::zigzag(64, num_ranks), Mask::causal())); }
Recorded head_swap() { return recorded(collectives::head_swap_forward, small_spec(Partition::zigzag(64, num_ranks), Mask::causal())); }
Recorded linear(LinearKind kind, Scan scan, RecordLinear record = collectives::linear_forward) {
  LinearSpec spec;
  spec.heads = 2;
  spec.head_dim = 4;
  spec.partition = Partition::zigzag(64, num_ranks);
  spec.kind = kind;
  spec.scan = scan;
  spec.state_in = spec.state_out = true;
  return recorded(record, spec);
}

/// An op that does nothing, so that clocks keep their meaning.
const Op nothing = Zero{};

// --- Matching -----------------------------------------------------------------------------------------------------------

TEST(Matching, SwappedPeer) {
  Recorded all = ring();
  for (int i : {0, 1}) all.send(1, 0, i).peer = 2;
  EXPECT_TRUE(says(all.matching(), "rank 1 sends 4 messages to rank 0, which receives 6"));
  EXPECT_TRUE(says(all.matching(), "rank 1 sends 2 messages to rank 2, which receives 0"));
}

TEST(Matching, ExchangeDroppedOnOneSide) {
  Recorded all = ring();
  all.exchange(2, 1).num_sends = all.exchange(2, 1).num_receives = 0;
  EXPECT_TRUE(says(all.matching(), "rank 2 sends 4 messages to rank 1, which receives 6"));
  EXPECT_TRUE(says(all.matching(), "rank 3 sends 6 messages to rank 2, which receives 4"));
}

TEST(Matching, UnequalBytes) {
  Recorded all = ring(Mask::full());
  all.receive(0, 1, 0).block.num_tokens -= 1;
  EXPECT_TRUE(says(all.matching(), "message 3 from rank 1 to rank 0 on lane comm: 1024 bytes sent"));
}

TEST(Matching, OtherLane) {
  Recorded all = ring();
  all.step(3, Lane::comm, 2).lane = Lane::comm2;
  EXPECT_TRUE(says(all.matching(), "lane comm2: rank 3 sends 2 messages to rank 2, which receives 0"));
}

TEST(Matching, OtherOperation) {
  Recorded all = ring();
  all.ranks[2].fingerprint ^= 1;
  EXPECT_TRUE(says(all.matching(), "rank 2 records another operation"));
}

TEST(Matching, IndicesThatPointNowhere) {
  const auto is_malformed = [](const Recorded& all) {
    return says(all.matching(), "malformed") && says(all.deadlock(), "malformed") && says(all.races(), "malformed") &&
           says(all.coverage(), "malformed");
  };
  Recorded all = ring();
  all.op<Attend>(1).q.slot = 99;
  EXPECT_TRUE(is_malformed(all));
  all = ring();
  all.op<Attend>(1).q.token_first = 1;
  EXPECT_TRUE(is_malformed(all));
  all = ring();
  all.op<Attend>(1).slices.count = 1000;
  EXPECT_TRUE(is_malformed(all));
  all = ring();
  all.send(0, 0, 0).peer = 0;
  EXPECT_TRUE(is_malformed(all));
  all = ring();
  all.step(3, Lane::comm, 0).index = 50;
  EXPECT_TRUE(is_malformed(all));
}

// --- Deadlock -----------------------------------------------------------------------------------------------------------

Schedule ping(Rank rank, bool send_first, Lane first = Lane::comm, Lane second = Lane::comm) {
  Recorder plan("ping", rank, 2);
  const Block mine = plan.input(Tensor::user, f32, {1, 4, 1, 2}, true), theirs = plan.scratch(f32, {1, 4, 1, 2});
  for (const bool sends : {send_first, !send_first})
    plan.exchange(sends ? std::vector<Transfer>{{1 - rank, mine}} : std::vector<Transfer>{},
                  sends ? std::vector<Transfer>{} : std::vector<Transfer>{{1 - rank, theirs}}, sends == send_first ? first : second);
  return std::move(plan).finish("ping");
}

TEST(Deadlock, BothSendFirst) {
  const std::vector<Schedule> good{ping(0, true), ping(1, false)}, bad{ping(0, true), ping(1, true)};
  EXPECT_TRUE(passes(check_deadlock_free(good)));
  EXPECT_TRUE(passes(check_matching(bad)));
  EXPECT_TRUE(says(check_deadlock_free(bad), "deadlock, a cycle of"));
  EXPECT_TRUE(says(check_deadlock_free(bad), "rank 1, comm step 1 (exchange, to 0)"));
}

// Two lanes: what waits on one lane for the other must come in the same order on both ranks.
TEST(Deadlock, AcrossLanes) {
  std::vector<Schedule> all{ping(0, true, Lane::comm, Lane::comm2), ping(1, true, Lane::comm2, Lane::comm)};
  EXPECT_TRUE(passes(check_matching(all)));
  EXPECT_TRUE(passes(check_deadlock_free(all)));  // lanes are independent
  all[0].steps[1].after[static_cast<int>(Lane::comm)] = 1;
  EXPECT_TRUE(passes(check_deadlock_free(all)));  // one rank may wait
  all[1].steps[1].after[static_cast<int>(Lane::comm2)] = 1;
  EXPECT_TRUE(says(check_deadlock_free(all), "rank 0, comm2 step 1"));
}

TEST(Deadlock, ReversedExchangesOfAChain) {
  Recorded all = linear(LinearKind::basic, Scan::chain);
  auto& steps = all.ranks[1].steps;
  std::vector<std::size_t> places;
  for (std::size_t i = 0; i < steps.size(); ++i)
    if (steps[i].lane == Lane::comm) places.push_back(i);
  ASSERT_EQ(places.size(), 4u);  // two runs: takes, passes on, takes, passes on
  std::swap(steps[places[0]].index, steps[places[1]].index);
  std::swap(steps[places[0]].after, steps[places[1]].after);
  EXPECT_TRUE(passes(all.matching()));
  EXPECT_TRUE(says(all.deadlock(), "deadlock, a cycle"));
  EXPECT_TRUE(says(all.coverage(), "cannot be followed"));
}

TEST(Deadlock, ClockBeyondTheLane) {
  Recorded all = ring();
  all.step(2, Lane::compute, 1).after[static_cast<int>(Lane::comm)] = 9;
  EXPECT_TRUE(says(all.deadlock(), "waits for comm step 9, of 3"));
  EXPECT_TRUE(says(all.races(), "its clock is never met"));
}

// --- Races --------------------------------------------------------------------------------------------------------------

TEST(Races, ClockLowered) {
  Recorded all = ring();
  --all.step(1, Lane::compute, 2).after[static_cast<int>(Lane::comm)];  // attends before the block is there
  EXPECT_TRUE(says(all.races(), "race with"));
  EXPECT_TRUE(passes(all.matching()));
  all = ring();
  --all.step(1, Lane::comm, 2).after[static_cast<int>(Lane::compute)];  // receives into what is still read
  EXPECT_TRUE(says(all.races(), "race with"));
}

TEST(Races, EveryClockOfTheRingIsNeeded) {
  const Recorded good = ring();
  int num_lowered = 0;
  for (Rank rank = 0; rank < num_ranks; ++rank) {
    for (std::size_t i = 0; i < good.ranks[rank].steps.size(); ++i) {
      for (int lane = 0; lane < num_lanes; ++lane) {
        if (good.ranks[rank].steps[i].after[lane] == 0) continue;
        Recorded all = good;
        --all.ranks[rank].steps[i].after[lane];
        EXPECT_TRUE(says(all.races(), "race with")) << rank << " " << i;
        ++num_lowered;
      }
    }
  }
  EXPECT_GE(num_lowered, 4 * num_ranks);
}

TEST(Races, ReceiveIntoACallersTensor) {
  Recorded all = ring(Mask::full());
  all.receive(0, 0, 0).block = {all.ranks[0].find(Tensor::k), 0, 2, 0, 16};
  EXPECT_TRUE(says(all.races(), "peers may write scratch and receivable outputs only"));
}

TEST(Races, SendOfSeparateRows) {
  Recorded all = ring(Mask::full());
  all.send(2, 0, 0).block.num_heads = 1;
  EXPECT_TRUE(says(all.races(), "what it sends to rank 1 is not contiguous"));
  all = ring();
  all.ranks[2].slots[all.ranks[2].find(Tensor::k)].sendable = false;
  EXPECT_TRUE(says(all.races(), "is not contiguous"));
}

TEST(Races, ReceivesThatOverlap) {
  Recorded all = ring(Mask::full());
  all.receive(3, 1, 1).block = all.receive(3, 1, 0).block;
  EXPECT_TRUE(says(all.races(), "two of its own blocks overlap"));
}

TEST(Races, ReceiveOverWhatIsSent) {
  Recorded all = ring(Mask::full());  // from the second hop on, what is sent lies in scratch
  all.receive(3, 1, 0).block = all.send(3, 1, 0).block;
  EXPECT_TRUE(says(all.races(), "two of its own blocks overlap"));
}

TEST(Races, ScratchThatSharesTheLastBytes) {
  Recorded all = ring();
  for (std::size_t i = 0; i + 1 < all.ranks[0].slots.size(); ++i)
    if (all.ranks[0].slots[i].kind == SlotKind::scratch && all.ranks[0].slots[i + 1].kind == SlotKind::scratch)
      all.ranks[0].slots[i].offset_bytes += 16;  // the next begins inside its last bytes, or the next but one does
  EXPECT_TRUE(says(all.races(), "where the next slot begins"));
}

TEST(Races, WritesAnInput) {
  Recorded all = ring();
  all.op<Attend>(3, 1).out = Block{all.ranks[3].find(Tensor::q), 0, 4, 0, 16};
  EXPECT_TRUE(says(all.races(), "writes the input q"));
}

TEST(Races, ScratchThatSharesMemory) {
  Recorded all = ring();
  for (Slot& slot : all.ranks[0].slots)
    if (slot.kind == SlotKind::scratch) slot.offset_bytes = 0;
  EXPECT_TRUE(says(all.races(), "where the next slot begins"));
  all = ring();
  all.ranks[0].workspace_bytes /= 2;
  EXPECT_TRUE(says(all.races(), "memory that is not the workspace's"));
}

// --- Coverage: softmax -----------------------------------------------------------------------------------------------------

TEST(Coverage, MessageDroppedOnBothSides) {
  Recorded all = ring();
  for (Rank rank = 0; rank < num_ranks; ++rank) all.exchange(rank, 1).num_sends = all.exchange(rank, 1).num_receives = 0;
  EXPECT_TRUE(passes(all.matching()));
  EXPECT_TRUE(passes(all.deadlock()));
  EXPECT_TRUE(says(all.coverage(), "where nobody wrote"));
}

TEST(Coverage, StaleBuffer) {
  for (const Mask& mask : {Mask::causal(), Mask::full()}) {  // full: slices cannot tell, sums can
    Recorded all = ring(mask);
    Attend &second = all.op<Attend>(2, 2), &third = all.op<Attend>(2, 3);
    third.k = second.k;
    third.v = second.v;
    const CheckReport report = all.coverage();
    EXPECT_FALSE(report.ok());
    if (mask == Mask::full()) {
      EXPECT_TRUE(says(report, "twice"));
    }
  }
}

TEST(Coverage, DuplicatedAttend) {
  Recorded all = ring();
  Schedule& schedule = all.ranks[1];
  Attend again = all.op<Attend>(1, 0);  // of my own keys, which stay
  again.fresh = false;
  schedule.steps.push_back({Lane::compute, 1, static_cast<std::uint32_t>(schedule.ops.size()), {}});
  schedule.ops.push_back(again);
  EXPECT_TRUE(passes(all.races()));
  EXPECT_TRUE(says(all.coverage(), "rank 1, output out: tokens 8 .. 15, heads 0 ..: twice"));
}

TEST(Coverage, FreshWhereItShouldAdd) {
  Recorded all = ring();
  all.op<Attend>(0, 2).fresh = true;
  EXPECT_TRUE(says(all.coverage(), "visible pairs are in it"));
}

TEST(Coverage, AddsToNothing) {
  Recorded all = ring();
  all.op<Attend>(0, 0).fresh = false;
  EXPECT_TRUE(says(all.coverage(), "reads its out where nobody wrote"));
}

TEST(Coverage, WrongSlices) {
  for (const auto change : {+[](BandSlice& slice) { ++slice.high; }, +[](BandSlice& slice) { --slice.high; },
                            +[](BandSlice& slice) { slice.q_count = 0; }, +[](BandSlice& slice) { slice.batch = 0; }}) {
    Recorded all = ring();
    change(all.ranks[1].slices[all.op<Attend>(1, 0).slices.first]);
    EXPECT_TRUE(says(all.coverage(), "its slices are not what the mask says"));
  }
  Recorded all = ring();
  all.ranks[1].slices[all.op<Attend>(1, 0).slices.first].k_count = 1000;
  EXPECT_TRUE(says(all.coverage(), "lies outside of its operands"));
}

TEST(Coverage, WrongHeadMap) {
  Recorded all = ring();
  all.op<Attend>(1, 1).heads.group = 4;
  EXPECT_TRUE(says(all.coverage(), "its head map pairs query head 2 with key head 0, want 1"));
  all = ring();
  all.op<Attend>(1, 1).heads.first_q = 2;
  EXPECT_TRUE(says(all.coverage(), "its head map"));
  all = head_swap();
  all.op<Attend>(3).heads.first_kv = 0;
  EXPECT_TRUE(says(all.coverage(), "its head map"));
}

TEST(Coverage, KeysWithoutTheirValues) {
  Recorded all = ring(Mask::full());
  all.op<Attend>(1, 2).v = all.op<Attend>(1, 0).v;
  EXPECT_TRUE(says(all.coverage(), "its k is k of tokens 24 .. 31"));
}

TEST(Coverage, KeysForValues) {
  Recorded all = ring(Mask::full());
  std::swap(all.send(2, 0, 0), all.send(2, 0, 1));
  EXPECT_TRUE(passes(all.matching()));
  EXPECT_TRUE(says(all.coverage(), "its k is v of tokens"));
}

TEST(Coverage, MissingMerge) {
  Recorded all = token_ring();
  for (Op& op : all.ranks[2].ops)
    if (std::holds_alternative<Merge>(op)) {
      op = nothing;
      break;
    }
  EXPECT_TRUE(passes(all.races()));
  EXPECT_TRUE(says(all.coverage(), "rank 2, output out"));
}

TEST(Coverage, OutWithAnotherLse) {
  Recorded all = token_ring();
  all.op<Merge>(2).part_lse = all.op<Merge>(2).lse;
  EXPECT_TRUE(says(all.coverage(), "do not belong together"));
}

TEST(Coverage, SinksOnceForEachQuery) {
  Recorded all = ring(Mask::causal(), true);
  EXPECT_TRUE(passes(all.coverage()));
  all.op<Attend>(1, 0).sinks = Block{};
  EXPECT_TRUE(says(all.coverage(), "0 of 32 sinks"));
  all = ring(Mask::causal(), true);
  all.op<Attend>(1, 1).sinks = all.op<Attend>(1, 0).sinks;
  EXPECT_TRUE(says(all.coverage(), "takes sinks, but is not fresh"));
}

TEST(Coverage, PackedWrongHeads) {
  Recorded all = head_swap();
  all.op<Copy>(0, 1).from.head_first ^= 1;
  EXPECT_FALSE(all.coverage().ok());
}

TEST(Coverage, OutputOfAnotherRank) {
  Recorded all = ring();
  all.partition = Partition::contiguous(64, num_ranks);
  EXPECT_FALSE(all.coverage().ok());
}

TEST(Coverage, OutputOnSomeRanksOnly) {
  Recorded all = ring();
  all.ranks[3].slots[all.ranks[3].find(Tensor::lse)].tensor = Tensor::user;
  EXPECT_TRUE(says(all.coverage(), "rank 3, output lse: other ranks have it"));
}

TEST(Coverage, PartialLseInBackward) {
  Recorded all = ring_backward();
  Schedule& schedule = all.ranks[0];
  // lse as an own attend would give it: right rows, but not over all keys.
  Recorder other("partial", 0, num_ranks);
  Attend attend;
  const AttendBackward& first = all.op<AttendBackward>(0);
  attend.q = first.q;
  attend.k = first.k;
  attend.v = first.v;
  attend.slices = first.slices;
  attend.heads = first.heads;
  attend.fresh = true;
  const auto slot = static_cast<SlotIndex>(schedule.slots.size());
  schedule.slots.push_back({SlotKind::scratch, Tensor::scratch, f32, 1, 16, 4, 8, 0, true});
  schedule.slots.push_back({SlotKind::scratch, Tensor::scratch, f32, 1, 16, 4, 1, 0, true});
  attend.out = Block{slot, 0, 4, 0, 16};
  attend.lse = Block{static_cast<SlotIndex>(slot + 1), 0, 4, 0, 16};
  all.op<AttendBackward>(0).lse = static_cast<const Block&>(attend.lse);
  schedule.steps.insert(schedule.steps.begin(), {Lane::compute, 0, static_cast<std::uint32_t>(schedule.ops.size()), {}});
  schedule.ops.push_back(attend);
  for (Step& step : schedule.steps)
    if (step.after[0] != 0) ++step.after[0];
  EXPECT_TRUE(says(all.coverage(), "its lse is only a partial result"));
}

// --- Coverage: linear ---------------------------------------------------------------------------------------------------

TEST(Coverage, StateOfTheWrongRun) {
  Recorded all = linear(LinearKind::vector_gate, Scan::all_gather);
  StateStep &first = all.op<StateStep>(1, 0), &second = all.op<StateStep>(1, 1);
  std::swap(first.update, second.update);
  std::swap(first.log_sum, second.log_sum);
  EXPECT_TRUE(says(all.coverage(), "joins state of"));
}

TEST(Coverage, DecayOfTheWrongRun) {
  Recorded all = linear(LinearKind::scalar_gate, Scan::all_gather);
  all.op<StateStep>(1, 1).log_sum = all.op<StateStep>(1, 0).log_sum;
  EXPECT_TRUE(says(all.coverage(), "its log_sum is"));
  all = linear(LinearKind::scalar_gate, Scan::all_gather);
  all.op<StateStep>(1, 1).log_sum = Block{};
  EXPECT_TRUE(says(all.coverage(), "leaves out the decay"));
  all = linear(LinearKind::constant_decay, Scan::all_gather);
  all.op<StateStep>(1, 1).repeat += 1;
  EXPECT_TRUE(says(all.coverage(), "decays for 9 tokens, the run has 8"));
}

TEST(Coverage, StateThatEntersTwice) {
  Recorded all = linear(LinearKind::basic, Scan::chain);
  Schedule& schedule = all.ranks[1];
  schedule.steps.push_back({Lane::compute, 1, static_cast<std::uint32_t>(schedule.ops.size()), {}});
  schedule.ops.push_back(all.op<LinearEnter>(1));
  EXPECT_TRUE(says(all.coverage(), "its out is out of tokens"));
}

TEST(Coverage, GradientOfTheWrongRun) {
  Recorded all = linear(LinearKind::scalar_gate, Scan::all_gather, collectives::linear_backward);
  all.op<LinearBackward>(2, 0).dleaving = Block{};
  EXPECT_TRUE(says(all.coverage(), "its leaving gradient is zero"));
  all = linear(LinearKind::scalar_gate, Scan::all_gather, collectives::linear_backward);
  all.op<LinearBackward>(2, 0).state = all.op<LinearBackward>(2, 1).state;
  EXPECT_TRUE(says(all.coverage(), "its entering state is"));
}

// --- All of a kind --------------------------------------------------------------------------------------------------------

std::vector<Recorded> all_methods() {
  std::vector<Recorded> result;
  AttentionSpec spec = small_spec(Partition::zigzag(48, 3), Mask::causal());
  spec.q_heads = 6;
  spec.kv_heads = 3;
  spec.dtype = bf16;
  for (const MethodEntry& method : method_table())
    for (const auto record : {method.forward, method.backward})
      if (record != nullptr) result.push_back(recorded(record, spec));
  LinearSpec linear_spec;
  linear_spec.heads = 2;
  linear_spec.head_dim = 4;
  for (const RecordLinear record : {&collectives::linear_forward, &collectives::linear_backward}) {
    for (const Scan scan : {Scan::all_gather, Scan::chain, Scan::pipelined_chain, Scan::doubling, Scan::hierarchical})
      for (const LinearKind kind : {LinearKind::scalar_gate, LinearKind::rwkv6, LinearKind::gated_delta})
        for (const Partition& partition : {Partition::zigzag(48, 3), Partition::contiguous(48, 6)}) {
          linear_spec.partition = partition;
          linear_spec.kind = kind;
          linear_spec.scan = scan;
          linear_spec.column_blocks = linear_spec.ranks_per_node = 2;
          linear_spec.state_in = linear_spec.state_out = true;
          linear_spec.documents = kind == LinearKind::rwkv6 ? std::vector<std::int64_t>{18, 0, 26, 4} : std::vector<std::int64_t>{};
          result.push_back(recorded(record, linear_spec));
        }
    linear_spec.kind = LinearKind::basic;
    linear_spec.state_in = linear_spec.state_out = linear_spec.causal = false;
    result.push_back(recorded(record, linear_spec));
    linear_spec.causal = true;
  }
  return result;
}

TEST(EveryMutant, OpLeftOutIsMissed) {
  for (const Recorded& good : all_methods()) {
    ASSERT_TRUE(passes(check(good.ranks, good.claim()))) << good.ranks[0].name;
    for (std::size_t rank = 0; rank < good.ranks.size(); ++rank) {
      for (std::size_t i = 0; i < good.ranks[rank].ops.size(); ++i) {
        Recorded all = good;
        all.ranks[rank].ops[i] = nothing;
        EXPECT_FALSE(all.coverage().ok()) << good.ranks[0].name << ", rank " << rank << ", " << name(good.ranks[rank].ops[i]);
      }
    }
  }
}

// Both sides agree that a message is not sent: only the contents can tell.
TEST(EveryMutant, MessageLeftOutIsMissed) {
  for (const Recorded& good : all_methods()) {
    int num_left_out = 0;
    for (std::size_t from = 0; from < good.ranks.size(); ++from) {
      for (std::size_t i = 0; i < good.ranks[from].transfers.size(); ++i) {
        Recorded all = good;
        Transfer& send = all.ranks[from].transfers[i];
        bool is_send = false;
        int number = 0;  // among the sends to this peer
        Lane lane = Lane::comm;
        for (const Step& step : good.ranks[from].steps) {
          if (step.lane == Lane::compute) continue;
          const Exchange& exchange = good.ranks[from].exchanges[step.index];
          if (i < exchange.first || i >= exchange.first + exchange.num_sends) continue;
          is_send = true;
          lane = step.lane;
        }
        if (!is_send) continue;
        const auto count_before = [&](const Schedule& schedule, bool sends, Rank peer, std::size_t end, int wanted) {
          int count = 0;
          for (const Step& step : schedule.steps) {
            if (step.lane != lane) continue;
            const Exchange& exchange = schedule.exchanges[step.index];
            const std::size_t first = exchange.first + (sends ? 0 : exchange.num_sends);
            for (std::size_t t = first; t < first + (sends ? exchange.num_sends : exchange.num_receives); ++t) {
              if (schedule.transfers[t].peer != peer) continue;
              if (t == end || count == wanted) return std::pair(count, t);
              ++count;
            }
          }
          return std::pair(count, schedule.transfers.size());
        };
        number = count_before(good.ranks[from], true, send.peer, i, -1).first;
        Schedule& to = all.ranks[send.peer];
        const std::size_t taken = count_before(to, false, static_cast<Rank>(from), to.transfers.size(), number).second;
        ASSERT_LT(taken, to.transfers.size());
        send.block.num_tokens = 0;  // an empty message, which moves no name
        to.transfers[taken].block.num_tokens = 0;
        EXPECT_TRUE(passes(all.matching()));
        EXPECT_FALSE(all.coverage().ok()) << good.ranks[0].name << ", rank " << from << " to " << send.peer << ", message " << number;
        ++num_left_out;
      }
    }
    EXPECT_GT(num_left_out, 0);
  }
}

}  // namespace
}  // namespace seqccl::test
