// scan.cpp - the scan algorithms: all_gather (one round) and chain (P - 1 rounds of one state).
// SPDX-License-Identifier: Apache-2.0
#include "scan.hpp"

#include <algorithm>
#include <utility>

SEQCCL_BEGIN
namespace collectives {

std::vector<Run> runs_of(const Partition& partition) {
  std::vector<Run> runs;
  for (Rank owner = 0; owner < partition.num_ranks(); ++owner) {
    std::int64_t index = 0, local = 0;
    for (const Segment& segment : partition.segments(owner)) {
      runs.push_back({owner, index++, local, segment.count, segment.first});
      local += segment.count;
    }
  }
  std::sort(runs.begin(), runs.end(), [](const Run& a, const Run& b) { return a.first < b.first; });
  return runs;
}

Block ScanRecorder::scratch_state() { return plan_.scratch(f32, {setup_.batch, 1, setup_.heads, setup_.state_size}); }

Summary ScanRecorder::summary(std::size_t v) {
  summaries_.resize(order_.size());
  Summary& summary = summaries_[v];
  if (!summary.update.present()) {
    summary.update = scratch_state();
    if (setup_.log_sum_size != 0) summary.log_sum = plan_.scratch(f32, {setup_.batch, 1, setup_.heads, setup_.log_sum_size});
  }
  return summary;
}

void ScanRecorder::give(std::size_t v, const Summary& summary) {
  summaries_.resize(order_.size());
  summaries_[v] = summary;
}

void ScanRecorder::step(std::size_t v, const Block& state) {
  StateStep op{.log_sum = summaries_[v].log_sum, .update = summaries_[v].update, .state = state};
  if (setup_.constant.present()) {
    op.log_sum = setup_.constant;
    op.repeat = order_[v].count;
  }
  plan_.compute(op, order_[v].owner);
}

// Every run goes to the ranks that own a later run.
void ScanRecorder::exchange(Scan scan) {
  summaries_.resize(order_.size());
  if (order_.empty()) return;
  if (mine(0) && setup_.initial.present()) {  // fold the initial state into the first update
    const Block folded = scratch_state();
    plan_.compute(Copy{setup_.initial, folded});
    step(0, folded);
    summaries_[0].update = folded;
  }
  if (scan == Scan::chain) return;

  std::vector<std::size_t> last_of(plan_.num_ranks(), 0);  // place of each rank's last run
  for (std::size_t v = 0; v < order_.size(); ++v) last_of[order_[v].owner] = v;
  std::vector<Transfer> sends, receives;
  for (std::size_t v = 0; v + 1 < order_.size(); ++v) {
    const bool travels_log_sum = setup_.log_sum_size != 0 && v > 0;
    if (mine(v)) {
      // In the order of the scan: ranks then receive from one peer after the other, not all from the same one.
      for (std::size_t later = v + 1; later < order_.size(); ++later) {
        const Rank to = order_[later].owner;
        if (to == plan_.rank() || last_of[to] != later) continue;  // once per rank: at its last run
        sends.push_back({to, summaries_[v].update});
        if (travels_log_sum) sends.push_back({to, summaries_[v].log_sum});
      }
    } else if (last_of[plan_.rank()] > v) {
      summaries_[v].update = scratch_state();
      receives.push_back({order_[v].owner, summaries_[v].update});
      if (!travels_log_sum) continue;
      summaries_[v].log_sum = plan_.scratch(f32, {setup_.batch, 1, setup_.heads, setup_.log_sum_size});
      receives.push_back({order_[v].owner, summaries_[v].log_sum});
    }
  }
  plan_.exchange(std::move(sends), std::move(receives));
}

void ScanRecorder::finish(Scan scan, const std::function<void(std::size_t, const Block&)>& enter, const Block& leaving) {
  if (scan == Scan::all_gather)
    finish_gathered(enter, leaving);
  else
    finish_chain(enter, leaving);
}

void ScanRecorder::finish_gathered(const std::function<void(std::size_t, const Block&)>& enter, const Block& leaving) {
  std::size_t end = 0;  // one past my last run
  for (std::size_t v = 0; v < order_.size(); ++v)
    if (mine(v)) end = v + 1;
  Block state;
  for (std::size_t v = 0; v < end; ++v) {
    const bool is_last = v + 1 == order_.size();
    if (mine(v)) enter(v, v == 0 ? setup_.initial : state);
    if (v + 1 == end && !(is_last && leaving.present())) break;
    if (v == 0) {
      state = scratch_state();
      plan_.compute(Copy{summaries_[0].update, state}, order_[0].owner);
    } else {
      step(v, state);
    }
    if (is_last) plan_.compute(Copy{state, leaving});
  }
}

// Receive, hand over, step, send: only `step` lies between two hops.
void ScanRecorder::finish_chain(const std::function<void(std::size_t, const Block&)>& enter, const Block& leaving) {
  Block state;  // what entered my present run, then what leaves it
  for (std::size_t v = 0; v < order_.size(); ++v) {
    if (!mine(v)) continue;
    if (v > 0 && !mine(v - 1)) {
      state = scratch_state();
      plan_.exchange({}, {{order_[v - 1].owner, state}}, Lane::comm, Native::none, order_[v - 1].owner);
    }
    const bool is_last = v + 1 == order_.size();
    const Block entering = v == 0 ? setup_.initial : state;
    if (!is_last || leaving.present()) {
      const Block next = scratch_state();
      if (v == 0) {
        plan_.compute(Copy{summaries_[0].update, next}, plan_.rank());
      } else {
        plan_.compute(Copy{state, next}, plan_.rank());
        step(v, next);
      }
      if (is_last)
        plan_.compute(Copy{next, leaving});
      else if (!mine(v + 1))
        plan_.exchange({{order_[v + 1].owner, next}}, {}, Lane::comm, Native::none, order_[v + 1].owner);
      state = next;
    }
    enter(v, entering);
  }
}

}  // namespace collectives
SEQCCL_END
