// shrink.cpp - the survivors of a failed group vote over the connections that they have, and keep them.
// SPDX-License-Identifier: Apache-2.0
#include "state.hpp"

#if SEQCCL_HAS_UCX

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "../vote.hpp"
#include "notes.hpp"

SEQCCL_BEGIN
namespace ucx {
namespace {

using namespace std::chrono_literals;

constexpr auto ballot_patience = 100ms, turn_patience = 50ms, longest_patience = 400ms;  // without a word of the vote
constexpr auto vote_patience = 1200ms, join_patience = 600ms;                            // beyond the timeout
constexpr auto parting_patience = 200ms;

/// Nobody hears of this rank any more: the others need not wait for it, nor believe that it may still decide something.
void withdraw(State& s) {
  std::string none;
  bootstrap::append_number(none, 0, 8);
  s.control.post_to_all(NoteKind::leaving, none);
  s.control.stop(parting_patience);
}

[[noreturn]] void give_up(State& s, std::unique_lock<std::mutex>& lock) {
  const bool was_closed = s.election.is_closed();
  std::vector<Rank> silent = s.election.silent();
  s.election.close();
  lock.unlock();
  withdraw(s);
  if (was_closed)
    throw Error(
        ErrorKind::local,
        fmt::format("Communicator::shrink: rank {} of {} cannot vote: it lacks memory, or could not read what another rank has said",
                    s.rank, s.num_ranks),
        {s.rank});
  const auto text = fmt::format(
      "Communicator::shrink: rank {} of {}: ranks {} do not answer, but their processes have not ended; to go on without them takes more "
      "than half of those that have not ended, or half with the lowest of them; end those processes, or start the ranks that are left anew",
      s.rank, s.num_ranks, fmt::join(silent, ", "));
  throw Error(ErrorKind::stalled, text, std::move(silent));
}

/// Until when this rank leaves it to others to propose. Whoever comes first by rank begins; the next ones follow if nothing is heard.
SteadyClock::time_point turn_of(const State& s, SteadyClock::time_point ready) {
  const int turn = s.election.turn();
  if (turn == 0 && s.election.own().promised == 0) return ready;
  return std::max(ready, s.last_heard) + std::min<std::chrono::nanoseconds>(ballot_patience + turn * turn_patience, longest_patience);
}

std::vector<Rank> vote(State& s, SteadyClock::time_point end_of_patience) {
  std::unique_lock lock(s.mutex);
  const bool is_first = !s.election.has_come(s.rank);
  if (is_first) s.spread(s.election.come());
  for (std::optional<SteadyClock::time_point> ready;;) {
    if (const auto& members = s.election.decision()) {
      if (!std::binary_search(members->begin(), members->end(), s.rank)) throw left_out(s.rank, s.num_ranks, *members);
      if (is_first) return *members;
    }
    if (!is_first) throw shrunk_before(s.rank, s.num_ranks);
    const auto now = SteadyClock::now(), end = end_of_patience + vote_patience;
    if (s.election.is_closed() || now >= end) give_up(s, lock);
    if (!ready && (s.election.is_complete() || now >= end_of_patience)) ready = now;
    const auto next = ready ? turn_of(s, *ready) : end_of_patience;
    if (ready && now >= next) {
      s.spread(s.election.propose());
      continue;
    }
    s.changed.wait_until(lock, std::min(next, end));
  }
}

}  // namespace

Survivors shrink(State& s, std::chrono::nanoseconds timeout) {
  const auto end_of_patience = SteadyClock::now() + timeout;
  Survivors survivors;
  survivors.former_ranks = vote(s, end_of_patience);
  const std::vector<Rank>& members = survivors.former_ranks;
  // The last word of the old group on every connection: who reads it knows the decision, whatever becomes of this rank.
  if (!s.control.post_to_all(NoteKind::decided, members_note(members))) {
    withdraw(s);
    throw Error(ErrorKind::local, fmt::format("Communicator::shrink: rank {} of {} has no memory for the decision", s.rank, s.num_ranks),
                {s.rank});
  }
  survivors.lines = s.control.release(members);
  survivors.rank = static_cast<Rank>(std::lower_bound(members.begin(), members.end(), s.rank) - members.begin());
  for (std::size_t i = 0; i < members.size(); ++i)
    if (std::binary_search(s.sharing.begin(), s.sharing.end(), members[i])) survivors.sharing.push_back(static_cast<Rank>(i));
  survivors.deadline = std::max(end_of_patience, SteadyClock::now() + join_patience);
  return survivors;
}

}  // namespace ucx
SEQCCL_END

#endif
