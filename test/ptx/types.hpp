// types.hpp - short names for the machine words of PTX, and how a program or a kernel is found wanting.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace ptx {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using s8 = std::int8_t;
using s16 = std::int16_t;
using s32 = std::int32_t;
using s64 = std::int64_t;

inline constexpr int num_lanes = 32;
using LaneMask = u32;  // bit l: lane l
inline constexpr LaneMask all_lanes = ~LaneMask{0};

/// Text that cannot be read or a launch that makes no sense; what() begins with "file:line: " where there is a line.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// What a launch can be found to do wrong.
enum class Finding : u8 {
  out_of_bounds,
  misaligned,
  read_only,
  uninitialised_register,
  uninitialised_shared,
  uninitialised_global,
  uninitialised_local,
  race_shared,
  race_global,
  race_between_blocks,
  copy_in_flight,
  exit_with_copy_in_flight,
  divergence,
  barrier_misuse,
  deadlock,
  too_long,
  trap,
  missing_function,
};
inline constexpr int num_findings = static_cast<int>(Finding::missing_function) + 1;
[[nodiscard]] const char* name(Finding finding);

/// One finding at one instruction, with the first thread that made it.
struct Report {
  Finding finding{};
  std::string text;  // "race in shared memory: ... (block 0 thread 33) at attend.cu:12, attend.ptx:345: ld.shared..."
  u64 count = 0;     // lanes
  bool fatal = false;
};

}  // namespace ptx
