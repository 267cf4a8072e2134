// siphash.cpp - SipHash-2-4-128 and the proofs made of it.
// SPDX-License-Identifier: Apache-2.0
#include "siphash.hpp"

#include <sys/random.h>

#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "seqccl/error.hpp"

SEQCCL_BEGIN
namespace bootstrap {

namespace {

struct SipState {
  std::uint64_t v0, v1, v2, v3;

  void rounds(int count) noexcept {
    for (int i = 0; i < count; ++i) {
      v0 += v1, v2 += v3;
      v1 = std::rotl(v1, 13) ^ v0, v3 = std::rotl(v3, 16) ^ v2;
      v0 = std::rotl(v0, 32);
      v2 += v1, v0 += v3;
      v1 = std::rotl(v1, 17) ^ v2, v3 = std::rotl(v3, 21) ^ v0;
      v2 = std::rotl(v2, 32);
    }
  }
  void absorb(std::uint64_t word) noexcept {
    v3 ^= word;
    rounds(2);
    v0 ^= word;
  }
  [[nodiscard]] std::uint64_t folded() const noexcept { return v0 ^ v1 ^ v2 ^ v3; }
};

/// Up to 8 bytes, little endian, the rest zero.
template <class Byte>
std::uint64_t word_of(const Byte* bytes, std::size_t count) noexcept {
  std::uint64_t word = 0;
  for (std::size_t i = 0; i < count; ++i) word |= std::uint64_t{static_cast<std::uint8_t>(bytes[i])} << (8 * i);
  return word;
}

void write_word(std::uint8_t* to, std::uint64_t word) noexcept {
  for (int i = 0; i < 8; ++i) to[i] = static_cast<std::uint8_t>(word >> (8 * i));
}

std::string_view text_of(const Bytes16& bytes) noexcept { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

}  // namespace

Bytes16 siphash128(const Bytes16& key, std::string_view text) noexcept {
  const std::uint64_t k0 = word_of(key.data(), 8), k1 = word_of(key.data() + 8, 8);
  // The start values spell "somepseudorandomlygeneratedbytes"; 0xee marks the long result.
  SipState state{k0 ^ 0x736f6d6570736575, k1 ^ 0x646f72616e646f6d ^ 0xee, k0 ^ 0x6c7967656e657261, k1 ^ 0x7465646279746573};
  const std::size_t whole = text.size() / 8 * 8;
  for (std::size_t i = 0; i < whole; i += 8) state.absorb(word_of(text.data() + i, 8));
  state.absorb(std::uint64_t{text.size()} << 56 | word_of(text.data() + whole, text.size() - whole));

  Bytes16 result;
  state.v2 ^= 0xee;
  state.rounds(4);
  write_word(result.data(), state.folded());
  state.v1 ^= 0xdd;
  state.rounds(4);
  write_word(result.data() + 8, state.folded());
  return result;
}

bool same_bytes(const Bytes16& a, const Bytes16& b) noexcept {
  unsigned different = 0;
  for (std::size_t i = 0; i < a.size(); ++i) different |= static_cast<unsigned>(a[i] ^ b[i]);
  return different == 0;
}

Bytes16 random_bytes16() {
  Bytes16 bytes;
  std::size_t filled = 0;
  while (filled < bytes.size()) {
    const ssize_t count = getrandom(bytes.data() + filled, bytes.size() - filled, 0);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) throw Error(ErrorKind::internal, std::string("bootstrap: the system gives no random bytes: ") + std::strerror(errno));
    filled += static_cast<std::size_t>(count);
  }
  return bytes;
}

std::string hex(const Bytes16& bytes) {
  std::string text;
  for (const std::uint8_t byte : bytes) {
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}

Bytes16 job_key(std::string_view token, std::string_view job) noexcept {
  // Each by itself first, so that no two pairs run into the same text.
  constexpr Bytes16 fixed = {'s', 'e', 'q', 'c', 'c', 'l', ' ', 'b', 'o', 'o', 't', 's', 't', 'r', 'a', 'p'};
  return siphash128(siphash128(fixed, token), job);
}

Bytes16 proof(const Bytes16& key, std::string_view role, const Bytes16& server_nonce, const Bytes16& client_nonce) {
  std::string text(text_of(server_nonce));
  text += text_of(client_nonce);
  text += role;
  return siphash128(key, text);
}

}  // namespace bootstrap
SEQCCL_END
