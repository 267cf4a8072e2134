// control_plane.cpp - one thread, poll(), and a queue of bytes per peer.
// SPDX-License-Identifier: Apache-2.0
#include "control_plane.hpp"

#include <poll.h>

#include <algorithm>
#include <csignal>
#include <system_error>

#include "../bootstrap/socket.hpp"
#include "../bootstrap/wire.hpp"

SEQCCL_BEGIN
namespace ucx {
namespace {

constexpr std::size_t header_bytes = 8, max_text_bytes = std::size_t{1} << 20;

}  // namespace

ControlPlane::ControlPlane(std::vector<Descriptor> connections) {
  for (Descriptor& connection : connections) peers_.push_back({std::move(connection), {}, {}});
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

void ControlPlane::post(Rank peer, NoteKind kind, std::string_view text) noexcept {
  try {
    const std::lock_guard lock(mutex_);
    Peer& to = peers_[static_cast<std::size_t>(peer)];
    std::string note;
    bootstrap::append_number(note, static_cast<std::uint64_t>(kind), 4);
    bootstrap::append_number(note, text.size(), 4);
    note += text;
    to.out += note;
  } catch (const std::bad_alloc&) {
    return;
  }
  wake_.ring();
}

void ControlPlane::post_to_all(NoteKind kind, std::string_view text) noexcept {
  for (Rank peer = 0; peer < static_cast<Rank>(peers_.size()); ++peer) post(peer, kind, text);
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
  for (Peer& peer : peers_) Descriptor(std::move(peer.connection));
}

void ControlPlane::serve() {
  std::vector<pollfd> waited(peers_.size() + 1);
  for (;;) {
    bool unsent = false, stopping = false;
    SteadyClock::time_point stop_at;
    {
      const std::lock_guard lock(mutex_);
      for (std::size_t i = 0; i < peers_.size(); ++i) {
        Peer& peer = peers_[i];
        if (!peer.connection.is_open()) peer.out.clear();
        // A broken connection is noticed below, after what the peer has said before its end has been read.
        if (!peer.out.empty() && bootstrap::send_now(peer.connection, peer.out) == bootstrap::Sent::broken) peer.out.clear();
        waited[i] = {peer.connection.number(), static_cast<short>(POLLIN | (peer.out.empty() ? 0 : POLLOUT)), 0};
        unsent = unsent || !peer.out.empty();
      }
      stopping = stopping_;
      stop_at = stop_at_;
    }
    if (stopping && (!unsent || SteadyClock::now() >= stop_at)) return;
    waited.back() = {wake_.number(), POLLIN, 0};
    (void)::poll(waited.data(), waited.size(), stopping ? bootstrap::poll_milliseconds(stop_at) : -1);
    if (waited.back().revents != 0) wake_.silence();
    for (std::size_t i = 0; i + 1 < waited.size(); ++i)
      if (waited[i].fd >= 0 && (waited[i].revents & (POLLIN | POLLHUP | POLLERR)) != 0) read(static_cast<Rank>(i));
  }
}

void ControlPlane::read(Rank rank) {
  Peer& peer = peers_[static_cast<std::size_t>(rank)];
  bool over = false;
  try {
    over = bootstrap::receive_now(peer.connection, peer.in, std::size_t{1} << 16) == bootstrap::Received::closed;
    std::size_t at = 0;
    while (peer.in.size() - at >= header_bytes) {
      const std::string_view rest = std::string_view(peer.in).substr(at);
      const std::uint64_t kind = bootstrap::read_number(rest.substr(0, 4)), num_bytes = bootstrap::read_number(rest.substr(4, 4));
      if (kind < static_cast<std::uint64_t>(NoteKind::address) || kind > static_cast<std::uint64_t>(NoteKind::status) ||
          num_bytes > max_text_bytes) {
        over = true;
        break;
      }
      if (rest.size() < header_bytes + num_bytes) break;
      handlers_.on_note(rank, static_cast<NoteKind>(kind), rest.substr(header_bytes, num_bytes));
      at += header_bytes + num_bytes;
    }
    peer.in.erase(0, at);
  } catch (const std::exception&) {  // no memory, or a note that cannot be read: this rank cannot follow that peer any more
    over = true;
  }
  if (over) end(rank);
}

void ControlPlane::end(Rank rank) {
  {
    const std::lock_guard lock(mutex_);
    const Descriptor closed(std::move(peers_[static_cast<std::size_t>(rank)].connection));
  }
  handlers_.on_end(rank);
}

}  // namespace ucx
SEQCCL_END
