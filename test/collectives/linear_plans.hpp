// linear_plans.hpp - specs of linear attention that plan-only tests sweep, and their claims.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "collectives/plans.hpp"
#include "seqccl/check.hpp"

namespace seqccl::test {

inline constexpr LinearKind all_kinds[] = {LinearKind::basic, LinearKind::constant_decay, LinearKind::scalar_gate, LinearKind::vector_gate,
                                           LinearKind::rwkv6, LinearKind::delta,          LinearKind::gated_delta, LinearKind::kda};
inline constexpr Scan all_scans[] = {Scan::all_gather, Scan::chain, Scan::pipelined_chain, Scan::doubling, Scan::hierarchical};

inline LinearSpec linear_spec(const Partition& partition, LinearKind kind, Scan scan) {
  LinearSpec spec;
  spec.heads = 3;
  spec.head_dim = 8;
  spec.v_head_dim = 16;
  spec.partition = partition;
  spec.kind = kind;
  spec.scan = scan;
  return spec;
}

inline Claim claim_of(const LinearSpec& spec) {
  return {.partition = &spec.partition,
          .batch = spec.batch,
          .q_heads = spec.heads,
          .kv_heads = spec.heads,
          .documents = &spec.documents,
          .causal = spec.causal};
}

/// Lengths of documents: none given, boundaries off rank edges and empty documents, on rank edges, and one token each.
inline std::vector<std::vector<std::int64_t>> all_documents(std::int64_t num_tokens, int num_ranks) {
  const std::int64_t n = num_tokens;
  std::vector<std::int64_t> loose{0, n / 7, 0, n / 2, std::min<std::int64_t>(n - n / 7 - n / 2, 1)}, edges, singles(n, 1);
  loose.push_back(n - loose[1] - loose[3] - loose[4]);
  loose.push_back(0);
  const Partition even = Partition::contiguous(n, num_ranks);
  for (Rank rank = 0; rank < num_ranks; rank += 2)
    edges.push_back(even.tokens_on(rank) + (rank + 1 < num_ranks ? even.tokens_on(rank + 1) : 0));
  return {{}, loose, edges, singles};
}

inline void expect_proven(const LinearSpec& spec) {
  const CheckReport forward = check(record_all(collectives::linear_forward, spec), claim_of(spec));
  EXPECT_TRUE(forward.ok()) << "forward: " << spec.describe() << forward.text();
  const CheckReport backward = check(record_all(collectives::linear_backward, spec), claim_of(spec));
  EXPECT_TRUE(backward.ok()) << "backward: " << spec.describe() << backward.text();
}

}  // namespace seqccl::test
