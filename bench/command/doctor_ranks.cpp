// doctor_ranks.cpp - turns the clock back to the first failure: ranks notice one after the other, and go on meanwhile.
// SPDX-License-Identifier: Apache-2.0
#include "command/doctor_ranks.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace seqccl::command {
namespace {

using Doing = RankAtMoment::Doing;

bool ended_by(const std::optional<Nanoseconds>& end_ns, Nanoseconds at_ns) { return end_ns && *end_ns <= at_ns; }

/// Operations begun and ended at `at_ns`.
void count_operations(RankAtMoment& rank, Nanoseconds at_ns) {
  const FlightRecord& record = *rank.record;
  if (!record.operations.empty()) rank.begun = rank.ended = record.operations.front().number - 1;
  for (const RecordedOperation& each : record.operations) {
    if (each.begin_ns <= at_ns) rank.begun = each.number;
    if (ended_by(each.end_ns, at_ns)) rank.ended = each.number;
  }
}

void look_into(RankAtMoment& rank, std::uint64_t operation, Nanoseconds at_ns) {
  const RecordedOperation* own = rank.record->operation(operation);
  if (rank.begun < operation) {
    rank.doing = Doing::not_called;
    if (const RecordedOperation* before = rank.record->operation(rank.ended); before != nullptr) rank.since_ns = before->end_ns;
    return;
  }
  const RecordedStep *computes = nullptr, *waits = nullptr;
  for (const RecordedStep& step : rank.record->steps) {
    if (step.operation != operation || step.begin_ns > at_ns) continue;
    if (!ended_by(step.end_ns, at_ns)) rank.lowest_open = std::min(step.step, rank.lowest_open.value_or(step.step));
    if (ended_by(step.end_ns, at_ns)) {
      rank.steps_ended.insert(step.step);
      if (rank.last_ended == nullptr || *rank.last_ended->end_ns <= *step.end_ns) rank.last_ended = &step;
    } else if (step.computes()) {
      computes = &step;
    } else if (waits == nullptr) {  // the oldest
      waits = &step;
    }
  }
  if (rank.ended >= operation) {
    rank.doing = Doing::ended;
    if (own != nullptr) rank.since_ns = own->end_ns;
    return;
  }
  const RecordedStep* const current = computes != nullptr ? computes : waits;
  rank.doing = computes != nullptr ? Doing::computing : waits != nullptr && waits->waited_for ? Doing::waiting : Doing::nothing;
  if (current != nullptr) {
    rank.step = current->step;
    rank.label = current->label;
    rank.since_ns = current->begin_ns;
  } else if (rank.last_ended != nullptr) {
    rank.since_ns = rank.last_ended->end_ns;
  } else if (own != nullptr) {
    rank.since_ns = own->begin_ns;
  }
  if (rank.doing == Doing::waiting) rank.waits_for = *waits->waited_for;
}

/// What the others' records tell of a rank that left none.
void look_from_outside(RankAtMoment& rank, const Moment& moment) {
  const RecordedPeer& peer = moment.first->peers[static_cast<std::size_t>(rank.rank)];
  const auto& error = moment.first->error;
  if (peer.heard && peer.progress_ns > 0 && (peer.begun > 0 || peer.left)) rank.since_ns = peer.progress_ns;
  if (error && error->kind == name(ErrorKind::dead) && !peer.left &&
      std::find(error->culprits.begin(), error->culprits.end(), rank.rank) != error->culprits.end())
    rank.doing = Doing::died;
  else if (peer.left)
    rank.doing = Doing::left;
  else if (!peer.heard)
    rank.doing = Doing::unknown;
  else if (peer.begun < moment.operation)
    rank.doing = Doing::not_called;
  else if (peer.ended >= moment.operation)
    rank.doing = Doing::ended;
  else if (peer.compute_step >= 0)
    rank.doing = Doing::computing;
  else
    rank.doing = peer.waiting_for >= 0 ? Doing::waiting : Doing::nothing;
  if (rank.doing == Doing::computing || (rank.doing == Doing::died && peer.compute_step >= 0))
    rank.step = static_cast<std::uint32_t>(peer.compute_step);
  if (rank.doing == Doing::waiting) rank.waits_for = peer.waiting_for;
  if (!rank.step) return;
  // Its schedule is like the others': what a step is there says what it is here, but for the peers.
  for (const RecordedStep& step : moment.first->steps)
    if (step.operation == moment.operation && step.step == *rank.step)
      rank.label = fmt::format("on rank {}: {}", moment.first->rank, step.label);
}

}  // namespace

std::string RankAtMoment::step_text() const {
  if (!step) return "";
  return label.empty() ? fmt::format("step {}", *step) : fmt::format("step {} ({})", *step, label);
}

std::vector<Rank> Moment::chain_from(Rank rank) const {
  std::vector<Rank> chain{rank};
  for (;;) {
    const RankAtMoment& last = ranks[static_cast<std::size_t>(chain.back())];
    if (last.doing != Doing::waiting) return chain;
    const bool is_cycle = std::find(chain.begin(), chain.end(), last.waits_for) != chain.end();
    chain.push_back(last.waits_for);
    if (is_cycle) return chain;
  }
}

Moment moment_of(const std::vector<FlightRecord>& records) {
  Moment moment;
  for (const FlightRecord& record : records)
    if (record.error && (!moment.is_failure || record.error->at_ns < moment.at_ns)) {
      moment.is_failure = true;
      moment.at_ns = record.error->at_ns;
      moment.first = &record;
    }
  if (moment.first == nullptr) {
    moment.first = &*std::min_element(records.begin(), records.end(),
                                      [](const FlightRecord& a, const FlightRecord& b) { return a.written_ns < b.written_ns; });
    moment.at_ns = moment.first->written_ns;
  }

  moment.ranks.resize(static_cast<std::size_t>(moment.first->num_ranks));
  for (const FlightRecord& record : records) moment.ranks[static_cast<std::size_t>(record.rank)].record = &record;
  const auto at = [&](const RankAtMoment& rank) { return moment.is_failure ? moment.at_ns : rank.record->written_ns; };
  for (std::size_t i = 0; i < moment.ranks.size(); ++i) {
    RankAtMoment& rank = moment.ranks[i];
    rank.rank = static_cast<Rank>(i);
    if (rank.record != nullptr) {
      count_operations(rank, at(rank));
    } else {
      rank.seen_by = moment.first->rank;
      rank.heard = moment.first->peers[i].heard;
      rank.begun = moment.first->peers[i].begun;
      rank.ended = moment.first->peers[i].ended;
    }
    if (rank.begun > rank.ended && (moment.operation == 0 || rank.begun < moment.operation)) moment.operation = rank.begun;
  }
  // A rank that died or failed by itself is the one to look at, wherever the others were.
  if (const auto& error = moment.first->error;
      error && error->culprits.size() == 1 && (error->kind == name(ErrorKind::dead) || error->kind == name(ErrorKind::local)))
    if (const RankAtMoment& culprit = moment.ranks[static_cast<std::size_t>(error->culprits.front())]; culprit.begun > culprit.ended)
      moment.operation = culprit.begun;
  for (RankAtMoment& rank : moment.ranks) {
    if (rank.record == nullptr)
      look_from_outside(rank, moment);
    else if (moment.operation != 0)
      look_into(rank, moment.operation, at(rank));
  }
  return moment;
}

}  // namespace seqccl::command
