// hello.hpp - what two ranks tell each other over the socket that they share, with a segment beside it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>

#include "../descriptor.hpp"
#include "layout.hpp"

SEQCCL_BEGIN
namespace shm {

/// What the two ends of a connection tell each other, with the descriptor of the segment beside it.
struct Hello {
  std::uint64_t magic = 0x6c63637165730003u;
  std::uint64_t secret = 0;  // of the one who listens; of the one who sends, where a group shrinks
  std::uint64_t layout = 0;  // differs if the two are built differently
  std::int32_t rank = -1, num_ranks = 0;
};
/// Of everything that both sides of a segment must agree on.
[[nodiscard]] std::uint64_t layout_word(int num_ranks) noexcept;
/// @throws Error(local)
[[nodiscard]] std::uint64_t random_word();

/// Waits until the socket can be read; false at the deadline.
[[nodiscard]] bool readable(const Descriptor& socket, SteadyClock::time_point deadline);
/// False, with errno, if the other end is gone or there is no room.
[[nodiscard]] bool send_hello(const Descriptor& socket, const Hello& hello, const Descriptor& file);
struct Received {
  Hello hello;
  Descriptor file;
};
/// Nothing if the other end says something else, or nothing until the deadline. A packet socket: all comes at once.
/// @throws Error(local) if this process has no free descriptor
[[nodiscard]] std::optional<Received> receive_hello(const Descriptor& socket, SteadyClock::time_point deadline);

}  // namespace shm
SEQCCL_END
