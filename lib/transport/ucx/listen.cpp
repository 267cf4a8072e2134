// listen.cpp - what the others say, and that they say nothing more: on the control thread.
// SPDX-License-Identifier: Apache-2.0
#include "state.hpp"

#if SEQCCL_HAS_UCX

#include <thread>

#include "notes.hpp"

SEQCCL_BEGIN
namespace ucx {

using namespace std::chrono_literals;

void take_note(State& s, Rank peer, NoteKind kind, std::string_view text) {
  const auto at = static_cast<std::size_t>(peer);
  switch (kind) {
    case NoteKind::address: {
      NoteReader reader(text);
      if (reader.number(8) != layout_word()) {
        s.abort(
            Error(ErrorKind::mismatched, fmt::format("ucx: ranks {} and {} run different builds of seqccl", s.rank, peer), {s.rank, peer}));
        break;
      }
      const std::lock_guard lock(s.mutex);
      s.addresses[at] = reader.rest();
      break;
    }
    case NoteKind::connected: {
      const std::lock_guard lock(s.mutex);
      s.is_connected[at] = true;
      break;
    }
    case NoteKind::card: {
      const std::lock_guard lock(s.mutex);
      s.cards[at] = text;
      break;
    }
    case NoteKind::failure:
      (void)s.fail(read_failure(text));
      break;
    case NoteKind::leaving: {
      // Left is what a rank is when all has come that it sent, and what this rank was about to hand over to it is known to have come: a
      // wait for it then ends in vain, and not before.
      const std::uint64_t num_sent = NoteReader(text).number(8);
      const auto deadline = SteadyClock::now() + farewell_patience;
      while (s.is_ready && !s.has_failed && (s.data.num_come(peer) < num_sent || s.data.is_sending_to(peer)) &&
             SteadyClock::now() < deadline)
        if (!s.data.progress()) std::this_thread::sleep_for(20us);
      s.data.forget(peer);
      s.statuses[at].left.store(true);
      {
        const std::lock_guard lock(s.mutex);
        s.spread(s.election.lose(peer));
      }
      s.control.post(peer, NoteKind::farewell, {});
      break;
    }
    case NoteKind::farewell: {
      const std::lock_guard lock(s.mutex);
      s.has_said_farewell[at] = true;
      break;
    }
    case NoteKind::ask: {
      // Who asks waits, perhaps for the end of a message that UCX still holds because this rank is busy outside the library.
      for (int i = 0; i < 1000 && s.is_ready && !s.has_failed && s.data.progress(); ++i) continue;
      std::string own;
      {
        const std::lock_guard lock(s.mutex);
        own = s.descriptions[static_cast<std::size_t>(s.rank)];
      }
      s.control.post(peer, NoteKind::status, status_note(s.statuses[static_cast<std::size_t>(s.rank)], own));
      break;
    }
    case NoteKind::status: {
      std::string description = read_status(text, s.statuses[at]);
      s.status_ns[at].store(SteadyClock::now().time_since_epoch().count());
      const std::lock_guard lock(s.mutex);
      s.descriptions[at] = std::move(description);
      ++s.num_answers[at];
      break;
    }
    case NoteKind::statement: {
      const Statement statement = read_statement(text, s.num_ranks);
      const std::lock_guard lock(s.mutex);
      s.spread(s.election.hear(peer, statement));
      break;
    }
    case NoteKind::confirmed: {
      const std::uint64_t number = NoteReader(text).number(8);
      const std::lock_guard lock(s.mutex);
      s.spread(s.election.confirm(peer, number));
      break;
    }
    case NoteKind::decided: {
      NoteReader reader(text);
      const std::vector<Rank> members = read_members(reader, s.num_ranks);
      const std::lock_guard lock(s.mutex);
      s.election.settle(members);
      break;
    }
  }
  s.changed.notify_all();
  s.ring();
}

void connection_ended(State& s, Rank peer, Ending how) {
  const auto at = static_cast<std::size_t>(peer);
  {
    const std::lock_guard lock(s.mutex);
    s.has_ended[at] = true;
    if (how == Ending::ended)
      s.spread(s.election.lose(peer));
    else if (how == Ending::unreachable)
      s.election.lose_sight(peer);
    else
      s.election.close();  // the peer takes this rank for ended
  }
  s.data.forget(peer);
  if (!s.statuses[at].left.load()) {
    // It can no longer say where it was: what it last said is told, if it was asked at all, and where this rank is.
    const MismatchSide theirs = s.side(peer, 0);
    const auto text = fmt::format(
        "rank {0} of {1}: the process of rank {2} has ended without leaving its communicator, or its host cannot be reached any more; "
        "rank {0} was in {3}{4}",
        s.rank, s.num_ranks, peer, where(s.side(s.rank, 0)),
        theirs.operation == 0 ? "" : fmt::format(", rank {} was last heard of in {}", peer, where(theirs)));
    s.abort(Error(ErrorKind::dead, text, {peer}));
  }
  s.changed.notify_all();
  s.ring();
}

void delivered(State& s, std::uint64_t number) {
  {
    const std::lock_guard lock(s.mutex);
    std::string note;
    bootstrap::append_number(note, number, 8);
    if (!s.control.post_to_all(NoteKind::confirmed, note)) return;  // no memory: it does not count
    s.spread(s.election.confirm(s.rank, number));
  }
  s.changed.notify_all();
}

}  // namespace ucx
SEQCCL_END

#endif
