// join.cpp - a rank's beginning and end: nobody sends before all have connected, and what was sent comes before its sender goes.
// SPDX-License-Identifier: Apache-2.0
#include "state.hpp"

#if SEQCCL_HAS_UCX

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "../bootstrap/wire.hpp"
#include "../shm/connect.hpp"
#include "seqccl/log.hpp"

SEQCCL_BEGIN
namespace ucx {
namespace {

constexpr auto closing_patience = std::chrono::milliseconds(200);
constexpr auto unfound_patience = std::chrono::milliseconds(200);

template <class IsHere>
void await_all(State& s, SteadyClock::time_point deadline, const char* what, IsHere&& is_here) {
  std::vector<Rank> missing;
  std::unique_lock lock(s.mutex);
  const auto all_here = [&] {
    missing.clear();
    for (Rank peer = 0; peer < s.num_ranks; ++peer)
      if (!is_here(static_cast<std::size_t>(peer))) missing.push_back(peer);
    return missing.empty() || s.failure.has_value();
  };
  const bool in_time = s.changed.wait_until(lock, deadline, all_here);
  if (s.failure) throw Error(*s.failure);
  if (in_time) return;
  const auto text = fmt::format("ucx: rank {}: ranks {} {}", s.rank, fmt::join(missing, ", "), what);
  throw Error(ErrorKind::stalled, text, std::move(missing));
}

/// Ranks of one host meet once more, to share memory: their cards go over the control connections.
void meet_neighbours(State& s, SteadyClock::time_point deadline) {
  const std::vector<Rank>& ranks = s.sharing;
  const auto is_sharing = [&](std::size_t peer) { return std::binary_search(ranks.begin(), ranks.end(), static_cast<Rank>(peer)); };
  const AllGather swap_cards = [&](std::string_view mine) {
    for (const Rank peer : ranks) s.control.post(peer, NoteKind::card, mine);
    {
      const std::lock_guard lock(s.mutex);
      s.cards[static_cast<std::size_t>(s.rank)] = mine;
    }
    await_all(s, deadline, "are on one host with it, but do not say how to share memory",
              [&](std::size_t peer) { return !is_sharing(peer) || !s.cards[peer].empty(); });
    std::vector<std::string> cards;
    for (const Rank peer : ranks) cards.push_back(s.cards[static_cast<std::size_t>(peer)]);
    return cards;
  };
  const auto seat = static_cast<Rank>(std::lower_bound(ranks.begin(), ranks.end(), s.rank) - ranks.begin());
  try {
    // Who ends later is seen on the control connections.
    shm::Meeting meeting = shm::meet(seat, static_cast<int>(ranks.size()), swap_cards, deadline - SteadyClock::now());
    s.neighbours = std::make_unique<Neighbours>(s.rank, s.num_ranks, ranks, std::move(meeting.segments),
                                                [&s](const shm::Clash& clash) { s.fail_for(clash); });
  } catch (const Error& error) {  // who has ended meanwhile is told in clearer words
    std::unique_lock lock(s.mutex);
    if (s.changed.wait_for(lock, unfound_patience, [&] { return s.failure.has_value(); })) throw Error(*s.failure);
    std::vector<Rank> culprits;
    for (const Rank culprit : error.culprits()) culprits.push_back(ranks[static_cast<std::size_t>(culprit)]);
    throw Error(error.kind(),
                fmt::format("ucx: rank {} of {}: ranks {}, which are on one host and numbered from 0 here: {}", s.rank, s.num_ranks,
                            fmt::join(ranks, ", "), error.what()),
                std::move(culprits));
  }
  s.near = s.neighbours.get();
}

}  // namespace

void join(State& s, SteadyClock::time_point deadline) {
  const std::string own = s.data.address();
  std::string note;
  bootstrap::append_number(note, layout_word(), 8);
  s.control.post_to_all(NoteKind::address, note + own);
  {
    const std::lock_guard lock(s.mutex);
    s.addresses[static_cast<std::size_t>(s.rank)] = own;
  }
  await_all(s, deadline, "have connected, but do not say their UCX address", [&](std::size_t peer) { return !s.addresses[peer].empty(); });
  try {
    s.data.connect(s.addresses);  // nobody changes them any more
  } catch (const Error&) {        // who has ended meanwhile is told in clearer words
    std::unique_lock lock(s.mutex);
    if (s.changed.wait_for(lock, unfound_patience, [&] { return s.failure.has_value(); })) throw Error(*s.failure);
    throw;
  }
  s.control.post_to_all(NoteKind::connected, {});
  await_all(s, deadline, "have not connected over UCX in time",
            [&](std::size_t peer) { return s.is_connected[peer] || peer == static_cast<std::size_t>(s.rank); });
  if (s.sharing.size() > 1) meet_neighbours(s, deadline);
  s.is_ready = true;
}

void leave(State& s) noexcept {
  {
    const std::lock_guard lock(s.mutex);
    s.election.close();
  }
  for (Rank peer = 0; peer < s.num_ranks; ++peer) {
    std::string note;
    bootstrap::append_number(note, s.has_failed ? 0 : s.data.num_sent(peer), 8);
    s.control.post(peer, NoteKind::leaving, note);
  }
  const auto deadline = SteadyClock::now() + farewell_patience;
  const auto all_done = [&] {
    const std::lock_guard lock(s.mutex);
    for (Rank peer = 0; peer < s.num_ranks; ++peer) {
      const auto at = static_cast<std::size_t>(peer);
      if (peer != s.rank && !s.has_said_farewell[at] && !s.has_ended[at]) return false;
    }
    return true;
  };
  while (s.is_ready && !s.has_failed && !all_done() && SteadyClock::now() < deadline) {
    const std::uint64_t seen = s.bell.count();
    if (s.data.progress() || all_done()) continue;
    (void)s.bell.sleep(seen, s.data.event(), 5, [&] { return s.data.may_sleep(); });
  }
  s.control.stop(closing_patience);
  s.data.shut();
  if (s.data.is_busy()) {
    s.arena.leak();
    keep_for_good(s.neighbours.release());
    log_line(
        fmt::format("ucx: rank {} left while messages were under way: its arena and UCX worker are kept until the process ends", s.rank));
  }
}

}  // namespace ucx
SEQCCL_END

#endif
