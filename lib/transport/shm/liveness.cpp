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

SEQCCL_BEGIN
namespace shm {

Liveness::Liveness() : poll_(::epoll_create1(EPOLL_CLOEXEC)) {
  if (!poll_.is_open()) throw Error(ErrorKind::local, fmt::format("shm: epoll_create1: {}", std::strerror(errno)));
}

void Liveness::watch(Rank peer, int process, Descriptor connection) {
  Descriptor watched(process > 0 ? static_cast<int>(::syscall(SYS_pidfd_open, process, 0)) : -1);
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u32 = static_cast<std::uint32_t>(peer);
  if (!watched.is_open()) {
    watched = std::move(connection);
    event.events = EPOLLRDHUP;
    ++num_sockets_;
  }
  if (::epoll_ctl(poll_.number(), EPOLL_CTL_ADD, watched.number(), &event) != 0)
    throw Error(ErrorKind::local, fmt::format("shm: cannot watch rank {}: {}", peer, std::strerror(errno)));
  peers_.emplace_back(peer, std::move(watched));
}

void Liveness::forget(Rank peer) {
  std::erase_if(peers_, [&](const auto& each) {
    if (each.first != peer) return false;
    ::epoll_ctl(poll_.number(), EPOLL_CTL_DEL, each.second.number(), nullptr);
    return true;
  });
}

std::vector<Rank> Liveness::ended() const {
  std::array<epoll_event, 16> events;
  const int count = ::epoll_wait(poll_.number(), events.data(), static_cast<int>(events.size()), 0);
  std::vector<Rank> ranks;
  for (int i = 0; i < count; ++i) ranks.push_back(static_cast<Rank>(events[static_cast<std::size_t>(i)].data.u32));
  std::sort(ranks.begin(), ranks.end());
  return ranks;
}

std::string Liveness::describe() const {
  return num_sockets_ == 0 ? "pidfd" : num_sockets_ == static_cast<int>(peers_.size()) ? "socket" : "pidfd and socket";
}

}  // namespace shm
SEQCCL_END
