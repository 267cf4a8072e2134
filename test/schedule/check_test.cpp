// check_test.cpp - every method's recorded schedules pass all checks, for all numbers of ranks, partitions and masks.
// SPDX-License-Identifier: Apache-2.0
#include "recorded.hpp"

namespace seqccl::test {
namespace {

std::vector<Partition> partitions(int num_ranks, std::int64_t num_tokens) {
  std::vector<std::int64_t> lengths(static_cast<std::size_t>(num_ranks), 5);
  lengths[0] = 11;
  if (num_ranks > 2) lengths[static_cast<std::size_t>(num_ranks) / 2] = 0;
  return {Partition::contiguous(num_tokens, num_ranks), Partition::zigzag(num_tokens, num_ranks), Partition::striped(num_tokens, num_ranks),
          Partition::uneven(lengths)};
}

std::vector<Mask> masks(std::int64_t num_tokens) {
  return {Mask::full(), Mask::causal(), Mask::window(9, 0),
          Mask::causal() & Mask::documents({num_tokens / 3, num_tokens - num_tokens / 3})};
}

void expect_right(const Recorded& all, const std::string& what) {
  EXPECT_TRUE(passes(check(all.ranks, all.claim())))
      << all.ranks[0].name << ", " << what << ", " << all.partition.describe() << ", " << all.mask.describe();
}

class Ranks : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Check, Ranks, ::testing::Values(1, 2, 3, 4, 5, 7, 8), ::testing::PrintToStringParamName());

TEST_P(Ranks, SoftmaxMethodsPass) {
  const int num_ranks = GetParam();
  for (const Partition& partition : partitions(num_ranks, 97)) {
    for (const Mask& mask : masks(partition.num_tokens())) {
      AttentionSpec spec = small_spec(partition, mask);
      for (const MethodEntry& method : method_table()) {
        for (const bool native : {false, true}) {
          for (const auto record : {method.forward, method.backward}) {
            if (record == nullptr) continue;
            spec.sinks = native;  // any other way to have both
            expect_right(recorded(record, spec, {.inputs_sendable = native, .native_collectives = native}), "small");
          }
        }
      }
    }
  }
}

TEST_P(Ranks, BatchesGroupsAndConversionsPass) {
  const int num_ranks = GetParam();
  AttentionSpec spec = small_spec(Partition::zigzag(64, num_ranks), Mask::causal() & Mask::documents_per_row({{20, 44}, {64}}));
  spec.batch = 2;
  spec.q_heads = 8;
  spec.dtype = bf16;
  for (const std::int64_t kv_heads : {1, 4, 8}) {
    spec.kv_heads = kv_heads;
    for (const MethodEntry& method : method_table())
      for (const auto record : {method.forward, method.backward})
        if (record != nullptr) expect_right(recorded(record, spec), std::to_string(kv_heads) + " kv heads");
  }
}

TEST_P(Ranks, LinearScansPass) {
  const int num_ranks = GetParam();
  for (const Partition& partition : partitions(num_ranks, 97)) {
    if (!partition.has_contiguous_segments()) continue;
    for (const LinearKind kind : {LinearKind::basic, LinearKind::constant_decay, LinearKind::scalar_gate, LinearKind::kda}) {
      for (const Scan scan : {Scan::all_gather, Scan::chain, Scan::pipelined_chain, Scan::doubling, Scan::hierarchical}) {
        LinearSpec spec;
        spec.heads = 2;
        spec.head_dim = 4;
        spec.partition = partition;
        spec.kind = kind;
        spec.scan = scan;
        for (const bool states : {false, true}) {
          spec.state_in = spec.state_out = states;
          spec.dtype = states ? bf16 : f32;
          for (const RecordLinear record : {&collectives::linear_forward, &collectives::linear_backward})
            expect_right(recorded(record, spec), std::string(name(kind)) + " " + name(scan));
        }
      }
    }
  }
}

// Names are segments, so length does not matter.
TEST(Check, LongSequencesPass) {
  const std::int64_t num_tokens = std::int64_t{1} << 40;
  for (const Partition& partition :
       {Partition::contiguous(num_tokens, 8), Partition::zigzag(num_tokens, 8), Partition::striped(num_tokens, 8)}) {
    const AttentionSpec spec = small_spec(partition, Mask::causal());
    for (const MethodEntry& method : method_table())
      for (const auto record : {method.forward, method.backward})
        if (record != nullptr) expect_right(recorded(record, spec), "long");
  }
}

TEST(Check, SixtyFourRanksPass) {
  for (const MethodEntry& method : method_table()) {
    if (method.method != Method::ring && method.method != Method::kv_all_gather) continue;
    expect_right(recorded(method.forward, small_spec(Partition::contiguous(1 << 20, 64), Mask::causal())), "64 ranks");
  }
}

// The user's kernel cannot add: fresh partials and merges.
TEST(Check, KernelThatDoesNotAccumulatePasses) {
  AttentionSpec spec = small_spec(Partition::zigzag(64, 4), Mask::causal());
  spec.kernel.name = "mine";
  spec.kernel.run = [](const AttendArguments&) {};
  for (const MethodEntry& method : method_table()) expect_right(recorded(method.forward, spec), "own kernel");
}

// Contents that the checker cannot know travel and are copied all the same.
TEST(Check, UserContentsPass) {
  Recorded all;
  all.partition = Partition::contiguous(8, 2);
  for (Rank rank = 0; rank < 2; ++rank) {
    Recorder plan("user", rank, 2);
    const Block mine = plan.input(Tensor::user, f32, {1, 4, 1, 2}, true), sum = plan.output(Tensor::user, f32, {1, 4, 1, 2});
    const Block theirs = plan.scratch(f32, {1, 4, 1, 2});
    plan.exchange({{1 - rank, mine}}, {{1 - rank, theirs}});
    Custom step;
    step.in[0] = theirs;
    step.inout[0] = sum;
    step.function = plan.function([](std::span<const TensorView>) {});
    plan.compute(step);
    plan.compute(Add{mine, sum});
    all.ranks.push_back(std::move(plan).finish("user"));
  }
  EXPECT_TRUE(passes(check(all.ranks, all.claim())));
}

TEST(Check, RefusesClaimsThatCannotBe) {
  const Recorded all = recorded(collectives::ring_forward, small_spec(Partition::zigzag(64, 4), Mask::causal()));
  Claim claim = all.claim();
  claim.partition = nullptr;
  EXPECT_THROW(static_cast<void>(check_coverage(all.ranks, claim)), Error);
  claim = all.claim();
  claim.kv_heads = 3;
  EXPECT_THROW(static_cast<void>(check_coverage(all.ranks, claim)), Error);
  const Partition other = Partition::zigzag(64, 5);
  claim = all.claim();
  claim.partition = &other;
  EXPECT_THROW(static_cast<void>(check_coverage(all.ranks, claim)), Error);
}

TEST(CheckReport, TextShowsTheFirstTwenty) {
  CheckReport report;
  EXPECT_EQ(report.text(), "");
  for (int i = 0; i < 23; ++i) report.problems.push_back("problem " + std::to_string(i));
  EXPECT_NE(report.text().find("problem 19\n... and 3 more\n"), std::string::npos);
}

}  // namespace
}  // namespace seqccl::test
