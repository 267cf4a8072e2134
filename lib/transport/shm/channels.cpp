// channels.cpp - small messages through slots, large ones straight into the receiver's arena.
// SPDX-License-Identifier: Apache-2.0
#include "channels.hpp"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstring>
#include <ctime>

SEQCCL_BEGIN
namespace shm {
namespace {

long futex(std::atomic<std::uint32_t>& word, int operation, std::uint32_t value, const timespec* timeout = nullptr) noexcept {
  static_assert(sizeof(word) == sizeof(std::uint32_t));
  return ::syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), operation, value, timeout, nullptr, 0);
}

}  // namespace

Channels::Channels(Rank rank, std::vector<Segment> segments, std::function<void(const Clash&)> on_clash)
    : rank_(rank),
      segments_(std::move(segments)),
      on_clash_(std::move(on_clash)),
      heap_(heap_of(segments_[static_cast<std::size_t>(rank)])),
      incoming_(segments_.size() * num_lanes),
      outgoing_(incoming_.size()),
      counts_(segments_.size()) {
  for (Rank peer = 0; peer < num_ranks(); ++peer)
    for (int lane = 0; lane < num_lanes; ++lane) {
      incoming(peer, lane).channel = &segment(rank_).channel(peer, lane);
      outgoing(peer, lane).channel = &segment(peer).channel(rank_, lane);
    }
}

/// The peers have met this rank already: if it ends here, they see that it has left.
std::shared_ptr<Heap> Channels::heap_of(const Segment& own) {
  try {
    return std::make_shared<Heap>(own);
  } catch (...) {
    own.control().status.left.store(true, std::memory_order_seq_cst);
    throw;
  }
}

std::int64_t Channels::offset_of(const std::byte* data, std::size_t num_bytes) const noexcept {
  const std::int64_t in_arena = segments_[static_cast<std::size_t>(rank_)].offset_of(data, num_bytes);
  return in_arena >= 0 ? in_arena : heap_->offset_of(data, num_bytes);
}

// --- Bells. ---

// What is published is stored seq_cst, then `sleeping` is loaded; a sleeper stores that, then loads what is published. In the one order of
// all these either the sleeper sees what came or the ringer sees him.
void Channels::ring(Rank rank) noexcept {
  Control& who = control(rank);
  if (who.sleeping.load(std::memory_order_seq_cst) == 0 || who.sleeping.exchange(0) == 0) return;
  who.bell.fetch_add(1, std::memory_order_acq_rel);
  futex(who.bell, FUTEX_WAKE, INT_MAX);
}
void Channels::ring_all() noexcept {
  for (Rank rank = 0; rank < num_ranks(); ++rank) ring(rank);
}

void Channels::wake() noexcept {
  // What this rank's own threads publish for each other is not stored seq_cst: the two exchanges on one word order it.
  if (own().sleeping.fetch_or(0, std::memory_order_acq_rel) != 0) ring(rank_);
}

std::uint32_t Channels::announce_sleep() noexcept {
  const std::uint32_t seen = own().bell.load(std::memory_order_acquire);
  own().sleeping.exchange(1, std::memory_order_seq_cst);
  return seen;
}
bool Channels::sleep(std::uint32_t announced, std::chrono::nanoseconds longest) noexcept {
  using namespace std::chrono_literals;
  const timespec timeout{static_cast<time_t>(longest / 1s), static_cast<long>((longest % 1s).count())};
  return futex(own().bell, FUTEX_WAIT, announced, &timeout) == 0 || errno != ETIMEDOUT;
}

// --- Sending. ---

bool Channels::try_send(const Message& send) {
  Outgoing& to = outgoing(send.peer, static_cast<int>(send.lane));
  if (send.num_bytes <= eager_bytes ? put_eager(send, to) : put_direct(send, to)) return true;
  relieve();
  return false;
}

bool Channels::put_eager(const Message& send, Outgoing& to) {
  if (to.sent - to.seen_taken >= num_slots) {
    to.seen_taken = to.channel->taken.load(std::memory_order_seq_cst);
    if (to.sent - to.seen_taken >= num_slots) return false;
  }
  Slot& slot = to.channel->slots[to.sent % num_slots];
  slot.flag = send.flag;
  slot.num_bytes = send.num_bytes;
  if (send.num_bytes != 0) {
    std::byte* room =
        send.num_bytes <= inline_bytes ? slot.bytes : segment(send.peer).room(rank_, static_cast<int>(send.lane), to.sent % num_slots);
    std::memcpy(room, send.data, send.num_bytes);
  }
  announce(slot, send.peer, to);
  return true;
}

bool Channels::put_direct(const Message& send, Outgoing& to) {
  Slot& slot = to.channel->slots[to.sent % num_slots];
  const Credit& credit = to.channel->credits[to.sent % num_slots];
  if (credit.number.load(std::memory_order_seq_cst) != to.sent + 1) {
    offer(send, slot, to);
    return false;
  }
  if (credit.num_bytes != send.num_bytes || credit.flag != send.flag)
    on_clash_({.sender = rank_, .receiver = send.peer, .sent_bytes = send.num_bytes, .expected_bytes = credit.num_bytes});
  slot.flag = send.flag;
  slot.num_bytes = send.num_bytes;
  std::memcpy(segment(send.peer).at(credit.offset, credit.num_bytes), send.data, send.num_bytes);
  announce(slot, send.peer, to);
  return true;
}

/// A receiver that expects something small waits for the slot and gives no credit: it sees what is offered, and that it does not fit.
void Channels::offer(const Message& send, Slot& slot, Outgoing& to) {
  if (slot.offer.load(std::memory_order_relaxed) == to.sent + 1) return;
  to.seen_taken = to.channel->taken.load(std::memory_order_seq_cst);
  if (to.sent - to.seen_taken >= num_slots) return;  // the slot still holds an earlier message
  slot.flag = send.flag;
  slot.num_bytes = send.num_bytes;
  slot.offer.store(to.sent + 1, std::memory_order_seq_cst);
  ring(send.peer);
}

void Channels::announce(Slot& slot, Rank peer, Outgoing& to) {
  slot.arrival.store(++to.sent, std::memory_order_seq_cst);
  ring(peer);
}

// --- Receiving. ---

std::uint64_t Channels::arm(const Message& receive) {
  const std::int64_t offset = receive.num_bytes > eager_bytes ? offset_of(receive.data, receive.num_bytes) : 0;
  Incoming& from = incoming(receive.peer, static_cast<int>(receive.lane));
  from.armed.push_back({receive.data, receive.num_bytes, receive.flag, static_cast<std::uint64_t>(offset)});
  grant(receive.peer, from);
  if (from.armed.size() > num_slots && !std::exchange(from.is_crowded, true))
    crowded_.emplace_back(receive.peer, static_cast<int>(receive.lane));
  return from.taken + from.armed.size();
}

bool Channels::arrived(Rank peer, Lane lane, std::uint64_t ticket) {
  Incoming& from = incoming(peer, static_cast<int>(lane));
  if (from.taken < ticket) take(peer, static_cast<int>(lane), from);
  if (from.taken >= ticket) return true;
  relieve();
  return false;
}

/// Publishes credits for large receives, as many as there are slots.
void Channels::grant(Rank peer, Incoming& from) {
  bool published = false;
  for (; from.granted < from.taken + from.armed.size() && from.granted < from.taken + num_slots; ++from.granted) {
    const Armed& armed = from.armed[from.granted - from.taken];
    if (armed.num_bytes <= eager_bytes) continue;
    Credit& credit = from.channel->credits[from.granted % num_slots];
    credit.offset = armed.offset;
    credit.num_bytes = armed.num_bytes;
    credit.flag = armed.flag;
    credit.number.store(from.granted + 1, std::memory_order_seq_cst);
    published = true;
  }
  if (published) ring(peer);
}

/// Takes in what has come, in order.
void Channels::take(Rank peer, int lane, Incoming& from) {
  const std::uint64_t before = from.taken;
  while (!from.armed.empty()) {
    const Slot& slot = from.channel->slots[from.taken % num_slots];
    const Armed& armed = from.armed.front();
    const bool here = slot.arrival.load(std::memory_order_seq_cst) == from.taken + 1;
    if (!here && slot.offer.load(std::memory_order_seq_cst) != from.taken + 1) break;
    if (slot.num_bytes != armed.num_bytes || slot.flag != armed.flag)
      on_clash_({.sender = peer, .receiver = rank_, .sent_bytes = slot.num_bytes, .expected_bytes = armed.num_bytes});
    if (!here) break;
    if (armed.num_bytes != 0 && armed.num_bytes <= eager_bytes) {
      const std::byte* room = armed.num_bytes <= inline_bytes ? slot.bytes : segment(rank_).room(peer, lane, from.taken % num_slots);
      std::memcpy(armed.data, room, armed.num_bytes);
    }
    counts_[static_cast<std::size_t>(peer)].bytes.fetch_add(armed.num_bytes, std::memory_order_relaxed);
    counts_[static_cast<std::size_t>(peer)].messages.fetch_add(1, std::memory_order_relaxed);
    from.armed.pop_front();
    ++from.taken;
    from.channel->taken.store(from.taken, std::memory_order_seq_cst);
  }
  if (from.taken == before) return;
  ring(peer);  // he may wait for a free slot
  grant(peer, from);
}

/// Where more is armed than there are slots, the sender waits until some has been taken in, also while this rank asks for something
/// else.
void Channels::relieve() {
  std::erase_if(crowded_, [&](const std::pair<Rank, int>& channel) {
    Incoming& from = incoming(channel.first, channel.second);
    take(channel.first, channel.second, from);
    return !(from.is_crowded = from.armed.size() > num_slots);
  });
}

}  // namespace shm
SEQCCL_END
