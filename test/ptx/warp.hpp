// warp.hpp - the state of a running block: registers, memories, barriers.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstring>
#include <deque>
#include <type_traits>
#include <vector>

#include "ptx/launch.hpp"

namespace ptx {

// Windows of generic addresses; device memory lies below them.
inline constexpr u64 window_bytes = u64{1} << 32;
inline constexpr u64 shared_window = u64{1} << 60, local_window = shared_window + window_bytes,
                     parameter_window = local_window + window_bytes;

struct Run;
struct Block;

/// One 16-byte (or smaller) copy of cp.async that has not landed.
struct AsyncCopy {
  u32 to = 0;
  u64 from = 0;
  u32 source_bytes = 0, num_bytes = 0;
};

struct Warp {
  Block* block = nullptr;
  u32 index = 0;
  LaneMask present = 0;  // lanes that the block has
  LaneMask live = 0;     // and that have not exited
  LaneMask waiting = 0;  // at a barrier of the block
  std::array<u32, num_lanes> pc{};
  u64* registers = nullptr;              // slot * 32 + lane
  std::vector<LaneMask> set;             // per slot: lanes whose register has a value
  std::array<LaneMask, 8> unwritten{};   // per element of the load in hand: lanes for which nobody had written it
  std::vector<u8> frame, frame_written;  // lane * frame_bytes
  std::vector<u32> return_to;            // function * 32 + lane
  std::array<std::vector<AsyncCopy>, num_lanes> open_copies;
  std::array<std::deque<std::vector<AsyncCopy>>, num_lanes> copy_groups;

  template <class T>
  [[nodiscard]] T get(u32 slot, int lane) const {
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
    T value;
    std::memcpy(static_cast<void*>(&value), &registers[static_cast<std::size_t>(slot) * num_lanes + static_cast<std::size_t>(lane)],
                sizeof value);
    return value;
  }
  /// Signed integers are extended to the whole register, everything else with zeros.
  template <class T>
  void put(u32 slot, int lane, T value) {
    u64 bits = 0;
    if constexpr (std::is_integral_v<T> && std::is_signed_v<T>) {
      bits = static_cast<u64>(static_cast<s64>(value));
    } else {
      std::memcpy(&bits, &value, sizeof value);
    }
    registers[static_cast<std::size_t>(slot) * num_lanes + static_cast<std::size_t>(lane)] = bits;
  }
  [[nodiscard]] u32 thread(int lane) const { return index * num_lanes + static_cast<u32>(lane); }
};

/// Calls body(lane) for each lane of the mask.
template <class Body>
void each_lane(LaneMask lanes, Body body) {
  if (lanes == all_lanes) {
    for (int lane = 0; lane < num_lanes; ++lane) body(lane);
  } else {
    for (; lanes != 0; lanes &= lanes - 1) body(std::countr_zero(lanes));
  }
}

/// A named barrier of a block.
struct Barrier {
  u32 arrived = 0, needed = 0;    // threads; needed 0: all that have not exited
  std::vector<LaneMask> waiting;  // per warp
  Clocks::Row known;
  u32 votes_true = 0;                                          // bar.red
  std::vector<std::pair<u32, const Instruction*>> reductions;  // (warp, bar.red)
};

struct Block {
  Run* run = nullptr;
  const Kernel* kernel = nullptr;
  u32 serial = 0;
  Dim index;
  Clocks clocks;
  std::vector<u8> shared;
  Shadow shared_shadow;
  std::vector<Warp> warps;
  std::array<Barrier, 16> barriers;
};

/// What stops a launch; caught in run().
struct Stop {};

/// A launch under way.
struct Run {
  const Launch* launch = nullptr;
  const Kernel* kernel = nullptr;
  DeviceMemory* memory = nullptr;
  u32 first_block = 0;
  std::vector<Cost> costs;  // per instruction
  u64 executed = 0;
  std::map<std::pair<Finding, u32>, Report> findings;  // by kind and instruction

  [[nodiscard]] Actor actor(const Warp& warp, int lane) const {
    return {warp.block->serial, first_block, warp.thread(lane), &warp.block->clocks};
  }
  /// Shared memory has no past: what earlier blocks did with theirs does not count.
  [[nodiscard]] static Actor shared_actor(const Warp& warp, int lane) {
    return {warp.block->serial, warp.block->serial, warp.thread(lane), &warp.block->clocks};
  }
  [[nodiscard]] Cost& cost(const Instruction& i) { return costs[static_cast<std::size_t>(&i - kernel->code.data())]; }
  /// Notes a finding once per kind and instruction and counts the rest.
  void report(Finding finding, const Warp& warp, const Instruction& i, int lane, const std::string& what, bool fatal = false);
  /// The same, and ends the launch.
  [[noreturn]] void fault(Finding finding, const Warp& warp, const Instruction& i, int lane, const std::string& what);
};

}  // namespace ptx
