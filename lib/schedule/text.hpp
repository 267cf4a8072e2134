// text.hpp - words that explain and draw share.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <utility>

#include "seqccl/schedule.hpp"

SEQCCL_BEGIN

[[nodiscard]] inline const char* lane_name(Lane lane) noexcept {
  constexpr const char* names[num_lanes] = {"compute", "comm", "comm2", "comm3"};
  return names[static_cast<int>(lane)];
}

/// At most `length` characters; what is cut is marked.
[[nodiscard]] inline std::string shorten(std::string text, std::size_t length) {
  if (text.size() > length) text.replace(length - 3, std::string::npos, "...");
  return text;
}

SEQCCL_END
