// rings.cpp - what crosses to this node, and what goes round it.
// SPDX-License-Identifier: Apache-2.0
#include "rings.hpp"

SEQCCL_BEGIN
namespace collectives {

namespace {

/// Ranks of one place in all nodes, or of all places in one node.
std::vector<Rank> column(int num_nodes, int num_inner, Rank place) {
  std::vector<Rank> ranks;
  for (Rank node = 0; node < num_nodes; ++node) ranks.push_back(node * num_inner + place);
  return ranks;
}
std::vector<Rank> row(int num_inner, Rank node) {
  std::vector<Rank> ranks;
  for (Rank place = 0; place < num_inner; ++place) ranks.push_back(node * num_inner + place);
  return ranks;
}

Rows joined(Rows a, Rows b) {
  if (a.count == 0 || b.count == 0) return a.count == 0 ? b : a;
  const std::int64_t first = std::min(a.first, b.first);
  return {first, std::max(a.end(), b.end()) - first};
}

/// What the ranks of `node` need of `owner`'s block.
Rows need_of_node(const RingPath::RowsTaken& need, int num_inner, Rank node, Rank owner) {
  Rows rows;
  for (Rank place = 0; place < num_inner; ++place) rows = joined(rows, need(node * num_inner + place, owner));
  return rows;
}

}  // namespace

Rings::Rings(SoftmaxLayer& layer, const RingPath::RowsTaken& need)
    : plan_(layer.plan),
      partition_(layer.partition),
      num_inner_(layer.inner),
      node_(layer.rank / layer.inner),
      place_(layer.rank % layer.inner),
      outer_(layer.plan, column(layer.outer, layer.inner, place_),
             [&](Rank reader, Rank node) { return need_of_node(need, num_inner_, reader, node * num_inner_ + place_); }) {
  for (Rank node = 0; node < layer.outer; ++node) {
    std::vector<Rows> came;
    for (Rank place = 0; place < num_inner_; ++place)
      came.push_back(node == node_ ? Rows{0, partition_.tokens_on(owner(node, place))}
                                   : need_of_node(need, num_inner_, node_, owner(node, place)));
    inner_.emplace_back(plan_, row(num_inner_, node_), [&](Rank reader, Rank place) {
      const Rows rows = need(owner(node_, reader), owner(node, place));
      return rows.count == 0 ? Rows{} : Rows{rows.first - came[place].first, rows.count};
    });
    came_.push_back(std::move(came));
  }
}

std::int64_t Rings::largest_inner_arrival() const {
  std::int64_t largest = 0;
  for (const RingPath& path : inner_) largest = std::max(largest, path.largest_arrival());
  return largest;
}

PiecesOf Rings::pieces_of_node() const {
  return [this](Rank node, Rows rows) { return partition_.pieces(owner(node, place_), rows); };
}

PiecesOf Rings::pieces_on_node(Rank node) const {
  return [this, node](Rank place, Rows rows) {
    return partition_.pieces(owner(node, place), {came_[node][place].first + rows.first, rows.count});
  };
}

}  // namespace collectives
SEQCCL_END
