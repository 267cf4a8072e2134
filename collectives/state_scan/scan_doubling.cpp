// scan_doubling.cpp - recursive doubling (Kogge and Stone): ceil(log2 P) rounds, the last of them without transitions.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <utility>

#include "scan.hpp"

SEQCCL_BEGIN
namespace collectives {

void ScanRecorder::record_doubling() {
  std::vector<std::vector<Element>> sequences;
  for (const Places& document : documents_) {
    std::vector<Element>& sequence = sequences.emplace_back();
    for (std::size_t v = document.first; v < document.end; ++v)
      sequence.push_back({{order_[v].owner}, summaries_[v].transition, {summaries_[v].update}, order_[v].count});
  }
  double_up(sequences);
  for (std::size_t d = 0; d < documents_.size(); ++d)
    for (std::size_t v = documents_[d].first + 1; v < documents_[d].end; ++v)
      if (mine(v)) enter(v, sequences[d][v - documents_[d].first].past[0]);
}

// Before the round that reaches `reach` elements on, an element's past covers the reach - 1 elements before it, its sum also itself:
//
//     arriving = sum of the element `reach` before      past <- past . arriving      sum <- own . past
//
// Where the sum that travels reaches back to the first element, its T would multiply a zero state and is left out: that is so in the
// whole last round.
void ScanRecorder::double_up(std::vector<std::vector<Element>>& sequences) {
  std::size_t longest = 0;
  for (std::vector<Element>& sequence : sequences) {
    longest = std::max(longest, sequence.size());
    for (Element& element : sequence) {
      element.past.resize(element.owner.size());
      element.sum = element.update;
      element.sum_transition = element.transition;
    }
  }
  for (std::size_t reach = 1; reach < longest; reach *= 2) {
    Round round;
    std::vector<std::vector<Element>> arriving(sequences.size());  // per element that something reaches
    for (std::size_t s = 0; s < sequences.size(); ++s)
      for (std::size_t w = reach; w < sequences[s].size(); ++w)
        arriving[s].push_back(arrive(round, sequences[s][w - reach], sequences[s][w], w >= 2 * reach));
    exchange(std::move(round));
    for (std::size_t s = 0; s < sequences.size(); ++s) {
      std::int64_t length = 0;  // of the reach - 1 elements before
      for (std::size_t i = 1; i < reach && i < sequences[s].size(); ++i) length += sequences[s][i].length;
      for (std::size_t w = reach; w < sequences[s].size(); ++w) {
        absorb(sequences[s][w], arriving[s][w - reach], length, w + 2 * reach < sequences[s].size());
        length += sequences[s][w].length - sequences[s][w - reach + 1].length;
      }
    }
  }
}

/// What goes from one element to another, as the receiver knows it.
ScanRecorder::Element ScanRecorder::arrive(Round& round, const Element& from, const Element& to, bool with_transition) {
  Element arriving;
  const auto num_blocks = static_cast<int>(to.owner.size());
  for (int b = 0; b < num_blocks; ++b) {
    const auto at = to.owner.begin() + b;
    const Rank sender = from.owner[static_cast<std::size_t>(b)];
    const auto take = [&](const Block& source, const Recorder::Shape& shape) {
      const Block block = move(round, sender, *at, source, shape);
      return sender == *at ? copy_of(block) : block;  // what arrives is changed in place
    };
    arriving.past.push_back(take(from.sum[static_cast<std::size_t>(b)], columns_shape(b, num_blocks)));
    if (!with_transition || transition_size_ == 0 || std::find(to.owner.begin(), at, *at) != at) continue;
    const Block transition = take(from.sum_transition, transition_shape());  // once: with the receiver's first block
    if (transition.present()) arriving.past_transition = transition;
  }
  return arriving;
}

/// past <- past . arriving, sum <- own . past. `length`: tokens of the past so far; 0 if there is none.
void ScanRecorder::absorb(Element& element, const Element& arriving, std::int64_t length, bool goes_on) {
  for (std::size_t b = 0; b < element.past.size(); ++b) {
    if (element.owner[b] != plan_.rank()) continue;
    if (length != 0) step({element.past_transition, element.past[b], length}, arriving.past[b]);
    element.past[b] = arriving.past[b];
    if (!goes_on) continue;
    element.sum[b] = copy_of(element.past[b]);
    step({element.transition, element.update[b], element.length}, element.sum[b]);
  }
  if (length != 0) compose({element.past_transition, {}, 0}, arriving.past_transition);
  element.past_transition = arriving.past_transition;
  if (!goes_on) return;
  element.sum_transition = copy_of(element.past_transition);
  compose({element.transition, {}, 0}, element.sum_transition);
}

}  // namespace collectives
SEQCCL_END
