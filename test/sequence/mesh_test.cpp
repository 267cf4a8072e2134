// mesh_test.cpp - topologies and the meshes that follow from them.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/mesh.hpp"

#include <gtest/gtest.h>

#include <limits>

#include "refusal.hpp"

namespace seqccl {
namespace {

TEST(Topology, ConsecutiveRanksShareANode) {
  const Topology topology = Topology::nodes(2, 3);
  EXPECT_EQ(topology.node, (std::vector<int>{0, 0, 0, 1, 1, 1}));
  EXPECT_TRUE(topology.same_node(0, 2));
  EXPECT_FALSE(topology.same_node(2, 3));
  EXPECT_EQ(topology.ranks_per_node(6), 3);
}

TEST(Topology, EmptyIsOneNode) {
  EXPECT_TRUE(Topology{}.same_node(0, 99));
  EXPECT_EQ(Topology{}.ranks_per_node(7), 7);
}

TEST(Mesh, OnOneNodeIsAsSquareAsItCanBe) {
  const auto inner = [](int num_ranks) { return Mesh::natural(num_ranks, {}).inner; };
  EXPECT_EQ(inner(1), 1);
  EXPECT_EQ(inner(2), 1);
  EXPECT_EQ(inner(4), 2);
  EXPECT_EQ(inner(7), 1);
  EXPECT_EQ(inner(8), 2);
  EXPECT_EQ(inner(12), 3);
  EXPECT_EQ(inner(36), 6);
  for (int num_ranks = 1; num_ranks <= 200; ++num_ranks) {
    const Mesh mesh = Mesh::natural(num_ranks, {});
    EXPECT_EQ(mesh.num_ranks(), num_ranks);
    EXPECT_EQ(mesh.heads, 1);
    EXPECT_LE(mesh.inner, mesh.outer);
    for (int better = mesh.inner + 1; better * better <= num_ranks; ++better) EXPECT_NE(num_ranks % better, 0);
  }
  EXPECT_EQ(Mesh::natural(4, Topology{{5, 5, 5, 5}}), (Mesh{1, 2, 2}));
}

TEST(Mesh, FollowsTheNodes) {
  EXPECT_EQ(Mesh::natural(24, Topology::nodes(3, 8)), (Mesh{1, 3, 8}));
  EXPECT_EQ(Mesh::natural(3, Topology::nodes(3, 1)), (Mesh{1, 3, 1}));
}

TEST(Mesh, IsFlatWhereNodesAreIrregular) {
  EXPECT_EQ(Mesh::natural(4, Topology{{0, 1, 0, 1}}), (Mesh{1, 1, 4}));        // dealt round the nodes
  EXPECT_EQ(Mesh::natural(5, Topology{{0, 0, 1, 1, 1}}), (Mesh{1, 1, 5}));     // unequal nodes
  EXPECT_EQ(Mesh::natural(6, Topology{{0, 0, 1, 1, 1, 2}}), (Mesh{1, 1, 6}));  // divisible, but unequal
  EXPECT_EQ(Mesh::natural(6, Topology{{0, 0, 1, 1, 2, 1}}), (Mesh{1, 1, 6}));
  EXPECT_EQ(Mesh::natural(8, Topology{{0, 0, 1, 1, 2, 2, 1, 1}}), (Mesh{1, 1, 8}));  // node 1 is twice as large
  EXPECT_TRUE(Mesh::natural(5, Topology{{0, 0, 1, 1, 1}}).is_flat());
}

TEST(Mesh, RefusesWrongArguments) {
  EXPECT_REFUSED("num_ranks is 0", Mesh::natural(0, {}));
  EXPECT_REFUSED("topology.node has 2 entries", Mesh::natural(3, Topology{{0, 1}}));
  EXPECT_REFUSED("num_nodes is 0", Topology::nodes(0, 1));
  EXPECT_REFUSED("ranks_per_node is -1", Topology::nodes(1, -1));
  EXPECT_REFUSED("ranks_per_node is", Topology::nodes(3, std::numeric_limits<int>::max()));
}

}  // namespace
}  // namespace seqccl
