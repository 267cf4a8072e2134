// liveness.cpp - pidfds and sockets in one epoll set.
// SPDX-License-Identifier: Apache-2.0
#include "liveness.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

SEQCCL_BEGIN
namespace shm {

Liveness::Liveness() : poll_(::epoll_create1(EPOLL_CLOEXEC)) {
  if (!poll_.is_open()) throw Error(ErrorKind::local, fmt::format("shm: epoll_create1: {}", std::strerror(errno)));
}

void Liveness::watch(Rank rank, int process, Descriptor connection) {
  add({rank, Descriptor(process > 0 ? static_cast<int>(::syscall(SYS_pidfd_open, process, 0)) : -1), std::move(connection)});
}

void Liveness::adopt(Rank rank, const Liveness& other, Rank peer) {
  const Peer& known = other.peer_of(peer);
  const auto copy = [&](const Descriptor& of) {
    Descriptor made(of.is_open() ? ::fcntl(of.number(), F_DUPFD_CLOEXEC, 0) : -1);
    if (of.is_open() && !made.is_open())
      throw Error(ErrorKind::local, fmt::format("shm: no descriptor to watch rank {}: {}", peer, std::strerror(errno)));
    return made;
  };
  add({rank, copy(known.process), copy(known.connection)});
}

const Descriptor& Liveness::connection(Rank peer) const { return peer_of(peer).connection; }

const Liveness::Peer& Liveness::peer_of(Rank rank) const {
  const auto found = std::find_if(peers_.begin(), peers_.end(), [&](const Peer& peer) { return peer.rank == rank; });
  if (found == peers_.end()) throw Error(ErrorKind::internal, fmt::format("shm: rank {} was never met", rank));
  return *found;
}

void Liveness::add(Peer peer) {
  epoll_event event{};
  event.events = peer.process.is_open() ? EPOLLIN : EPOLLRDHUP;
  event.data.u32 = static_cast<std::uint32_t>(peer.rank);
  if (::epoll_ctl(poll_.number(), EPOLL_CTL_ADD, peer.watched(), &event) != 0)
    throw Error(ErrorKind::local, fmt::format("shm: cannot watch rank {}: {}", peer.rank, std::strerror(errno)));
  peers_.push_back(std::move(peer));
}

void Liveness::forget(Rank rank) {
  for (const Peer& peer : peers_)
    if (peer.rank == rank) ::epoll_ctl(poll_.number(), EPOLL_CTL_DEL, peer.watched(), nullptr);
}

std::vector<Rank> Liveness::ended() const {
  std::vector<epoll_event> events(std::max<std::size_t>(peers_.size(), 1));  // all at once: who looks may not come again
  const int count = ::epoll_wait(poll_.number(), events.data(), static_cast<int>(events.size()), 0);
  std::vector<Rank> ranks;
  for (int i = 0; i < count; ++i) ranks.push_back(static_cast<Rank>(events[static_cast<std::size_t>(i)].data.u32));
  std::sort(ranks.begin(), ranks.end());
  return ranks;
}

}  // namespace shm
SEQCCL_END
