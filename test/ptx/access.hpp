// access.hpp - from an address of a lane to memory, with every check on the way; what an access of a warp costs.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ptx/warp.hpp"

namespace ptx {

enum class Touch : u8 { read, write, atomic };

struct Place {
  Space space = Space::generic;
  u64 address = 0;
};
/// A generic address by its window; others as they are. Shared and local addresses are 32 bits wide.
[[nodiscard]] Place place_of(Space space, u64 address);

/// The bytes of one lane's access. Ends the launch if they are misaligned or out of bounds; reports races and uninitialised reads.
[[nodiscard]] u8* access(Warp& warp, const Instruction& i, int lane, Place place, u32 num_bytes, Touch touch);

/// The global bytes only: bounds, alignment, then whether they were written and race.
[[nodiscard]] u8* access_global(Warp& warp, const Instruction& i, int lane, u64 address, u32 num_bytes, Touch touch);
/// The shared bytes of a vector load, element by element: those that nobody has written go to Warp::unwritten.
[[nodiscard]] u8* access_shared_elements(Warp& warp, const Instruction& i, int lane, u64 address, u32 element_bytes);
/// Bounds and alignment of shared bytes. Whoever calls this tells the shadow himself.
void check_shared(Warp& warp, const Instruction& i, int lane, u64 address, u32 num_bytes);
void report_conflict(Conflict conflict, Warp& warp, const Instruction& i, int lane, bool is_shared);

/// Adds to the instruction's cost what an access of the lanes costs: bank passes of shared, sectors of global memory.
void count_access(Warp& warp, const Instruction& i, LaneMask lanes, Space space, const std::array<u64, num_lanes>& addresses,
                  u32 num_bytes);

}  // namespace ptx
