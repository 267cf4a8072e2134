// mesh.cpp - the natural mesh of a set of ranks.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/mesh.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <limits>
#include <set>

SEQCCL_BEGIN

namespace {

// All nodes hold equally many consecutive ranks.
[[nodiscard]] bool is_regular(const std::vector<int>& node, int ranks_per_node) {
  const int num_ranks = static_cast<int>(node.size());
  if (num_ranks % ranks_per_node != 0) return false;
  std::set<int> seen;
  for (int first = 0; first < num_ranks; first += ranks_per_node) {
    if (!seen.insert(node[first]).second) return false;
    for (int i = 1; i < ranks_per_node; ++i)
      if (node[first + i] != node[first]) return false;
  }
  return true;
}

}  // namespace

Topology Topology::nodes(int num_nodes, int ranks_per_node) {
  if (num_nodes < 1) throw Error(ErrorKind::argument, fmt::format("Topology::nodes: num_nodes is {}, want 1 or more", num_nodes));
  if (ranks_per_node < 1 || ranks_per_node > std::numeric_limits<int>::max() / num_nodes)
    throw Error(ErrorKind::argument,
                fmt::format("Topology::nodes: ranks_per_node is {}, want 1 or more and fewer than 2^31 ranks in all", ranks_per_node));
  Topology result;
  result.node.reserve(static_cast<std::size_t>(num_nodes) * static_cast<std::size_t>(ranks_per_node));
  for (int node = 0; node < num_nodes; ++node) result.node.insert(result.node.end(), static_cast<std::size_t>(ranks_per_node), node);
  return result;
}

int Topology::ranks_per_node(int num_ranks) const noexcept {
  return node.empty() ? num_ranks : static_cast<int>(std::count(node.begin(), node.end(), node.front()));
}

Mesh Mesh::natural(int num_ranks, const Topology& topology) {
  if (num_ranks < 1) throw Error(ErrorKind::argument, fmt::format("Mesh::natural: num_ranks is {}, want 1 or more", num_ranks));
  if (!topology.node.empty() && topology.node.size() != static_cast<std::size_t>(num_ranks))
    throw Error(ErrorKind::argument,
                fmt::format("Mesh::natural: topology.node has {} entries, want none or num_ranks = {}", topology.node.size(), num_ranks));
  const int on_node = topology.ranks_per_node(num_ranks);
  if (on_node == num_ranks) {
    int inner = 1;
    for (int divisor = 2; divisor <= num_ranks / divisor; ++divisor)
      if (num_ranks % divisor == 0) inner = divisor;
    return {1, num_ranks / inner, inner};
  }
  // Nodes of unequal size, or with ranks dealt round them, have no inner ring of one length: one flat ring.
  if (!is_regular(topology.node, on_node)) return {1, 1, num_ranks};
  return {1, num_ranks / on_node, on_node};
}

SEQCCL_END
