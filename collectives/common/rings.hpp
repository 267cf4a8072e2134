// rings.hpp - a ring of rings: blocks cross nodes on the outer ring while they go round the inner one.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "travel.hpp"

SEQCCL_BEGIN
namespace collectives {

/// Rings
/// =====
///
///     outer step u, inner step w: rank (o, i) holds the block of rank (o + u, i + w)
///
///     comm3    | block of node o+1 ..........| block of node o+2 ..........|
///     comm     | i+1 | i+2 | i+3 |           | i+1 | i+2 | i+3 |
///     compute  | own | i+1 | i+2 | i+3 |     | own | i+1 | i+2 | i+3 |
///
/// P = outer * inner ranks, rank = o * inner + i. With outer = 1 this is one ring. What crosses to a node is the hull of what its ranks
/// need.
class Rings {
 public:
  /// `need(reader, owner)`: rows, as one run, of the owner's block that another rank needs.
  Rings(SoftmaxLayer& layer, const RingPath::RowsTaken& need);

  /// One way: visit(owner, cargo) for every rank's block.
  template <class Visit>
  void visit(const Cargo& own, Visit&& visit) const {
    const Blocks mine = sendable(plan_, own);
    const Spare outer_spare = spare_like(plan_, own.blocks, outer_.largest_arrival());
    const Spare inner_spare = spare_like(plan_, own.blocks, largest_inner_arrival());
    record_visits(outer_, pieces_of_node(), own, mine, outer_spare, Lane::comm3, [&](Rank node, const Cargo& block) {
      const Blocks& here = node == node_ ? mine : block.blocks;
      record_visits(inner_[node], pieces_on_node(node), block, here, inner_spare, Lane::comm,
                    [&](Rank place, const Cargo& cargo) { visit(owner(node, place), cargo); });
    });
  }

  /// With sums: visit(owner, cargo, sums) writes what this rank adds for the rows of the cargo; for its own block that is `home`.
  template <class Visit>
  void round_trip(const Cargo& own, const Blocks& home, Visit&& visit) const {
    const Blocks mine = sendable(plan_, own);
    const std::int64_t own_rows = came_[node_][place_].count;
    const std::int64_t crossing = outer_.largest_arrival(), inside = largest_inner_arrival();
    const Spare outer_spare = spare_like(plan_, own.blocks, crossing), inner_spare = spare_like(plan_, own.blocks, inside);
    const SumSpare outer_sums(plan_, home, crossing, outer_.num_ranks() > 1 ? own_rows : 0);
    const SumSpare inner_sums(plan_, home, inside, inner_[node_].num_ranks() > 1 ? std::max(own_rows, crossing) : 0);
    record_round_trip(plan_, outer_, pieces_of_node(), own, mine, home, outer_spare, outer_sums, Lane::comm3, Lane::comm3,
                      [&](Rank node, const Cargo& block, const Blocks& sums) {
                        const Blocks& here = node == node_ ? mine : block.blocks;
                        record_round_trip(
                            plan_, inner_[node], pieces_on_node(node), block, here, sums, inner_spare, inner_sums, Lane::comm, Lane::comm2,
                            [&](Rank place, const Cargo& cargo, const Blocks& part) { visit(owner(node, place), cargo, part); });
                      });
  }

 private:
  [[nodiscard]] Rank owner(Rank node, Rank place) const { return node * num_inner_ + place; }
  [[nodiscard]] std::int64_t largest_inner_arrival() const;
  /// Of blocks as they come to this node, and as they go round it.
  [[nodiscard]] PiecesOf pieces_of_node() const;
  [[nodiscard]] PiecesOf pieces_on_node(Rank node) const;

  Recorder& plan_;
  const Partition& partition_;
  int num_inner_;
  Rank node_, place_;
  RingPath outer_;
  std::vector<std::vector<Rows>> came_;  // [node][place]: rows of that rank's block that come to my node
  std::vector<RingPath> inner_;          // per node whose blocks go round
};

}  // namespace collectives
SEQCCL_END
