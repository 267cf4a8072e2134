// linear_cases.hpp - the sweep of linear attention: kinds, scans, ranks, partitions, documents, states, decays.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <tuple>
#include <vector>

#include "api/linear_problem.hpp"
#include "collectives/linear_plans.hpp"
#include "support/pairwise.hpp"
#include "support/ranks.hpp"

namespace seqccl::test {

/// Levels of: kind, scan, ranks, partition, tokens, documents, states, decay, dtype, head sizes, batch.
inline const std::vector<int> linear_factors{8, 5, 7, 4, 3, 4, 4, 4, 3, 3, 2};

inline void run_linear_case(const std::vector<int>& level) {
  constexpr DType element_types[] = {f32, bf16, f16};
  constexpr std::pair<std::int64_t, std::int64_t> dims[] = {{16, 16}, {8, 24}, {33, 8}};
  LinearSpec spec;
  spec.kind = all_kinds[level[0]];
  spec.scan = all_scans[level[1]];
  const int num_ranks = ranks_of[level[2]];
  const std::int64_t num_tokens = level[4] == 0 ? std::int64_t{16} * num_ranks : level[4] == 1 ? 203 : 5;
  std::vector<Partition> partitions = all_partitions(num_tokens, num_ranks);
  partitions.erase(partitions.begin() + 2);  // striped
  spec.partition = partitions[level[3]];
  spec.documents = all_documents(num_tokens, num_ranks)[level[5]];
  spec.state_in = (level[6] & 1) != 0;
  spec.state_out = (level[6] & 2) != 0;
  spec.dtype = element_types[level[8]];
  std::tie(spec.head_dim, spec.v_head_dim) = dims[level[9]];
  spec.batch = 1 + level[10];
  spec.heads = 2;
  spec.scale = 0.25f;
  spec.column_blocks = 1 + level[2] % 5;
  spec.ranks_per_node = num_ranks < 3 ? 0 : 2 + level[3] % 2;
  SCOPED_TRACE(spec.describe() + "decay of " + std::to_string(level[7]));
  const LinearProblem problem(spec, static_cast<DecayOf>(level[7]));
  const LinearProblem::Run first = problem.run();
  problem.expect_right(first);
  problem.expect_planned_bytes(first);
  const LinearProblem::Run second = problem.run(2);  // and with what the first left in the arena
  EXPECT_EQ(first.whole.out.bytes, second.whole.out.bytes) << "not bitwise repeatable";
  EXPECT_EQ(first.whole.dk.bytes, second.whole.dk.bytes);
  EXPECT_EQ(first.whole.dlog_decay.bytes, second.whole.dlog_decay.bytes);
}

}  // namespace seqccl::test
