// election.cpp - one decision by ballots, promises and acceptances; majorities of those that have not ended.
// SPDX-License-Identifier: Apache-2.0
#include "election.hpp"

#include <algorithm>

SEQCCL_BEGIN
namespace ucx {
namespace {

constexpr int rank_bits = 32;  // of a ballot; above them the round

}  // namespace

Election::Election(Rank rank, int num_ranks) : rank_(rank), voters_(static_cast<std::size_t>(num_ranks)) {}

bool Election::come() {
  if (is_closed_ || decision_) return false;
  at(rank_).said.has_come = true;
  return advance(true);
}

bool Election::propose() {
  if (is_closed_ || decision_) return false;
  std::uint64_t highest = 0;
  for (const Voter& voter : voters_) highest = std::max(highest, voter.said.promised);
  at(rank_).said.promised = ((highest >> rank_bits) + 1) << rank_bits | static_cast<std::uint64_t>(rank_);
  return advance(true);
}

bool Election::hear(Rank peer, const Statement& statement) {
  at(peer).said = statement;
  return advance(false);
}

bool Election::confirm(Rank peer, std::uint64_t number) {
  Voter& voter = at(peer);
  if (voter.said.number == number) voter.confirmed = voter.said;  // else it has said more since, which will be confirmed
  return advance(false);
}

bool Election::lose(Rank peer) {
  at(peer).has_ended = true;
  return advance(false);
}

void Election::lose_sight(Rank peer) { at(peer).is_out_of_sight = true; }

void Election::settle(const std::vector<Rank>& members) {
  if (!is_closed_ && !decision_) decision_ = members;
}

bool Election::is_complete() const {
  return std::all_of(voters_.begin(), voters_.end(),
                     [](const Voter& voter) { return voter.said.has_come || voter.has_ended || voter.is_out_of_sight; });
}

int Election::turn() const {
  return static_cast<int>(std::count_if(voters_.begin(), voters_.begin() + rank_, [&](const Voter& voter) { return can_go_on(voter); }));
}

std::vector<Rank> Election::silent() const {
  std::vector<Rank> ranks;
  for (Rank rank = 0; rank < static_cast<Rank>(voters_.size()); ++rank)
    if (rank != rank_ && !at(rank).has_ended && at(rank).confirmed.promised < own().promised) ranks.push_back(rank);
  return ranks;
}

/// More than half of those that have not ended, or half of them with the lowest among these.
bool Election::is_majority(const std::function<bool(const Statement&)>& agrees) const {
  int num_for = 0, num_against = 0;
  std::optional<bool> lowest;
  for (const Voter& voter : voters_) {
    if (voter.has_ended) continue;
    const bool is_for = agrees(voter.confirmed);
    ++(is_for ? num_for : num_against);
    if (!lowest) lowest = is_for;
  }
  return num_for > num_against || (num_for == num_against && lowest.value_or(false));
}

bool Election::advance(bool has_changed) {
  if (is_closed_ || decision_) return false;
  has_changed |= follow();
  has_changed |= lead();
  if (has_changed) ++at(rank_).said.number;
  decide();
  return has_changed;
}

/// To whatever has been heard of the highest ballot.
bool Election::follow() {
  Statement& mine = at(rank_).said;
  bool has_changed = false;
  for (const Voter& voter : voters_) {
    const Statement& theirs = voter.said;
    if (theirs.promised > mine.promised) {
      mine.promised = theirs.promised;
      has_changed = true;
    }
    if (theirs.accepted >= mine.promised && theirs.accepted > mine.accepted) {
      mine.accepted = theirs.accepted;
      mine.members = theirs.members;
      has_changed = true;
    }
  }
  return has_changed;
}

/// A ballot of this rank's that has its promises proposes what may have been decided before, else those who can go on.
bool Election::lead() {
  Statement& mine = at(rank_).said;
  const std::uint64_t ballot = mine.promised, proposer = ballot & ((std::uint64_t{1} << rank_bits) - 1);
  if (ballot == 0 || proposer != static_cast<std::uint64_t>(rank_) || mine.accepted == ballot) return false;
  if (!is_majority([&](const Statement& statement) { return statement.promised == ballot; })) return false;
  const auto last =
      std::max_element(voters_.begin(), voters_.end(), [](const Voter& a, const Voter& b) { return a.said.accepted < b.said.accepted; });
  std::vector<Rank> members = last->said.members;
  if (last->said.accepted == 0)
    for (Rank rank = 0; rank < static_cast<Rank>(voters_.size()); ++rank)
      if (can_go_on(at(rank))) members.push_back(rank);
  mine.members = std::move(members);
  mine.accepted = ballot;
  return true;
}

void Election::decide() {
  const Statement& mine = own();
  if (mine.accepted == 0 || mine.accepted != mine.promised) return;
  if (is_majority([&](const Statement& statement) { return statement.accepted == mine.accepted; })) decision_ = mine.members;
}

}  // namespace ucx
SEQCCL_END
