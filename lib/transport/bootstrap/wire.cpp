// wire.cpp - reads and writes the TCP store's messages.
// SPDX-License-Identifier: Apache-2.0
#include "wire.hpp"

#include <algorithm>

SEQCCL_BEGIN
namespace bootstrap {

namespace {

constexpr std::string_view wire_start("SqCb\x01\x00", 6);  // magic and version 1

struct Lengths {
  std::size_t min_key, max_key, min_value, max_value;
};

/// The lengths that a kind of message can have; none at all for a kind that there is not.
const Lengths* lengths_of(std::uint64_t kind) noexcept {
  static constexpr Lengths nothing{0, 0, 0, 0}, key{1, max_store_key_bytes, 0, 0}, both{1, max_store_key_bytes, 0, max_store_value_bytes},
      value{0, 0, 0, max_store_value_bytes}, sixteen{0, 0, 16, 16}, thirty_two{0, 0, 32, 32};
  switch (static_cast<MessageKind>(kind)) {
    case MessageKind::challenge:
    case MessageKind::welcome:
      return &sixteen;
    case MessageKind::hello:
      return &thirty_two;
    case MessageKind::put:
    case MessageKind::will:
      return &both;
    case MessageKind::get:
      return &key;
    case MessageKind::value:
      return &value;
    case MessageKind::denied:
    case MessageKind::stored:
    case MessageKind::exists:
    case MessageKind::withdraw:
    case MessageKind::absent:
      return &nothing;
  }
  return nullptr;
}

}  // namespace

void append_number(std::string& to, std::uint64_t value, int num_bytes) {
  for (int i = 0; i < num_bytes; ++i) to += static_cast<char>(static_cast<std::uint8_t>(value >> (8 * i)));
}

std::uint64_t read_number(std::string_view bytes) noexcept {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i) value |= std::uint64_t{static_cast<std::uint8_t>(bytes[i])} << (8 * i);
  return value;
}

Parsed parse_message(std::string_view bytes, std::size_t max_body_bytes) noexcept {
  const std::size_t start_bytes = std::min(bytes.size(), wire_start.size());
  if (bytes.substr(0, start_bytes) != wire_start.substr(0, start_bytes)) return {.state = ParseState::garbage};
  if (bytes.size() < wire_header_bytes) return {};
  const std::uint64_t kind = read_number(bytes.substr(6, 2));
  const std::size_t key_bytes = read_number(bytes.substr(8, 4)), value_bytes = read_number(bytes.substr(12, 4));
  const Lengths* lengths = lengths_of(kind);
  if (lengths == nullptr || key_bytes < lengths->min_key || key_bytes > lengths->max_key || value_bytes < lengths->min_value ||
      value_bytes > lengths->max_value || key_bytes + value_bytes > max_body_bytes)
    return {.state = ParseState::garbage};
  if (bytes.size() - wire_header_bytes < key_bytes + value_bytes) return {};
  return {.state = ParseState::whole,
          .message = {.kind = static_cast<MessageKind>(kind),
                      .key = bytes.substr(wire_header_bytes, key_bytes),
                      .value = bytes.substr(wire_header_bytes + key_bytes, value_bytes)},
          .num_bytes = wire_header_bytes + key_bytes + value_bytes};
}

void append_message(std::string& to, const Message& message) {
  to += wire_start;
  append_number(to, static_cast<std::uint64_t>(message.kind), 2);
  append_number(to, message.key.size(), 4);
  append_number(to, message.value.size(), 4);
  to += message.key;
  to += message.value;
}

}  // namespace bootstrap
SEQCCL_END
