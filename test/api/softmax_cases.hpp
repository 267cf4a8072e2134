// softmax_cases.hpp - one case of the sweep over methods, ranks, partitions, masks, dtypes, heads: numbers, bytes, repeatability.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include "api/softmax_problem.hpp"
#include "collectives/plans.hpp"
#include "support/pairwise.hpp"
#include "support/ranks.hpp"

namespace seqccl::test {

inline std::vector<Method> all_methods() {
  std::vector<Method> methods;
  for (const MethodEntry& entry : method_table()) methods.push_back(entry.method);
  return methods;
}

inline constexpr DType dtypes[] = {f32, bf16, f16};
struct HeadCounts {
  std::int64_t q, kv, dim, dim_v;
};
/// Choices around a method: none, a mesh of every kind, burst, head groups. Those that a method does not take change nothing.
inline void choose(AttentionSpec& spec, int choice) {
  const int num_ranks = spec.partition.num_ranks();
  const int heads = num_ranks % 2 == 0 ? 2 : num_ranks, outer = num_ranks % 4 == 0 ? 2 : 1;
  AttentionSpec chosen = spec;
  if (choice == 1 || choice == 3) chosen.backward = Backward::burst;
  if (choice == 2 || choice == 3) chosen.mesh = Mesh{1, num_ranks % 2 == 0 ? num_ranks / 2 : 1, num_ranks % 2 == 0 ? 2 : num_ranks};
  if (choice == 4) chosen.head_groups = 2;
  if (choice == 5) chosen.mesh = Mesh{heads, outer, num_ranks / heads / outer};
  if (choice == 6) chosen.mesh = Mesh{heads, 1, num_ranks / heads, true}, chosen.head_groups = 3;
  try {
    validate(chosen, num_ranks);
    spec = chosen;
  } catch (const Error&) {
  }
}

inline constexpr HeadCounts heads_of[] = {{4, 4, 16, 16}, {8, 2, 32, 32}, {8, 1, 16, 24}, {6, 3, 40, 8}};

/// Factors: ranks, partition, mask, dtype, heads, extras (batch, sinks, softcap), divisible or not, choices.
inline const std::vector<int> softmax_factors{7, 5, 9, 3, 4, 4, 2, 7};

inline void run_softmax_case(Method method, const std::vector<int>& level) {
  const int num_ranks = ranks_of[level[0]];
  const std::int64_t num_tokens = level[6] == 0 ? std::int64_t{8} * num_ranks : 61;
  AttentionSpec spec;
  spec.partition = all_partitions(num_tokens, num_ranks)[level[1]];
  spec.mask = all_masks(num_tokens)[level[2]];
  spec.dtype = dtypes[level[3]];
  const HeadCounts& heads = heads_of[level[4]];
  spec.q_heads = heads.q;
  spec.kv_heads = heads.kv;
  spec.head_dim = heads.dim;
  spec.v_head_dim = heads.dim_v;
  spec.batch = level[5] == 1 ? 2 : 1;
  spec.sinks = level[5] >= 2;
  spec.softcap = level[5] == 3 ? 5.0f : 0.0f;
  spec.method = method;
  choose(spec, level[7]);
  SCOPED_TRACE(spec.describe());

  const SoftmaxProblem problem(spec);
  const SoftmaxProblem::Run first = problem.run();
  problem.expect_right(first);
  for (Rank rank = 0; rank < num_ranks; ++rank) {
    EXPECT_EQ(first.received_bytes[rank], cost_of(entry_of(method).forward(spec, rank, {})).total_received_bytes) << "rank " << rank;
    EXPECT_EQ(first.received_backward[rank], cost_of(entry_of(method).backward(spec, rank, {})).total_received_bytes) << "rank " << rank;
  }
  const SoftmaxProblem::Run second = problem.run(/*repeats=*/2);  // the second repeat meets dirty scratch memory
  EXPECT_EQ(first.whole.out.bytes, second.whole.out.bytes) << "not bitwise repeatable";
  EXPECT_EQ(first.whole.lse.bytes, second.whole.lse.bytes);
  EXPECT_EQ(first.whole.dq.bytes, second.whole.dq.bytes);
  EXPECT_EQ(first.whole.dk.bytes, second.whole.dk.bytes);
  EXPECT_EQ(first.whole.dv.bytes, second.whole.dv.bytes);
}

}  // namespace seqccl::test
