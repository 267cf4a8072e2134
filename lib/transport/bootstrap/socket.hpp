// socket.hpp - TCP sockets that never block, raise no SIGPIPE and are not inherited.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../descriptor.hpp"
#include "seqccl/version.hpp"

SEQCCL_BEGIN
namespace bootstrap {

using File = Descriptor;
using Clock = std::chrono::steady_clock;

/// "127.0.0.1:29500", "[::1]:29500".
[[nodiscard]] std::string place_text(const std::string& address, int port);

/// "30 s", "0.25 s".
[[nodiscard]] std::string duration_text(std::chrono::nanoseconds duration);

/// The system's words for an errno.
[[nodiscard]] std::string system_text(int error_number);

/// What poll takes for the time until `deadline`: milliseconds rounded up, 0 if it is past.
[[nodiscard]] int poll_milliseconds(Clock::time_point deadline) noexcept;

/// Listens at `address`: on loopback if that is what it says, else on all interfaces.
/// @throws Error(argument) if the port is in use or the address unknown
[[nodiscard]] File listen_at(const std::string& address, int port);

/// One try at every address of the name, until `deadline`. A File that is not open if nobody answers; `reason` says why.
/// @throws Error(argument) if the address is unknown
[[nodiscard]] File connect_to(const std::string& address, int port, Clock::time_point deadline, std::string& reason);

enum class Sent { all, some, broken };
/// Sends from the beginning of `bytes` what the socket takes now, and removes it.
[[nodiscard]] Sent send_now(const File& socket, std::string& bytes) noexcept;

enum class Received { something, nothing_now, closed };
/// Adds what has come to `bytes`, at most `max_bytes`.
[[nodiscard]] Received receive_now(const File& socket, std::string& bytes, std::size_t max_bytes);

}  // namespace bootstrap
SEQCCL_END
