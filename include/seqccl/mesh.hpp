// mesh.hpp - ranks as heads x outer x inner, and which of them share a node.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "seqccl/error.hpp"

SEQCCL_BEGIN

/// Who shares a node: `node[r]` is the node of rank r. Empty: all on one node.
struct Topology {
  std::vector<int> node;

  [[nodiscard]] bool same_node(Rank a, Rank b) const noexcept { return node.empty() || node[a] == node[b]; }
  /// `num_nodes` nodes of `ranks_per_node` consecutive ranks. @throws Error(argument) if one is below 1
  [[nodiscard]] static Topology nodes(int num_nodes, int ranks_per_node);
  /// Ranks on the node of rank 0; `num_ranks` if all are on one node.
  [[nodiscard]] int ranks_per_node(int num_ranks) const noexcept;
};

/// Mesh: rank = (outer * inner + i) * heads + u
/// ============================================
///
/// heads: head_swap inside groups of this size; outer x inner: rings across nodes and inside them. All ones: no mesh.
struct Mesh {
  int heads = 1, outer = 1, inner = 1;

  [[nodiscard]] constexpr int num_ranks() const noexcept { return heads * outer * inner; }
  [[nodiscard]] constexpr bool is_flat() const noexcept { return heads == 1 && outer == 1; }
  bool operator==(const Mesh&) const = default;

  /// One head group; inner = ranks per node, or on one node the largest divisor of P that is <= sqrt(P).
  [[nodiscard]] static Mesh natural(int num_ranks, const Topology& topology);
};

SEQCCL_END
