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

/// Mesh: rank = (o * inner + i) * heads + u
/// ========================================
///
///     heads 2, outer 2, inner 2     | 0 1 | 2 3 |   | 4 5 | 6 7 |      pairs swap heads; columns 0 2 4 6 and 1 3 5 7 are rings of two
///     levels
///
/// heads: head_swap inside groups of this size (u); outer x inner: a ring over nodes around rings inside them. All ones: no mesh.
/// heads_outermost: rank = u * outer * inner + o * inner + i: rings inside a node, heads across nodes.
struct Mesh {
  int heads = 1, outer = 1, inner = 1;
  bool heads_outermost = false;

  [[nodiscard]] constexpr int num_ranks() const noexcept { return heads * outer * inner; }
  [[nodiscard]] constexpr int ring_size() const noexcept { return outer * inner; }
  [[nodiscard]] constexpr bool is_flat() const noexcept { return heads == 1 && outer == 1; }
  /// The rank at place `ring` of its ring (o * inner + i) and place `head` of its group of heads, and back.
  [[nodiscard]] constexpr Rank rank_at(int ring, int head) const noexcept {
    return heads_outermost ? head * ring_size() + ring : ring * heads + head;
  }
  [[nodiscard]] constexpr int ring_of(Rank rank) const noexcept { return heads_outermost ? rank % ring_size() : rank / heads; }
  [[nodiscard]] constexpr int head_of(Rank rank) const noexcept { return heads_outermost ? rank / ring_size() : rank % heads; }
  bool operator==(const Mesh&) const = default;

  /// One head group; inner = ranks per node, or on one node the largest divisor of P that is <= sqrt(P).
  [[nodiscard]] static Mesh natural(int num_ranks, const Topology& topology);
};

SEQCCL_END
