// socket.cpp - listen, connect, send and receive without blocking.
// SPDX-License-Identifier: Apache-2.0
#include "socket.hpp"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <system_error>

#include "seqccl/error.hpp"

SEQCCL_BEGIN
namespace bootstrap {

namespace {

struct FreeAddresses {
  void operator()(addrinfo* list) const noexcept { freeaddrinfo(list); }
};
using Addresses = std::unique_ptr<addrinfo, FreeAddresses>;

/// Null `address`: all interfaces.
Addresses addresses_of(const char* address, int port) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | (address == nullptr ? AI_PASSIVE : 0);
  addrinfo* list = nullptr;
  const int failed = getaddrinfo(address, std::to_string(port).c_str(), &hints, &list);
  if (failed != 0)
    throw Error(
        ErrorKind::argument,
        fmt::format("bootstrap: address is \"{}\", which is no address that this host knows ({}); want a name or number of the host "
                    "of rank 0",
                    address == nullptr ? "*" : address, failed == EAI_SYSTEM ? system_text(errno) : gai_strerror(failed)));
  return Addresses(list);
}

bool is_loopback(const addrinfo& entry) noexcept {
  if (entry.ai_family == AF_INET) return ntohl(reinterpret_cast<const sockaddr_in*>(entry.ai_addr)->sin_addr.s_addr) >> 24 == 127;
  return entry.ai_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&reinterpret_cast<const sockaddr_in6*>(entry.ai_addr)->sin6_addr);
}

bool is_numeric(const std::string& address) {
  unsigned char unused[sizeof(in6_addr)];
  return inet_pton(AF_INET, address.c_str(), unused) == 1 || inet_pton(AF_INET6, address.c_str(), unused) == 1;
}

File open_socket(const addrinfo& entry) {
  return File(socket(entry.ai_family, entry.ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, entry.ai_protocol));
}

void set(const File& socket, int level, int option, int value) {
  // Options make things better where the system has them; without them it works too.
  (void)setsockopt(socket.number(), level, option, &value, sizeof value);
}

/// 0 or the errno of what went wrong.
int try_to_connect(const File& socket, const addrinfo& entry, Clock::time_point deadline) {
  if (connect(socket.number(), entry.ai_addr, entry.ai_addrlen) == 0) return 0;
  if (errno != EINPROGRESS && errno != EINTR) return errno;
  for (;;) {
    pollfd waiting{socket.number(), POLLOUT, 0};
    const int ready = poll(&waiting, 1, poll_milliseconds(deadline));
    if (ready < 0 && errno == EINTR) continue;
    if (ready < 0) return errno;
    if (ready == 0) return ETIMEDOUT;
    int error_number = 0;
    socklen_t length = sizeof error_number;
    if (getsockopt(socket.number(), SOL_SOCKET, SO_ERROR, &error_number, &length) != 0) return errno;
    return error_number;
  }
}

/// A socket may be given the very port that it connects to, if nobody listens there: then it talks to itself.
bool is_own_end(const File& socket) {
  sockaddr_storage own{}, other{};
  socklen_t own_bytes = sizeof own, other_bytes = sizeof other;
  return getsockname(socket.number(), reinterpret_cast<sockaddr*>(&own), &own_bytes) == 0 &&
         getpeername(socket.number(), reinterpret_cast<sockaddr*>(&other), &other_bytes) == 0 && own_bytes == other_bytes &&
         std::memcmp(&own, &other, own_bytes) == 0;
}

}  // namespace

std::string place_text(const std::string& address, int port) {
  const bool colons = address.find(':') != std::string::npos;
  return fmt::format("{}{}{}:{}", colons ? "[" : "", address, colons ? "]" : "", port);
}

std::string duration_text(std::chrono::nanoseconds duration) {
  return fmt::format("{:g} s", std::chrono::duration<double>(duration).count());
}

std::string system_text(int error_number) { return std::generic_category().message(error_number); }

int poll_milliseconds(Clock::time_point deadline) noexcept {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
  return static_cast<int>(std::clamp<decltype(left)>(left, 0, 3'600'000));
}

File listen_at(const std::string& address, int port) {
  Addresses own = addresses_of(address.c_str(), port);
  // A host may know its own name as a loopback address: the others could not come in there. So names mean all interfaces.
  const bool local = (is_numeric(address) || address == "localhost") && is_loopback(*own);
  if (!local) own = addresses_of(nullptr, port);
  int error_number = 0;
  // Addresses of IPv6 first: such a socket takes both, if it covers all interfaces.
  for (const int family : {AF_INET6, AF_INET})
    for (const addrinfo* entry = own.get(); entry != nullptr; entry = entry->ai_next) {
      if (entry->ai_family != family) continue;
      File socket = open_socket(*entry);
      if (!socket.is_open()) {
        error_number = errno;
        continue;
      }
      set(socket, SOL_SOCKET, SO_REUSEADDR, 1);
      if (!local && family == AF_INET6) set(socket, IPPROTO_IPV6, IPV6_V6ONLY, 0);
      if (bind(socket.number(), entry->ai_addr, entry->ai_addrlen) == 0 && listen(socket.number(), SOMAXCONN) == 0) return socket;
      error_number = errno;
      if (error_number == EADDRINUSE || error_number == EACCES) break;
    }
  throw Error(ErrorKind::argument,
              fmt::format("bootstrap: port is {}, at which rank 0 cannot listen ({}: {}); want one that is free on the "
                          "host of rank 0 (SEQCCL_PORT)",
                          port, place_text(address, port), system_text(error_number)));
}

File connect_to(const std::string& address, int port, Clock::time_point deadline, std::string& reason) {
  const Addresses list = addresses_of(address.c_str(), port);
  for (const addrinfo* entry = list.get(); entry != nullptr; entry = entry->ai_next) {
    File socket = open_socket(*entry);
    if (!socket.is_open()) {
      reason = system_text(errno);
      continue;
    }
    // A silent address must not use up the time of the next one.
    const auto limit = entry->ai_next == nullptr ? deadline : std::min(deadline, Clock::now() + (deadline - Clock::now()) / 2);
    int error_number = try_to_connect(socket, *entry, limit);
    if (error_number == 0 && is_own_end(socket)) error_number = ECONNREFUSED;
    if (error_number == 0) {
      set(socket, IPPROTO_TCP, TCP_NODELAY, 1);
      // Linux drops a connection that comes while its listener is closed without a word, if the moment is right; this end then waits for
      // something to read for ever, unless it asks.
      set(socket, SOL_SOCKET, SO_KEEPALIVE, 1);
      set(socket, IPPROTO_TCP, TCP_KEEPIDLE, 1);
      set(socket, IPPROTO_TCP, TCP_KEEPINTVL, 2);
      set(socket, IPPROTO_TCP, TCP_KEEPCNT, 5);
      return socket;
    }
    reason = system_text(error_number);
  }
  return {};
}

Sent send_now(const File& socket, std::string& bytes) noexcept {
  std::size_t sent = 0;
  while (sent < bytes.size()) {
    const ssize_t count = send(socket.number(), bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno != EAGAIN && errno != EWOULDBLOCK) return Sent::broken;
    if (count <= 0) break;
    sent += static_cast<std::size_t>(count);
  }
  bytes.erase(0, sent);
  return bytes.empty() ? Sent::all : Sent::some;
}

Received receive_now(const File& socket, std::string& bytes, std::size_t max_bytes) {
  char piece[16384];
  for (;;) {
    const ssize_t count = recv(socket.number(), piece, std::min(sizeof piece, max_bytes), 0);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return Received::nothing_now;
    if (count <= 0) return Received::closed;
    bytes.append(piece, static_cast<std::size_t>(count));
    return Received::something;
  }
}

}  // namespace bootstrap
SEQCCL_END
