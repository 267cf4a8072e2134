// liveness.cpp - pidfds and sockets in one epoll set.
// SPDX-License-Identifier: Apache-2.0
#include "liveness.hpp"

#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

SEQCCL_BEGIN
namespace shm {

Liveness::Liveness() : poll_(::epoll_create1(EPOLL_CLOEXEC)) {
  if (!poll_.is_open()) throw Error(ErrorKind::local, fmt::format("shm: epoll_create1: {}", std::strerror(errno)));
}

void Liveness::watch(Rank rank, int process, Descriptor connection) {
  Peer peer{rank, Descriptor(process > 0 ? static_cast<int>(::syscall(SYS_pidfd_open, process, 0)) : -1), std::move(connection)};
  epoll_event event{};
  event.events = peer.process.is_open() ? EPOLLIN : EPOLLRDHUP;
  event.data.u32 = static_cast<std::uint32_t>(rank);
  if (::epoll_ctl(poll_.number(), EPOLL_CTL_ADD, peer.watched(), &event) != 0)
    throw Error(ErrorKind::local, fmt::format("shm: cannot watch rank {}: {}", rank, std::strerror(errno)));
  peers_.push_back(std::move(peer));
}

void Liveness::forget(Rank rank) {
  for (const Peer& peer : peers_)
    if (peer.rank == rank) ::epoll_ctl(poll_.number(), EPOLL_CTL_DEL, peer.watched(), nullptr);
}

std::vector<Rank> Liveness::ended() const {
  std::array<epoll_event, 16> events;
  const int count = ::epoll_wait(poll_.number(), events.data(), static_cast<int>(events.size()), 0);
  std::vector<Rank> ranks;
  for (int i = 0; i < count; ++i) ranks.push_back(static_cast<Rank>(events[static_cast<std::size_t>(i)].data.u32));
  std::sort(ranks.begin(), ranks.end());
  return ranks;
}

}  // namespace shm
SEQCCL_END
