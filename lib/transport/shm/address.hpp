// address.hpp - names of sockets that lie in no file system.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <string>

#include "seqccl/version.hpp"

SEQCCL_BEGIN
namespace shm {

/// In the abstract namespace: gone with the socket.
struct Address {
  sockaddr_un at{};
  socklen_t num_bytes = 0;
  explicit Address(const std::string& text) {
    const std::size_t num_chars = std::min(text.size(), sizeof(at.sun_path) - 1);
    at.sun_family = AF_UNIX;
    std::memcpy(at.sun_path + 1, text.data(), num_chars);
    num_bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + num_chars);
  }
  [[nodiscard]] const sockaddr* name() const noexcept { return reinterpret_cast<const sockaddr*>(&at); }
};

}  // namespace shm
SEQCCL_END
