// mutant_linear_test.cpp - linear attention broken in the ways of dense transitions, column blocks and documents; coverage notices.
// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "recorded.hpp"

namespace seqccl::test {
namespace {

Recorded linear(LinearKind kind, Scan scan, RecordLinear record = collectives::linear_forward, int num_ranks = 8) {
  LinearSpec spec;
  spec.heads = 2;
  spec.head_dim = 4;
  spec.v_head_dim = 8;
  spec.partition = Partition::contiguous(8 * num_ranks, num_ranks);
  spec.kind = kind;
  spec.scan = scan;
  spec.ranks_per_node = 4;
  return recorded(record, spec);
}

/// The first step on a rank that composes transitions.
StateStep& composition(Recorded& all, Rank rank) {
  for (int number = 0;; ++number)
    if (StateStep& step = all.op<StateStep>(rank, number); !step.update.present()) return step;
}

TEST(LinearMutant, SwappedComposition) {
  for (const RecordLinear record : {&collectives::linear_forward, &collectives::linear_backward}) {
    Recorded all = linear(LinearKind::kda, Scan::doubling, record);
    ASSERT_TRUE(passes(all.coverage()));
    const Rank rank = record == &collectives::linear_forward ? 5 : 2;
    StateStep& step = composition(all, rank);
    const Block later = step.transition, earlier = step.state;
    step.transition = earlier;
    step.state = later;
    EXPECT_TRUE(says(all.coverage(), record == &collectives::linear_forward ? "composes transition of" : "composes transposed transition"));
  }
}

TEST(LinearMutant, MissingTransition) {
  Recorded all = linear(LinearKind::delta, Scan::chain);
  all.op<StateStep>(3).transition = Block{};
  EXPECT_TRUE(says(all.coverage(), "steps without the run's transition"));
  all = linear(LinearKind::delta, Scan::all_gather);
  all.op<StateStep>(3, 1).transition = all.op<StateStep>(3, 0).transition;
  EXPECT_TRUE(says(all.coverage(), "its transition is transition of tokens 8 .. 15"));
}

TEST(LinearMutant, TransitionOfTheOtherPass) {
  Recorded all = linear(LinearKind::gated_delta, Scan::chain);
  auto& summary = all.op<LinearSummary>(3);
  LinearSummaryBackward other{.dstate = summary.state};
  other.q = summary.k;
  other.transition = summary.transition;
  all.ranks[3].ops[0] = other;
  EXPECT_FALSE(all.coverage().ok());
}

TEST(LinearMutant, SumOfLogsOverTheWrongRuns) {
  Recorded all = linear(LinearKind::vector_gate, Scan::doubling);
  ASSERT_TRUE(passes(all.coverage()));
  std::swap(all.op<Add>(5).from, all.op<Add>(5, 1).from);
  EXPECT_FALSE(all.coverage().ok());
  all = linear(LinearKind::constant_decay, Scan::doubling);
  ASSERT_TRUE(passes(all.coverage()));
  all.op<StateStep>(5).repeat += 8;
  EXPECT_TRUE(says(all.coverage(), "decays for 16 tokens, the run has 8"));
}

TEST(LinearMutant, ColumnBlocks) {
  const Recorded good = linear(LinearKind::kda, Scan::pipelined_chain);
  ASSERT_TRUE(passes(good.coverage()));
  Recorded all = good;
  for (Op& op : all.ranks[4].ops)
    if (const auto* put = std::get_if<PutColumns>(&op); put != nullptr && put->first == 2) op = Zero{};  // dropped
  EXPECT_TRUE(says(all.coverage(), "puts state, columns 4 .. 5"));
  all = good;
  for (Op& op : all.ranks[4].ops)
    if (const auto* put = std::get_if<PutColumns>(&op); put != nullptr && put->first == 6) op = Zero{};  // the last one
  EXPECT_TRUE(says(all.coverage(), "state, columns 0 .. 5"));
  all = good;
  all.op<TakeColumns>(4, 1).first = 0;
  EXPECT_TRUE(says(all.coverage(), "joins state, columns 2 .. 3"));
  all = good;
  all.op<PutColumns>(4, 1).first = 4;
  EXPECT_TRUE(says(all.coverage(), "puts state, columns 2 .. 3, of tokens 0 .. 31, heads 0 .. 1 at column 4"));
  all = good;
  all.op<TakeColumns>(0).key_dim = 2;  // rows for columns
  EXPECT_TRUE(says(all.coverage(), "do not fit a state"));
}

TEST(LinearMutant, NodesMixedUp) {
  const Recorded good = linear(LinearKind::gated_delta, Scan::hierarchical);
  ASSERT_TRUE(passes(good.coverage()));
  Recorded all = good;
  std::swap(all.op<StateStep>(6, 0).update, all.op<StateStep>(6, 2).update);
  EXPECT_FALSE(all.coverage().ok());
}

TEST(LinearMutant, StatesThatCrossDocuments) {
  for (const Scan scan : {Scan::all_gather, Scan::chain, Scan::pipelined_chain, Scan::doubling, Scan::hierarchical}) {
    Recorded all = linear(LinearKind::gated_delta, scan);
    all.documents = {24, 40};  // on a rank edge: the runs are right, what enters them is not
    EXPECT_FALSE(all.coverage().ok()) << name(scan);
    all.documents = {30, 34};
    EXPECT_TRUE(says(all.coverage(), "across the start of a document at 30")) << name(scan);
  }
}

TEST(LinearMutant, ReadsOfRwkv6) {
  const Recorded good = linear(LinearKind::rwkv6, Scan::all_gather);
  Recorded all = good;
  all.op<LinearEnter>(2).before = false;
  EXPECT_TRUE(says(all.coverage(), "want before"));
  all = good;
  all.op<LinearLocal>(2).bonus = Block{};
  EXPECT_TRUE(says(all.coverage(), "leaves out bonus"));
  all = linear(LinearKind::rwkv6, Scan::all_gather, collectives::linear_backward);
  all.op<LinearSummaryBackward>(2).before = false;
  EXPECT_TRUE(says(all.coverage(), "want before"));
}

TEST(LinearMutant, OperandsOfDeltaKinds) {
  const Recorded good = linear(LinearKind::delta, Scan::doubling);
  Recorded all = good;
  all.op<LinearLocal>(2).beta = Block{};
  EXPECT_TRUE(says(all.coverage(), "leaves out beta"));
  all = good;
  all.op<LinearLocal>(2).state = Block{};  // cannot be added later
  EXPECT_TRUE(says(all.coverage(), "its state is zero, want the state of tokens 0 .. 15"));
}

TEST(LinearMutant, SumsWithoutOrder) {
  LinearSpec spec;
  spec.heads = 2;
  spec.head_dim = 4;
  spec.partition = Partition::zigzag(32, 4);
  spec.causal = false;
  spec.documents = {20, 12};
  const Recorded good = recorded(collectives::linear_backward, spec);
  ASSERT_TRUE(passes(good.coverage()));
  Recorded all = good;
  all.op<Add>(1).from = all.op<Add>(1).to;
  EXPECT_FALSE(all.coverage().ok());
  all = good;
  all.op<LinearEnter>(1, 0).transposed = false;
  EXPECT_TRUE(says(all.coverage(), "makes nothing that is wanted of dout"));
  all = good;
  std::swap(all.op<LinearEnter>(0, 0).state, all.op<LinearEnter>(0, 3).state);  // the other document's
  EXPECT_FALSE(all.coverage().ok());
  all = good;
  all.causal = true;
  EXPECT_FALSE(all.coverage().ok());
}

}  // namespace
}  // namespace seqccl::test
