// words.hpp - what a rank that gives up while ranks meet tells each of the others, wherever that one is.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "meet.hpp"
#include "seqccl/error.hpp"

SEQCCL_BEGIN
namespace ucx {

/// Begins a word as `magic` begins a handshake.
inline constexpr std::uint64_t word_magic = 0x3264726f77716573;

/// To every other rank's door, over a connection of its own: it lies in the queue there, whether that rank has met this one or not. So who
/// does this before closing anything is not taken for the cause by those who find it gone. 2 s at most.
void tell_all(Rank rank, const Card& own, const std::vector<Card>& cards, const Error& error) noexcept;

/// The rest of a word, whose magic has been read; nothing if whoever sent it does not know this rank's card.
[[nodiscard]] std::optional<Error> read_word(const Descriptor& socket, const Card& own, SteadyClock::time_point deadline);

/// Waits until the socket can be read; false at the deadline.
[[nodiscard]] bool wait_readable(const Descriptor& socket, SteadyClock::time_point deadline);
/// Exactly `num_bytes`: what follows belongs to somebody else. False if they do not come in time.
[[nodiscard]] bool read_exactly(const Descriptor& socket, std::size_t num_bytes, std::string& bytes, SteadyClock::time_point deadline);

}  // namespace ucx
SEQCCL_END
