// vote.hpp - the survivors of a failure agree on who they are, in memory that outlives any of them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <concepts>
#include <optional>
#include <thread>
#include <vector>

#include "seqccl/error.hpp"
#include "seqccl/transport.hpp"

SEQCCL_BEGIN

/// Where the votes lie. `propose` is one atomic step that the first caller wins: whoever is stopped or killed at any point of a vote leaves
/// either no decision or a whole one.
template <class T>
concept Ballot = requires(T& ballot, Rank rank, const std::vector<Rank>& members) {
  {ballot.come()};                                                          // this rank can be reached by whoever will be left
  {ballot.look()};                                                          // who has ended meanwhile?
  { ballot.has_come(rank) } -> std::convertible_to<bool>;                   //
  { ballot.is_gone(rank) } -> std::convertible_to<bool>;                    // left, or ended
  {ballot.propose(members)};                                                // the first proposal is the decision
  { ballot.decision() } -> std::same_as<std::optional<std::vector<Rank>>>;  //
};

inline Error left_out(Rank rank, int num_ranks, const std::vector<Rank>& members) {
  return {ErrorKind::stalled,
          fmt::format("Communicator::shrink: rank {} of {} has come too late and was left out: ranks {} have gone on without it", rank,
                      num_ranks, fmt::join(members, ", ")),
          {rank}};
}
inline Error shrunk_before(Rank rank, int num_ranks) {
  return {ErrorKind::argument, fmt::format("Communicator::shrink: rank {} of {} has shrunk this communicator before", rank, num_ranks)};
}

/// Vote
/// ====
///
///     come ──▶ wait until each rank has come or is gone, `timeout` at most ──▶ propose those who have come and are not gone ──▶ decision
///
/// Returns the old ranks of the members, ascending, this rank among them: the same list for every rank that gets one.
/// lib/transport/notes.md says why. @throws Error(stalled), culprit this rank, if the others have decided without it; Error(argument) if
/// it has voted before
template <Ballot Votes>
std::vector<Rank> vote(Rank rank, int num_ranks, std::chrono::nanoseconds timeout, Votes& votes) {
  constexpr auto pause = std::chrono::microseconds(200);
  const auto begin = SteadyClock::now();
  const bool is_first = !votes.has_come(rank);
  if (is_first && !votes.decision()) votes.come();
  for (;;) {
    if (std::optional<std::vector<Rank>> members = votes.decision()) {
      if (!std::binary_search(members->begin(), members->end(), rank)) throw left_out(rank, num_ranks, *members);
      if (is_first) return std::move(*members);
    }
    if (!is_first) throw shrunk_before(rank, num_ranks);
    votes.look();
    std::vector<Rank> members;
    bool is_complete = true;
    for (Rank peer = 0; peer < num_ranks; ++peer) {
      if (peer != rank && votes.is_gone(peer)) continue;
      if (votes.has_come(peer))
        members.push_back(peer);
      else
        is_complete = false;
    }
    if (is_complete || SteadyClock::now() - begin >= timeout)
      votes.propose(members);
    else
      std::this_thread::sleep_for(pause);
  }
}

/// Why the others' waits end if a communicator is shrunk that has not failed.
inline Error shrinks(Rank rank, int num_ranks) {
  return {ErrorKind::local, fmt::format("rank {} of {} shrinks the communicator, so that all have to", rank, num_ranks), {rank}};
}

SEQCCL_END
