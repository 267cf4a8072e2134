// digest.hpp - short names for long lists.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "seqccl/version.hpp"

SEQCCL_BEGIN
namespace sequence {

/// FNV-1a. The same on every machine, because it goes into texts that ranks compare.
[[nodiscard]] inline std::uint64_t digest(std::string_view text) noexcept {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const char letter : text) hash = (hash ^ static_cast<unsigned char>(letter)) * 0x100000001b3u;
  return hash;
}

/// The text itself, or its beginning and a hash of all of it.
[[nodiscard]] inline std::string shorten(const std::string& text) {
  constexpr std::size_t longest = 64, kept = 40;
  return text.size() <= longest ? text : fmt::format("{}...#{:016x}", text.substr(0, kept), digest(text));
}

}  // namespace sequence
SEQCCL_END
