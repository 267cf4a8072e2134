// scan_all_gather.cpp - every rank gathers the summaries of earlier runs and steps through them: one round.
// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "scan.hpp"

SEQCCL_BEGIN
namespace collectives {

// Every run goes to the ranks that own a later run of its document.
void ScanRecorder::record_all_gather() {
  const Rank me = plan_.rank();
  std::vector<std::size_t> last_of(static_cast<std::size_t>(plan_.num_ranks()), 0);  // place of each rank's last run in the document
  Round round;
  for (const Places& document : documents_) {
    for (std::size_t v = document.first; v < document.end; ++v) last_of[order_[v].owner] = v;
    for (std::size_t v = document.first; v + 1 < document.end; ++v) {
      Summary arrived = summaries_[v];
      const auto send = [&](Rank to) {
        arrived.update = move(round, order_[v].owner, to, summaries_[v].update, states_.shape(1));
        if (v > document.first && transition_size_ != 0)
          arrived.transition = move(round, order_[v].owner, to, summaries_[v].transition, transition_shape());
      };
      // In the order of the scan: ranks then receive from one peer after the other, not all from the same one.
      for (std::size_t later = v + 1; later < document.end; ++later) {
        const Rank to = order_[later].owner;
        if (last_of[to] == later && order_[v].owner != to && (mine(v) || to == me)) send(to);  // once per rank: at its last run
      }
      if (!mine(v)) summaries_[v] = arrived;
    }
  }
  exchange(std::move(round));

  for (const Places& document : documents_) {
    std::size_t last = document.first;  // my last run
    for (std::size_t v = document.first; v < document.end; ++v)
      if (mine(v)) last = v;
    if (last == document.first) continue;
    const Block state = copy_of(summaries_[document.first].update);
    for (std::size_t v = document.first + 1; v <= last; ++v) {
      if (mine(v)) enter(v, state);
      if (v < last) step(summaries_[v], state);
    }
  }
}

}  // namespace collectives
SEQCCL_END
