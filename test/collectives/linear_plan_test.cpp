// linear_plan_test.cpp - schedules of linear attention are proven: every partition, kind, scan and set of documents.
// SPDX-License-Identifier: Apache-2.0
#include "collectives/linear_plans.hpp"
#include "sequence/refusal.hpp"
#include "support/ranks.hpp"

namespace seqccl::test {
namespace {

class LinearPlan : public ::testing::TestWithParam<int> {
 protected:
  const int P = GetParam();

  /// Partitions with runs, of different numbers of tokens.
  [[nodiscard]] std::vector<Partition> partitions() const {
    std::vector<Partition> result;
    for (const std::int64_t num_tokens : {std::int64_t{4} * P, std::int64_t{53}, std::int64_t{1}, std::int64_t{0}})
      for (const Partition& partition : all_partitions(num_tokens, P))
        if (partition.has_contiguous_segments()) result.push_back(partition);
    return result;
  }
};

TEST_P(LinearPlan, EveryKindAndScanIsProven) {
  std::size_t number = 0;
  for (const Partition& partition : partitions())
    for (const LinearKind kind : all_kinds)
      for (const Scan scan : all_scans) {
        if (P > 9 && kind != all_kinds[number % std::size(all_kinds)]) continue;
        LinearSpec spec = linear_spec(partition, kind, scan);
        spec.state_in = ++number % 2 == 0;
        spec.state_out = number % 4 < 2;
        spec.ranks_per_node = P >= 4 ? 3 : 0;
        spec.column_blocks = 1 + static_cast<int>(number % 5);
        expect_proven(spec);
        if (HasFailure()) return;
      }
}

TEST_P(LinearPlan, DocumentsAreProven) {
  std::size_t number = 0;
  for (const Partition& partition : partitions())
    for (const std::vector<std::int64_t>& documents : all_documents(partition.num_tokens(), P))
      for (const Scan scan : all_scans)
        for (const bool states : {false, true}) {
          LinearSpec spec = linear_spec(partition, all_kinds[++number % std::size(all_kinds)], scan);
          if (P > 9 && number % 5 != 0) continue;
          spec.documents = documents;
          spec.state_in = spec.state_out = states;
          spec.ranks_per_node = P >= 4 ? 4 : 0;
          expect_proven(spec);
          if (HasFailure()) return;
        }
}

TEST_P(LinearPlan, WithoutOrderIsProven) {
  for (const Partition& partition : partitions())
    for (const std::vector<std::int64_t>& documents : all_documents(partition.num_tokens(), P)) {
      LinearSpec spec = linear_spec(partition, LinearKind::basic, Scan::all_gather);
      spec.documents = documents;
      spec.causal = false;
      spec.dtype = bf16;
      if (P % 2 != 0) spec.v_head_dim = 3;  // fewer columns than ranks
      expect_proven(spec);
      if (HasFailure()) return;
    }
}

INSTANTIATE_TEST_SUITE_P(Ranks, LinearPlan, ::testing::ValuesIn(up_to_if_sanitized(9, {1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 33, 64})));

TEST(LinearSpecs, RefuseWithNameAndValue) {
  const LinearSpec good = linear_spec(Partition::contiguous(12, 3), LinearKind::basic, Scan::all_gather);
  EXPECT_NO_THROW(validate(good, 3));
  LinearSpec spec = good;
  spec.documents = {4, 9};
  EXPECT_REFUSED("LinearSpec: documents sum to more than the partition's 12 tokens", validate(spec, 3));
  spec.documents = {4, 7};
  EXPECT_REFUSED("LinearSpec: documents sum to 11, want 12", validate(spec, 3));
  spec.documents = {13, -1};
  EXPECT_REFUSED("LinearSpec: documents sum to more than", validate(spec, 3));
  spec.documents = {4, -1, 9};
  EXPECT_REFUSED("LinearSpec: a length in documents is -1, want 0 or more", validate(spec, 3));
  spec = good;
  spec.causal = false;
  EXPECT_NO_THROW(validate(spec, 3));
  spec.state_out = true;
  EXPECT_REFUSED("LinearSpec: causal is false with state_out = true, want false", validate(spec, 3));
  spec.state_out = false;
  spec.kind = LinearKind::kda;
  EXPECT_REFUSED("LinearSpec: causal is false with kind kda, want kind basic", validate(spec, 3));
  spec = good;
  spec.scan = Scan::pipelined_chain;
  spec.column_blocks = 17;
  EXPECT_REFUSED("LinearSpec: column_blocks is 17, want 1 to 16", validate(spec, 3));
  spec.column_blocks = 0;
  EXPECT_REFUSED("LinearSpec: column_blocks is 0, want 1 to 16", validate(spec, 3));
  spec.scan = Scan::hierarchical;
  spec.ranks_per_node = 4;
  EXPECT_REFUSED("LinearSpec: ranks_per_node is 4, want 1 to 3", validate(spec, 3));
  EXPECT_REFUSED("scan: 'tree' is not known; there are: all_gather, chain, pipelined_chain, doubling, hierarchical",
                 scan_from_name("tree"));
  EXPECT_EQ(linear_kind_from_name("gated_delta"), LinearKind::gated_delta);
}

TEST(LinearPlanNames, SayPassKindAndScan) {
  LinearSpec spec = linear_spec(Partition::contiguous(8, 2), LinearKind::kda, Scan::doubling);
  EXPECT_EQ(collectives::linear_forward(spec, 1).name, "linear forward, kda by doubling");
  EXPECT_EQ(collectives::linear_backward(spec, 0).name, "linear backward, kda by doubling");
  spec.kind = LinearKind::basic;
  spec.causal = false;
  EXPECT_EQ(collectives::linear_forward(spec, 0).name, "linear forward, basic by all_reduce");
  EXPECT_EQ(collectives::linear_backward(spec, 0).name, "linear backward, basic by all_reduce");
}

}  // namespace
}  // namespace seqccl::test
