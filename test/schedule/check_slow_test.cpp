// check_slow_test.cpp - every method passes all checks on many ranks, fewer heads than ranks included.
// SPDX-License-Identifier: Apache-2.0
#include "recorded.hpp"

namespace seqccl::test {
namespace {

class ManyRanks : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Check, ManyRanks, ::testing::Values(16, 64), ::testing::PrintToStringParamName());

TEST_P(ManyRanks, SoftmaxMethodsPass) {
  const int num_ranks = GetParam();
  const std::int64_t num_tokens = (1 << 20) + 5;
  for (const Partition& partition : {Partition::contiguous(num_tokens, num_ranks), Partition::zigzag(num_tokens, num_ranks),
                                     Partition::striped(num_tokens, num_ranks)}) {
    for (const Mask& mask : {Mask::full(), Mask::causal(), Mask::causal() & Mask::documents({300001, num_tokens - 300001})}) {
      AttentionSpec spec = small_spec(partition, mask);
      spec.q_heads = 24;
      spec.kv_heads = 6;
      spec.dtype = bf16;
      for (const MethodEntry& method : method_table()) {
        for (const auto record : {method.forward, method.backward}) {
          if (record == nullptr) continue;
          const Recorded all = recorded(record, spec);
          EXPECT_TRUE(passes(check(all.ranks, all.claim())))
              << all.ranks[0].name << ", " << partition.describe() << ", " << mask.describe();
        }
      }
    }
  }
}

TEST_P(ManyRanks, LinearScansPass) {
  for (const LinearKind kind : {LinearKind::basic, LinearKind::constant_decay, LinearKind::scalar_gate, LinearKind::kda}) {
    for (const Scan scan : {Scan::all_gather, Scan::chain, Scan::pipelined_chain, Scan::doubling, Scan::hierarchical}) {
      LinearSpec spec;
      spec.heads = 2;
      spec.head_dim = 4;
      spec.partition = Partition::zigzag(1 << 20, GetParam());
      spec.kind = kind;
      spec.scan = scan;
      for (const RecordLinear record : {&collectives::linear_forward, &collectives::linear_backward}) {
        const Recorded all = recorded(record, spec);
        EXPECT_TRUE(passes(check(all.ranks, all.claim()))) << all.ranks[0].name << ", " << name(kind) << ", " << name(scan);
      }
    }
  }
}

}  // namespace
}  // namespace seqccl::test
