// scan_hierarchical.cpp - inside nodes, across nodes with the columns divided, inside again: 2 + ceil(log2 nodes) rounds.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <utility>

#include "scan.hpp"

SEQCCL_BEGIN
namespace collectives {

namespace {

/// Consecutive runs of one document on one node, and the ranks that have them.
struct VirtualNode {
  Places runs;
  std::vector<Rank> ranks{};  // ascending: a node that comes twice (zigzag) has the same workers both times

  /// The rank that works on block b of the columns.
  [[nodiscard]] Rank worker(int b, int num_blocks) const {
    return ranks[static_cast<std::size_t>(b) * ranks.size() / static_cast<std::size_t>(num_blocks)];
  }
};

std::vector<VirtualNode> virtual_nodes(std::span<const Run> order, const Places& document, int ranks_per_node) {
  std::vector<VirtualNode> nodes;
  for (std::size_t v = document.first; v < document.end; ++v) {
    const Rank owner = order[v].owner;
    if (v == document.first || owner / ranks_per_node != order[v - 1].owner / ranks_per_node) nodes.push_back({{v, v}});
    VirtualNode& node = nodes.back();
    node.runs.end = v + 1;
    const auto at = std::lower_bound(node.ranks.begin(), node.ranks.end(), owner);
    if (at == node.ranks.end() || *at != owner) node.ranks.insert(at, owner);
  }
  return nodes;
}

}  // namespace

//     1  inside    the columns of every run's update go to the workers of its node, block by block, and its T to all of them; a worker
//                  finds for its blocks what the runs of the node do that come before each run, and what all of them do
//     2  across    a doubling scan over the nodes, for each block among its workers
//     3  inside    a worker makes its blocks of the state that enters each run, for the run's owner
void ScanRecorder::record_hierarchical() {
  std::vector<Part> parts(order_.size());
  std::vector<std::vector<VirtualNode>> nodes;
  std::vector<std::vector<Element>> sequences;
  const Rank me = plan_.rank();

  Round to_workers;
  for (const Places& document : documents_) {
    nodes.push_back(virtual_nodes(order_, document, setup_.ranks_per_node));
    std::size_t most = 1;
    for (const VirtualNode& node : nodes.back()) most = std::max(most, node.ranks.size());
    const auto num_blocks = static_cast<int>(std::min<std::int64_t>(static_cast<std::int64_t>(most), setup_.value_dim));
    std::vector<Element>& sequence = sequences.emplace_back();
    for (const VirtualNode& node : nodes.back()) {
      Element& element = sequence.emplace_back();
      for (int b = 0; b < num_blocks; ++b) element.owner.push_back(node.worker(b, num_blocks));
      element.update.resize(element.owner.size());
      for (std::size_t v = node.runs.first; v < node.runs.end; ++v) {
        element.length += order_[v].count;
        if (order_[v].closes_document) continue;
        for (int b = 0; b < num_blocks; ++b) {
          const Rank worker = node.worker(b, num_blocks);
          const Block columns = mine(v) ? states_.take(summaries_[v].update, b, num_blocks) : Block{};
          parts[v].update.push_back(move(to_workers, order_[v].owner, worker, columns, columns_shape(b, num_blocks)));
          const bool is_first = b == 0 || node.worker(b - 1, num_blocks) != worker;
          if (order_[v].opens_document || transition_size_ == 0 || !is_first) continue;
          const Block transition = move(to_workers, order_[v].owner, worker, summaries_[v].transition, transition_shape());
          if (worker == me) parts[v].transition = transition;
        }
      }
    }
  }
  exchange(std::move(to_workers));

  for (std::size_t d = 0; d < nodes.size(); ++d)
    for (std::size_t n = 0; n < nodes[d].size(); ++n) add_up_inside(nodes[d][n].runs, n == 0, parts, sequences[d][n]);
  double_up(sequences);

  Round to_owners;
  for (std::size_t d = 0; d < nodes.size(); ++d)
    for (std::size_t n = 0; n < nodes[d].size(); ++n)
      for (std::size_t v = nodes[d][n].runs.first; v < nodes[d][n].runs.end; ++v) {
        if (order_[v].opens_document) continue;
        const Element& element = sequences[d][n];
        const auto num_blocks = static_cast<int>(element.owner.size());
        for (std::size_t b = 0; b < element.owner.size(); ++b) {
          Block state;
          if (element.owner[b] == me && v == nodes[d][n].runs.first) {
            state = element.past[b];
          } else if (element.owner[b] == me && n == 0) {
            state = parts[v].past[b];
          } else if (element.owner[b] == me) {
            state = copy_of(element.past[b]);
            step({parts[v].past_transition, parts[v].past[b], parts[v].past_length}, state);
          }
          parts[v].entering.push_back(
              move(to_owners, element.owner[b], order_[v].owner, state, columns_shape(static_cast<int>(b), num_blocks)));
        }
      }
  exchange(std::move(to_owners));
  for (std::size_t v = 0; v < order_.size(); ++v)
    if (mine(v) && !order_[v].opens_document) enter(v, states_.join(parts[v].entering));
}

/// past . run is the next run's past, or in the end what the whole node does. Nothing enters the first node: there T is not asked for.
void ScanRecorder::add_up_inside(const Places& node, bool is_first, std::vector<Part>& parts, Element& whole) {
  if (std::find(whole.owner.begin(), whole.owner.end(), plan_.rank()) == whole.owner.end()) return;
  for (std::size_t v = node.first; v < node.end && !order_[v].closes_document; ++v) {
    const bool is_last = v + 1 == node.end;
    std::vector<Block>& sum = is_last ? whole.update : parts[v + 1].past;
    Block& transition = is_last ? whole.transition : parts[v + 1].past_transition;
    sum.resize(whole.owner.size());
    for (std::size_t b = 0; b < sum.size(); ++b) {
      if (whole.owner[b] != plan_.rank()) continue;
      sum[b] = v == node.first ? parts[v].update[b] : copy_of(parts[v].past[b]);
      if (v != node.first) step({parts[v].transition, parts[v].update[b], order_[v].count}, sum[b]);
    }
    if (!is_last) parts[v + 1].past_length = parts[v].past_length + order_[v].count;
    if (is_first) continue;
    transition = v == node.first ? parts[v].transition : copy_of(parts[v].past_transition);
    if (v != node.first) compose({parts[v].transition, {}, 0}, transition);
  }
}

}  // namespace collectives
SEQCCL_END
