// layout.hpp - what lies in the memory that a rank shares with its peers on the host.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "seqccl/transport.hpp"

SEQCCL_BEGIN
namespace shm {

/// A segment per rank. All ranks map all segments; peers write where the rank receives.
///
///     Control │ Channel x (ranks x lanes), those towards this rank │ eager rooms of each channel │ arena, grows │ ... │ heap, grows
///
/// A message of at most eager_bytes is copied into the channel and out again: no credit, one way. A larger one is copied once, into the
/// receiver's arena, when its credit is there. Both announce themselves in the slot of their number.
inline constexpr std::uint64_t num_slots = 8;
inline constexpr std::size_t eager_bytes = 16 * 1024;
inline constexpr std::size_t inline_bytes = 32;

/// One cache line: a message of up to 32 bytes costs one transfer of it.
struct alignas(64) Slot {
  std::atomic<std::uint64_t> arrival{0};  // number of the message that is here, from 1
  std::atomic<std::uint64_t> offer{0};    // number of one that waits for its credit: its flag and size are here
  std::uint64_t flag = 0, num_bytes = 0;
  std::byte bytes[inline_bytes] = {};
};
struct Credit {
  std::atomic<std::uint64_t> number{0};  // of the message that may be written
  std::uint64_t offset = 0;              // in the receiver's arena, or from heap_begin on in its file
  std::uint64_t num_bytes = 0, flag = 0;
};
/// From one rank to another on one lane. Message i, counted from 0, has slot and credit i mod num_slots.
struct Channel {
  Slot slots[num_slots];                            // written by the sender
  alignas(64) Credit credits[num_slots];            // written by the receiver
  alignas(64) std::atomic<std::uint64_t> taken{0};  // written by the receiver: messages whose slot is free again
};

/// The first failure of the group; that of rank 0's segment counts. In another's: why that rank gave up while the ranks met.
struct Failure {
  static constexpr std::uint32_t none = 0, being_written = 1, written = 2;
  static constexpr std::size_t max_culprits = 128, max_chars = 3072;
  std::atomic<std::uint32_t> state{none};
  std::atomic<std::int32_t> writer{-1};
  std::uint32_t kind = 0, num_culprits = 0, num_chars = 0;
  std::int32_t culprits[max_culprits] = {};
  char text[max_chars] = {};
};

/// Who goes on after a failure (shrink.hpp). `decided_by` counts in rank 0's segment, the rest in each rank's own.
struct Votes {
  static constexpr int max_ranks = 4096;
  std::atomic<std::uint64_t> ticket{0};         // on what this rank has sent to all: it has come; 0: it has not
  std::atomic<std::int32_t> decided_by{-1};     // the rank whose proposal is the decision
  std::uint64_t proposal[max_ranks / 64] = {};  // bit r: rank r goes on; written once, before it can be the decision
};

/// A rank's seat: what it does, and how to wake it.
struct Control {
  RankStatus status;
  alignas(64) std::atomic<std::uint32_t> bell{0};  // futex
  std::atomic<std::uint32_t> sleeping{0};          // somebody waits for the bell, or is about to
  alignas(64) std::atomic<std::uint64_t> arena_bytes{0};
  std::atomic<std::uint64_t> heap_end{0};      // where the caller's buffers end in the file
  std::atomic<std::uint32_t> text_version{0};  // odd: being written
  std::atomic<std::uint32_t> text_chars{0};
  char text[8192] = {};  // describes the operation
  Failure failure;
  Votes votes;
};
static_assert(std::atomic<std::uint64_t>::is_always_lock_free && std::atomic<std::uint32_t>::is_always_lock_free &&
                  std::atomic<bool>::is_always_lock_free,
              "atomics in shared memory must not need a lock of one process");

inline constexpr std::size_t heap_begin = std::size_t{1} << 42;  // in the file; an arena is smaller
inline constexpr std::size_t page_bytes = std::size_t{2} << 20;  // where the arena begins, so that huge pages fit
[[nodiscard]] constexpr std::size_t round_up(std::size_t value, std::size_t unit) noexcept { return (value + unit - 1) / unit * unit; }
[[nodiscard]] constexpr std::size_t channels_offset() noexcept { return round_up(sizeof(Control), 64); }
[[nodiscard]] constexpr std::size_t rooms_offset(int num_ranks) noexcept {
  return round_up(channels_offset() + static_cast<std::size_t>(num_ranks) * num_lanes * sizeof(Channel), 4096);
}
[[nodiscard]] constexpr std::size_t arena_offset(int num_ranks) noexcept {
  return round_up(rooms_offset(num_ranks) + static_cast<std::size_t>(num_ranks) * num_lanes * num_slots * eager_bytes, page_bytes);
}

}  // namespace shm
SEQCCL_END
