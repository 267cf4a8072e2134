// control_plane.cpp - one thread, poll(), and a queue of bytes per peer.
// SPDX-License-Identifier: Apache-2.0
#include "control_plane.hpp"

#include <linux/sockios.h>
#include <poll.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <system_error>
#include <utility>

#include "../bootstrap/socket.hpp"
#include "../bootstrap/wire.hpp"

SEQCCL_BEGIN
namespace ucx {
namespace {

constexpr std::size_t header_bytes = 8, max_text_bytes = std::size_t{1} << 20;

}  // namespace

ControlPlane::ControlPlane(std::vector<Line> lines) {
  for (Line& line : lines) peers_.push_back({.line = std::move(line)});
}

void ControlPlane::start(Handlers handlers) {
  handlers_ = std::move(handlers);
  // The user's signals are for the user's threads.
  sigset_t all, before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    thread_ = std::thread([this] { serve(); });
  } catch (const std::system_error& error) {
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    throw Error(ErrorKind::local, fmt::format("ucx: no thread for the control connections: {}", error.what()));
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

std::string note_bytes(NoteKind kind, std::string_view text) {
  std::string note;
  bootstrap::append_number(note, static_cast<std::uint64_t>(kind), 4);
  bootstrap::append_number(note, text.size(), 4);
  return note += text;
}

bool ControlPlane::post(Rank peer, NoteKind kind, std::string_view text) noexcept {
  try {
    const std::lock_guard lock(mutex_);
    Peer& to = peers_[static_cast<std::size_t>(peer)];
    if (to.has_parted) return true;
    to.line.out += note_bytes(kind, text);
    to.has_parted = kind == NoteKind::decided;
  } catch (const std::bad_alloc&) {
    return false;
  }
  wake_.ring();
  return true;
}

bool ControlPlane::post_to_all(NoteKind kind, std::string_view text) noexcept {
  bool all = true;
  for (Rank peer = 0; peer < static_cast<Rank>(peers_.size()); ++peer) all = post(peer, kind, text) && all;
  return all;
}

void ControlPlane::tell_when_delivered(std::uint64_t number) noexcept {
  {
    const std::lock_guard lock(mutex_);
    undelivered_ = number;
  }
  wake_.ring();
}

void ControlPlane::watch(int descriptor) noexcept {
  if (watched_.exchange(descriptor) != descriptor) wake_.ring();
}

std::vector<Line> ControlPlane::release(const std::vector<Rank>& ranks) {
  std::unique_lock lock(mutex_);
  released_.clear();
  released_.reserve(ranks.size());
  asked_ = ranks;
  wake_.ring();
  has_released_.wait(lock, [&] { return asked_.empty(); });
  return std::move(released_);
}

void ControlPlane::stop(std::chrono::milliseconds patience) noexcept {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    stop_at_ = SteadyClock::now() + patience;
  }
  wake_.ring();
  thread_.join();
  for (Peer& peer : peers_) Descriptor(std::move(peer.line.connection));
}

void ControlPlane::serve() {
  std::vector<pollfd> waited(peers_.size() + 2);                          // then the watched one, and this thread's own
  for (Rank rank = 0; rank < static_cast<Rank>(peers_.size()); ++rank) {  // what the group before has read of this one
    const Line& line = peers_[static_cast<std::size_t>(rank)].line;
    if (!line.in.empty() && !take_notes(rank))
      end(rank, Ending::unreadable);
    else if (line.ended)
      end(rank, *line.ended);
  }
  for (;;) {
    bool unsent = false, undelivered = false, stopping = false;
    SteadyClock::time_point stop_at;
    std::optional<std::uint64_t> delivered;
    {
      const std::lock_guard lock(mutex_);
      release_asked();
      for (std::size_t i = 0; i < peers_.size(); ++i) {
        Peer& peer = peers_[i];
        if (send(peer) && undelivered_) undelivered = true;
        const bool has_more = !peer.line.out.empty();
        waited[i] = {peer.is_over ? -1 : peer.line.connection.number(), static_cast<short>(POLLIN | (has_more ? POLLOUT : 0)), 0};
        unsent = unsent || has_more;
      }
      if (undelivered_ && !undelivered) delivered = std::exchange(undelivered_, {});
      stopping = stopping_;
      stop_at = stop_at_;
    }
    if (delivered) {
      handlers_.on_delivered(*delivered);
      continue;
    }
    if (stopping && (!unsent || SteadyClock::now() >= stop_at)) return;
    pollfd& watched = waited[peers_.size()];
    watched = {watched_, POLLIN, 0};
    waited.back() = {wake_.number(), POLLIN, 0};
    // No event tells that the other system has everything.
    (void)::poll(waited.data(), waited.size(), stopping ? bootstrap::poll_milliseconds(stop_at) : undelivered ? 1 : -1);
    if (waited.back().revents != 0) wake_.silence();
    if (watched.fd >= 0 && watched.revents != 0) {
      watched_ = -1;
      handlers_.on_readable();
    }
    for (std::size_t i = 0; i < peers_.size(); ++i)
      if (waited[i].fd >= 0 && (waited[i].revents & (POLLIN | POLLHUP | POLLERR)) != 0) read(static_cast<Rank>(i));
  }
}

/// True if the peer's system may lack something.
bool ControlPlane::send(Peer& peer) {
  Line& line = peer.line;
  if (!line.connection.is_open()) line.out.clear();
  // A broken connection is noticed when it is read, after what the peer has said before its end.
  if (!line.out.empty() && bootstrap::send_now(line.connection, line.out) == bootstrap::Sent::broken) {
    if (peer.error == 0) peer.error = errno;
    line.out.clear();
  }
  if (!line.connection.is_open() || peer.is_over || peer.error != 0) return false;
  int num_bytes = 0;
  return !line.out.empty() || (::ioctl(line.connection.number(), SIOCOUTQ, &num_bytes) == 0 && num_bytes != 0);
}

void ControlPlane::release_asked() {
  if (asked_.empty()) return;
  for (const Rank rank : asked_) {
    Peer& peer = peers_[static_cast<std::size_t>(rank)];
    peer.line.is_of_before = !peer.is_over;
    released_.push_back(std::exchange(peer.line, {}));
  }
  asked_.clear();
  has_released_.notify_all();
}

void ControlPlane::read(Rank rank) {
  Peer& peer = peers_[static_cast<std::size_t>(rank)];
  try {
    errno = 0;
    if (bootstrap::receive_now(peer.line.connection, peer.line.in, std::size_t{1} << 16) != bootstrap::Received::closed) {
      if (!take_notes(rank)) end(rank, Ending::unreadable);
      return;
    }
    if (peer.error == 0) peer.error = errno;
  } catch (const std::bad_alloc&) {
    return end(rank, Ending::unreadable);
  }
  end(rank, ending_of(peer));
}

/// By the first error: with none, or EPIPE, the peer's end has come in order, after all that it has said.
Ending ControlPlane::ending_of(const Peer& peer) noexcept {
  if (peer.error == 0 || peer.error == EPIPE || (peer.error == ECONNRESET && peer.line.is_local)) return Ending::ended;
  return Ending::unreachable;
}

/// All that are whole. False if this rank cannot follow that peer any more: no memory, or a note that no rank writes.
bool ControlPlane::take_notes(Rank rank) {
  Peer& peer = peers_[static_cast<std::size_t>(rank)];
  Line& line = peer.line;
  try {
    std::size_t at = 0;
    while (!peer.is_over && line.in.size() - at >= header_bytes) {
      const std::string_view rest = std::string_view(line.in).substr(at);
      const std::uint64_t kind = bootstrap::read_number(rest.substr(0, 4)), num_bytes = bootstrap::read_number(rest.substr(4, 4));
      if (kind < static_cast<std::uint64_t>(NoteKind::address) || kind > static_cast<std::uint64_t>(NoteKind::decided) ||
          num_bytes > max_text_bytes)
        return false;
      if (rest.size() < header_bytes + num_bytes) break;
      const bool is_last = kind == static_cast<std::uint64_t>(NoteKind::decided);
      if (!line.is_of_before) {
        handlers_.on_note(rank, static_cast<NoteKind>(kind), rest.substr(header_bytes, num_bytes));
        peer.is_over = is_last;
      } else if (is_last) {
        line.is_of_before = false;
      }
      at += header_bytes + num_bytes;
    }
    line.in.erase(0, at);
  } catch (const std::exception&) {
    return false;
  }
  return true;
}

void ControlPlane::end(Rank rank, Ending how) {
  {
    const std::lock_guard lock(mutex_);
    Line& line = peers_[static_cast<std::size_t>(rank)].line;
    line.ended = how;
    const Descriptor closed(std::move(line.connection));
  }
  handlers_.on_end(rank, how);
}

}  // namespace ucx
SEQCCL_END
