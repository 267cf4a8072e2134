// election.hpp - ranks that share no memory agree on who goes on: each rank's part, without clocks and connections.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "seqccl/schedule.hpp"

SEQCCL_BEGIN
namespace ucx {

/// All that a rank has said in the vote: the last one replaces those before. Ballots are numbered so that each has one proposer.
struct Statement {
  std::uint64_t number = 0;    // of the statement, from 1
  bool has_come = false;       // it is in Communicator::shrink()
  std::uint64_t promised = 0;  // it accepts nothing more from ballots before this one
  std::uint64_t accepted = 0;  // the last ballot that it has accepted; 0: none
  std::vector<Rank> members;   // that this ballot proposes, ascending
};

/// Election
/// ========
///
///     propose ──▶ promised by a majority ──▶ accepted by a majority ──▶ decision
///
/// Every change of own() goes to all; whoever hears it follows. A statement counts once it is confirmed: it has been delivered to all that
/// live, so that it is known also if its rank ends in that moment. A majority is one of those that have not ended, as far as this rank
/// knows. lib/transport/ucx/notes.md says why two ranks never decide differently.
///
/// Calls that return a bool: true if own() has changed and has to be sent to all. One thread at a time.
class Election {
 public:
  Election(Rank rank, int num_ranks);

  bool come();
  /// Begins a ballot of its own.
  bool propose();
  bool hear(Rank peer, const Statement& statement);
  /// Statement `number` of `peer`, or of this rank, has been delivered to all.
  bool confirm(Rank peer, std::uint64_t number);
  /// `peer` has ended or left, and all that it has said was heard.
  bool lose(Rank peer);
  /// `peer` cannot be reached; it may live. It is not waited for, and counts as one that is silent.
  void lose_sight(Rank peer);
  /// Another rank knows the decision.
  void settle(const std::vector<Rank>& members);
  /// From here on this rank says nothing more.
  void close() noexcept { is_closed_ = true; }
  [[nodiscard]] bool is_closed() const noexcept { return is_closed_; }

  [[nodiscard]] const Statement& own() const noexcept { return at(rank_).said; }
  [[nodiscard]] const std::optional<std::vector<Rank>>& decision() const noexcept { return decision_; }
  [[nodiscard]] bool has_come(Rank rank) const { return at(rank).said.has_come; }
  /// Nobody is left to wait for.
  [[nodiscard]] bool is_complete() const;
  /// How many of those who have come should propose before this rank.
  [[nodiscard]] int turn() const;
  /// Those who live as far as is known, and have not followed this rank's last ballot.
  [[nodiscard]] std::vector<Rank> silent() const;

 private:
  struct Voter {
    Statement said, confirmed;
    bool has_ended = false, is_out_of_sight = false;
  };
  [[nodiscard]] Voter& at(Rank rank) { return voters_[static_cast<std::size_t>(rank)]; }
  [[nodiscard]] const Voter& at(Rank rank) const { return voters_[static_cast<std::size_t>(rank)]; }
  [[nodiscard]] bool can_go_on(const Voter& voter) const { return voter.said.has_come && !voter.has_ended && !voter.is_out_of_sight; }
  [[nodiscard]] bool is_majority(const std::function<bool(const Statement& confirmed)>& agrees) const;
  bool advance(bool has_changed);
  bool follow();
  bool lead();
  void decide();

  Rank rank_;
  std::vector<Voter> voters_;
  std::optional<std::vector<Rank>> decision_;
  bool is_closed_ = false;
};

}  // namespace ucx
SEQCCL_END
