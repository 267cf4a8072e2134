// siphash.hpp - SipHash-2-4 with 128 bits of result: a keyed hash, short enough to read.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "seqccl/version.hpp"

SEQCCL_BEGIN
namespace bootstrap {

/// A key, a proof or a nonce: 16 bytes.
using Bytes16 = std::array<std::uint8_t, 16>;

/// J.-P. Aumasson, D. J. Bernstein: SipHash, a fast short-input PRF (2012), in the variant of 128 bits. Who does not know the key cannot
/// tell the result from random bytes. Two rounds per 8 bytes of text, four for each half of the result.
[[nodiscard]] Bytes16 siphash128(const Bytes16& key, std::string_view text) noexcept;

/// All bytes are compared, whichever differs: the time says nothing about where.
[[nodiscard]] bool same_bytes(const Bytes16& a, const Bytes16& b) noexcept;

/// From the kernel's generator. @throws Error(internal) if it has none
[[nodiscard]] Bytes16 random_bytes16();

[[nodiscard]] std::string hex(const Bytes16& bytes);

/// What a job's ranks share, never sent: made of token and job.
[[nodiscard]] Bytes16 job_key(std::string_view token, std::string_view job) noexcept;

/// What shows that one has the key, in this connection (both nonces) and in this role, so that a proof cannot be sent back or again.
[[nodiscard]] Bytes16 proof(const Bytes16& key, std::string_view role, const Bytes16& server_nonce, const Bytes16& client_nonce);

}  // namespace bootstrap
SEQCCL_END
