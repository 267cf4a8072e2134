// tcp_server.hpp - the thread of rank 0 that keeps keys and values for all ranks.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <string>
#include <thread>

#include "siphash.hpp"
#include "socket.hpp"

SEQCCL_BEGIN
namespace bootstrap {

/// What strangers can use up at most.
struct ServerLimits {
  std::size_t max_strangers = 128;                   ///< connections that have not shown that they belong to the job
  std::chrono::milliseconds handshake{5'000};        ///< how long one may be a stranger
  std::chrono::milliseconds handshake_if_full{250};  ///< and while others wait for its place
};

/// Listens from the constructor on; the destructor sends what is still to be sent, for a second at most, and joins the thread.
/// Everything that the thread works on is its own: nothing is shared but the bell that ends it.
class TcpServer {
 public:
  TcpServer(const std::string& address, int port, const Bytes16& key, const ServerLimits& limits = {});
  ~TcpServer();
  TcpServer(const TcpServer&) = delete;
  TcpServer& operator=(const TcpServer&) = delete;

 private:
  File bell_;
  std::thread thread_;
};

}  // namespace bootstrap
SEQCCL_END
