// scan_chain.cpp - the state passes from run to run, in K blocks of columns: P - 2 + K rounds; K = 1 is the plain chain.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <utility>

#include "scan.hpp"

SEQCCL_BEGIN
namespace collectives {

// Block b passes from place h of its document to place h + 1 in round h + b. Between two hops of a block lie a copy and a step.
void ScanRecorder::record_chain(int num_blocks) {
  const std::size_t K = static_cast<std::size_t>(num_blocks);
  std::vector<std::vector<Block>> entering(order_.size(), std::vector<Block>(K)), updates = entering;
  std::size_t num_rounds = 0;
  for (const Places& document : documents_)
    if (document.size() > 1) num_rounds = std::max(num_rounds, document.size() - 2 + K);
  for (std::size_t v = 0; v < order_.size(); ++v)
    for (int b = 0; mine(v) && !order_[v].closes_document && b < num_blocks; ++b)
      updates[v][static_cast<std::size_t>(b)] = states_.take(summaries_[v].update, b, num_blocks);

  const auto leaving = [&](std::size_t v, std::size_t b) {
    if (order_[v].opens_document) return updates[v][b];
    const Block state = copy_of(entering[v][b]);
    step({summaries_[v].transition, updates[v][b], order_[v].count}, state);
    return state;
  };
  const auto finish = [&](std::size_t v) {
    if (mine(v) && !order_[v].opens_document) enter(v, states_.join(entering[v]));
  };
  for (std::size_t t = 0; t < num_rounds; ++t) {
    Round round;
    for (const Places& document : documents_)
      for (std::size_t b = 0; b < K && b <= t; ++b) {
        const std::size_t v = document.first + t - b, next = v + 1;
        if (next >= document.end || (!mine(v) && !mine(next))) continue;
        const Block state = mine(v) ? leaving(v, b) : Block{};
        entering[next][b] = move(round, order_[v].owner, order_[next].owner, state, columns_shape(static_cast<int>(b), num_blocks));
      }
    exchange(std::move(round));
    if (t + 1 < K) continue;
    for (const Places& document : documents_) {  // what has passed on its last block, and the last run once it has all of them
      const std::size_t v = document.first + t + 1 - K;
      if (v + 1 < document.end) finish(v);
      if (v + 2 == document.end) finish(v + 1);
    }
  }
}

}  // namespace collectives
SEQCCL_END
