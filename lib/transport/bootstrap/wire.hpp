// wire.hpp - what the TCP store and its clients say to each other, as bytes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "seqccl/bootstrap.hpp"

SEQCCL_BEGIN
namespace bootstrap {

/// A message is a header of 16 bytes, little endian, then key, then value:
///
///     magic 4 | version 2 | kind 2 | key_bytes 4 | value_bytes 4 | key | value
///
///     server             client
///     challenge  --->                 value: nonce of the server (16)
///                <---  hello          value: nonce of the client (16), proof as "client" (16)
///     welcome    --->                 value: proof as "server" (16); or denied, and the end
///                <---  put            key, value
///     stored     --->                 or exists
///                <---  get            key; the answer comes when there is one
///                <---  withdraw       the answer shall come now
///     value      --->                 value; or absent, only after a withdraw
///                <---  will           key, value: to be put when this connection ends, if the key has not been put by then
///     stored     --->
enum class MessageKind : std::uint16_t { challenge = 1, hello, welcome, denied, put, stored, exists, get, withdraw, value, absent, will };

inline constexpr std::size_t wire_header_bytes = 16;

struct Message {
  MessageKind kind = MessageKind::denied;
  std::string_view key, value;
};

enum class ParseState {
  incomplete,  ///< more bytes are needed to tell
  garbage,     ///< no message begins like this
  whole,
};
struct Parsed {
  ParseState state = ParseState::incomplete;
  Message message;            ///< if whole; points into the bytes
  std::size_t num_bytes = 0;  ///< of the message, if whole
};

/// The message at the beginning of `bytes`. Garbage is told as soon as the bytes say so: wrong magic at its first wrong byte, lengths that
/// this kind of message cannot have (or longer than `max_body_bytes`, key and value together) with the header.
[[nodiscard]] Parsed parse_message(std::string_view bytes,
                                   std::size_t max_body_bytes = max_store_key_bytes + max_store_value_bytes) noexcept;

/// Adds the message's bytes to `to`. Key and value must have lengths that its kind can have.
void append_message(std::string& to, const Message& message);

/// `value` in 1 to 8 bytes, little endian, and back.
void append_number(std::string& to, std::uint64_t value, int num_bytes);
[[nodiscard]] std::uint64_t read_number(std::string_view bytes) noexcept;

}  // namespace bootstrap
SEQCCL_END
