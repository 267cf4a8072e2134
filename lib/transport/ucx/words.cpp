// words.cpp - one message says why a rank gives up, sealed with the key of the card that it is for.
// SPDX-License-Identifier: Apache-2.0
#include "words.hpp"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "../bootstrap/socket.hpp"
#include "notes.hpp"

SEQCCL_BEGIN
namespace ucx {
namespace {

using bootstrap::append_number, bootstrap::Bytes16, bootstrap::read_number;

// magic 8 | nonce 16 | proof 16 | bytes 4 | note of the failure
constexpr std::size_t head_bytes = 16 + 16 + 4, max_note_bytes = 70'000;
constexpr auto longest_telling = std::chrono::milliseconds(2000), longest_try = std::chrono::milliseconds(300);

Bytes16 seal(const Card& to, std::string_view note, const Bytes16& nonce) {
  return bootstrap::proof(to.key, "gives up: " + std::string(note), nonce, nonce);
}

void append_bytes(std::string& to, const Bytes16& bytes) { to.append(reinterpret_cast<const char*>(bytes.data()), bytes.size()); }

}  // namespace

bool wait_readable(const Descriptor& socket, SteadyClock::time_point deadline) {
  for (;;) {
    pollfd waited{socket.number(), POLLIN, 0};
    const int count = ::poll(&waited, 1, bootstrap::poll_milliseconds(deadline));
    if (count > 0) return true;
    if (count == 0 || errno != EINTR) return false;
  }
}

/// Exactly `num_bytes`: what follows belongs to somebody else. False if they do not come in time.
bool read_exactly(const Descriptor& socket, std::size_t num_bytes, std::string& bytes, SteadyClock::time_point deadline) {
  bytes.clear();
  while (bytes.size() < num_bytes) {
    if (!wait_readable(socket, deadline)) return false;
    if (bootstrap::receive_now(socket, bytes, num_bytes - bytes.size()) == bootstrap::Received::closed) return false;
  }
  return true;
}

void tell_all(Rank rank, const Card& own, const std::vector<Card>& cards, const Error& error) noexcept {
  const auto end = SteadyClock::now() + longest_telling;
  for (Rank peer = 0; peer < static_cast<Rank>(cards.size()); ++peer) {
    if (peer == rank) continue;
    try {
      const Card& to = cards[static_cast<std::size_t>(peer)];
      const std::string note = failure_note(error);
      const Bytes16 nonce = bootstrap::random_bytes16();
      std::string bytes;
      append_number(bytes, word_magic, 8);
      append_bytes(bytes, nonce);
      append_bytes(bytes, seal(to, note, nonce));
      append_number(bytes, note.size(), 4);
      bytes += note;
      std::vector<std::string> addresses = to.addresses;
      if (to.place == own.place) addresses.insert(addresses.begin(), "127.0.0.1");
      std::string reason;
      for (const std::string& address : addresses) {
        const auto limit = std::min(end, SteadyClock::now() + longest_try);
        const Descriptor socket = bootstrap::connect_to(address, to.port, limit, reason);
        if (socket.is_open() && bootstrap::send_now(socket, bytes) == bootstrap::Sent::all) break;
      }
    } catch (...) {  // no memory or no descriptor: it finds this rank gone
    }
  }
}

std::optional<Error> read_word(const Descriptor& socket, const Card& own, SteadyClock::time_point deadline) {
  std::string head, note;
  if (!read_exactly(socket, head_bytes, head, deadline)) return std::nullopt;
  const std::uint64_t num_bytes = read_number(std::string_view(head).substr(32, 4));
  if (num_bytes > max_note_bytes || !read_exactly(socket, num_bytes, note, deadline)) return std::nullopt;
  Bytes16 nonce{}, shown{};
  std::memcpy(nonce.data(), head.data(), nonce.size());
  std::memcpy(shown.data(), head.data() + nonce.size(), shown.size());
  if (!bootstrap::same_bytes(shown, seal(own, note, nonce))) return std::nullopt;
  try {
    return read_failure(note);
  } catch (const std::out_of_range&) {
    return std::nullopt;
  }
}

}  // namespace ucx
SEQCCL_END
