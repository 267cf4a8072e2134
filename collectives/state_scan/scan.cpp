// scan.cpp - what the scans share: summaries, steps, messages, and the order of local work.
// SPDX-License-Identifier: Apache-2.0
#include "scan.hpp"

#include <utility>

SEQCCL_BEGIN
namespace collectives {

ScanRecorder::ScanRecorder(Recorder& plan, std::vector<Run> order, const Setup& setup)
    : plan_(plan),
      states_{plan, setup.batch, setup.heads, setup.key_dim, setup.value_dim},
      order_(std::move(order)),
      documents_(documents_of(order_)),
      setup_(setup),
      transition_size_(is_delta(setup.kind) ? setup.key_dim * setup.key_dim : decay_size(setup.kind, setup.key_dim)),
      summaries_(order_.size()) {
  for (std::size_t v = 0; v < order_.size(); ++v) summaries_[v].length = order_[v].count;
}

bool ScanRecorder::wants_summary(std::size_t v) const {
  return !order_[v].closes_document || (v + 1 == order_.size() && setup_.leaving.present());
}

bool ScanRecorder::wants_transition(std::size_t v) const {
  if (transition_size_ == 0 || !wants_summary(v)) return false;
  return !order_[v].opens_document || (v == 0 && setup_.initial.present());
}

Summary ScanRecorder::summary(std::size_t v) {
  summaries_[v].update = states_.scratch();
  if (wants_transition(v)) summaries_[v].transition = plan_.scratch(f32, transition_shape());
  return summaries_[v];
}

void ScanRecorder::give(std::size_t v, const Block& transition, const Block& update) {
  summaries_[v].update = update;
  if (wants_transition(v)) summaries_[v].transition = transition;
}

void ScanRecorder::record(Scan scan, std::function<void()> local_work, Enter enter) {
  local_work_ = std::move(local_work);
  enter_ = std::move(enter);
  if (!order_.empty() && mine(0) && setup_.initial.present() && wants_summary(0)) {  // fold the initial state into the first update
    const Block folded = copy_of(setup_.initial);
    step(summaries_[0], folded);
    summaries_[0].update = folded;
  }
  switch (scan) {
    case Scan::all_gather:
      record_all_gather();
      break;
    case Scan::chain:
      record_chain(1);
      break;
    case Scan::pipelined_chain:
      record_chain(setup_.column_blocks);
      break;
    case Scan::doubling:
      record_doubling();
      break;
    case Scan::hierarchical:
      record_hierarchical();
      break;
  }
  work_locally();
}

Block ScanRecorder::move(Round& round, Rank from, Rank to, const Block& source, const Recorder::Shape& shape) {
  if (from == plan_.rank() && to == plan_.rank()) return source;
  if (from == plan_.rank()) round.sends.push_back({to, source});
  if (to != plan_.rank()) return {};
  const Block arriving = plan_.scratch(f32, shape);
  round.receives.push_back({from, arriving});
  return arriving;
}

void ScanRecorder::exchange(Round round) {
  plan_.exchange(std::move(round.sends), std::move(round.receives));
  work_locally();
}

void ScanRecorder::work_locally() {
  if (std::exchange(has_worked_, true)) return;
  local_work_();
  for (std::size_t v = 0; v < order_.size(); ++v)
    if (mine(v) && order_[v].opens_document) enter(v, v == 0 ? setup_.initial : Block{});
}

void ScanRecorder::enter(std::size_t v, const Block& state) {
  enter_(v, state);
  if (v + 1 != order_.size() || !setup_.leaving.present()) return;
  plan_.compute(Copy{order_[v].opens_document ? summaries_[v].update : state, setup_.leaving}, plan_.rank());
  if (!order_[v].opens_document) step(summaries_[v], setup_.leaving);
}

void ScanRecorder::step(const Summary& by, const Block& state) {
  StateStep op{.update = by.update, .state = state};
  if (is_delta(setup_.kind))
    op.transition = by.transition;
  else
    op.log_sum = by.transition;
  if (setup_.constant.present()) {
    op.log_sum = setup_.constant;
    op.repeat = by.length;
  }
  plan_.compute(op, plan_.rank());
}

void ScanRecorder::compose(const Summary& by, const Block& transition) {
  if (!transition.present()) return;
  if (is_delta(setup_.kind))
    plan_.compute(StateStep{.state = transition, .transition = by.transition}, plan_.rank());
  else
    plan_.compute(Add{by.transition, transition}, plan_.rank());  // sums of logs
}

Block ScanRecorder::copy_of(const Block& block) {
  if (!block.present()) return {};
  const Slot& slot = plan_.slot(block);
  const Block copy = plan_.scratch(f32, {slot.batch, block.num_tokens, block.num_heads, slot.dim});
  plan_.compute(Copy{block, copy}, plan_.rank());
  return copy;
}

}  // namespace collectives
SEQCCL_END
