// hello.cpp - one packet with one descriptor beside it.
// SPDX-License-Identifier: Apache-2.0
#include "hello.hpp"

#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

SEQCCL_BEGIN
namespace shm {

std::uint64_t layout_word(int num_ranks) noexcept {
  std::uint64_t word = 0xcbf29ce484222325u;
  for (const std::size_t value :
       {eager_bytes, inline_bytes, static_cast<std::size_t>(num_slots), static_cast<std::size_t>(num_lanes), sizeof(Slot), sizeof(Credit),
        sizeof(Channel), sizeof(Failure), sizeof(Control), rooms_offset(num_ranks), arena_offset(num_ranks)})
    word = (word ^ value) * 0x100000001b3u;
  return word;
}

std::uint64_t random_word() {
  std::uint64_t word = 0;
  if (::getrandom(&word, sizeof(word), 0) != sizeof(word)) throw Error(ErrorKind::local, "shm: getrandom gave nothing");
  return word;
}

bool readable(const Descriptor& socket, SteadyClock::time_point deadline) {
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - SteadyClock::now()).count() + 1;
    pollfd waited{socket.number(), POLLIN, 0};
    const int count = ::poll(&waited, 1, static_cast<int>(std::clamp<std::int64_t>(left, 0, 1 << 30)));
    if (count > 0) return true;
    if (count == 0 || errno != EINTR) return false;
  }
}

bool send_hello(const Descriptor& socket, const Hello& hello, const Descriptor& file) {
  iovec data{const_cast<Hello*>(&hello), sizeof(hello)};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> space{};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = space.data();
  message.msg_controllen = CMSG_LEN(sizeof(int));
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  const int number = file.number();
  std::memcpy(CMSG_DATA(header), &number, sizeof(number));
  return ::sendmsg(socket.number(), &message, MSG_NOSIGNAL | MSG_DONTWAIT) == static_cast<ssize_t>(sizeof(hello));
}

std::optional<Received> receive_hello(const Descriptor& socket, SteadyClock::time_point deadline) {
  if (!readable(socket, deadline)) return std::nullopt;
  Received received;
  iovec data{&received.hello, sizeof(received.hello)};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> space{};
  msghdr message{};
  ssize_t count = -1;
  for (int attempt = 0; count < 0 && attempt < 4; ++attempt) {
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = space.data();
    message.msg_controllen = CMSG_LEN(sizeof(int));
    count = ::recvmsg(socket.number(), &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    // An end that closes with something unread resets the connection: that is said once, and then what it had sent can be read.
    if (count < 0 && errno != EINTR && errno != ECONNRESET) break;
  }
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); count >= 0 && header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    int number = -1;
    std::memcpy(&number, CMSG_DATA(header), sizeof(number));
    received.file = Descriptor(number);
  }
  if ((message.msg_flags & MSG_CTRUNC) != 0 && count >= 0)
    throw Error(ErrorKind::local, "shm: a peer's descriptor did not come through: this process has no free descriptor");
  if (count != static_cast<ssize_t>(sizeof(Hello)) || received.hello.magic != Hello{}.magic || !received.file.is_open())
    return std::nullopt;
  return received;
}

}  // namespace shm
SEQCCL_END
