// shadow.hpp - who last wrote and read each byte of a memory, and whether the next access races with them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <vector>

#include "ptx/clocks.hpp"

namespace ptx {

/// Who accesses memory now.
struct Actor {
  u32 block = 0;        // serial number over all launches, from 1
  u32 first_block = 0;  // the first block of this launch: what earlier blocks did has long happened
  u32 thread = 0;       // in its block
  const Clocks* clocks = nullptr;
};

enum class Conflict : u8 { none, unwritten, in_flight, write_after_write, read_after_write, write_after_read, other_block };

/// Shadow of `num_bytes` of memory, exact to the byte. A word whose four bytes have one history costs one cell.
///
/// A read or write conflicts with an earlier one of another thread unless the clocks say that it happened before; of another block of
/// the same launch, always. Two atomic accesses never conflict. A plain access is held against the
/// last plain write and the last atomic; atomics before that one are forgotten.
class Shadow {
 public:
  explicit Shadow(u64 num_bytes = 0) { resize(num_bytes); }
  void resize(u64 num_bytes) { words_.resize((num_bytes + 3) / 4); }
  [[nodiscard]] u64 num_bytes() const { return words_.size() * 4; }

  /// The worst conflict of reading the bytes; `fresh`: bytes that this block has not written count as unwritten (shared memory).
  Conflict read(u64 offset, u32 num_bytes, const Actor& actor, bool fresh);
  Conflict write(u64 offset, u32 num_bytes, const Actor& actor, bool atomic = false);
  /// Whether `block` has written all of the bytes.
  [[nodiscard]] bool all_written(u64 offset, u32 num_bytes, u32 block) const;
  /// cp.async: the bytes are nobody's from now on until land().
  Conflict start_copy(u64 offset, u32 num_bytes, const Actor& actor);
  void land(u64 offset, u32 num_bytes, const Actor& actor);

 private:
  struct Cell {
    u32 writer_block = 0, write_clock = 0;
    u32 reader_block = 0, read_clock = 0;    // many_readers: read_clock is an index into readers_
    u32 earlier_reader_block = 0;            // a block that read before reader_block
    u32 atomic_block = 0, atomic_clock = 0;  // the last atomic since the last plain write
    u16 writer = 0, reader = 0, atomic_writer = 0;
    bool split = false;  // the bytes differ: write_clock is an index into splits_
    bool in_flight = false, many_readers = false;
  };
  template <class Visit>
  Conflict visit(u64 offset, u32 num_bytes, Visit visit);
  static Conflict with_atomic(const Cell& cell, const Actor& actor, Conflict race);
  Conflict before_write(Cell& cell, const Actor& actor, bool atomic);
  Conflict read_cell(Cell& cell, const Actor& actor, bool fresh);
  void note_reader(Cell& cell, const Actor& actor);
  void forget_readers(Cell& cell);

  std::vector<Cell> words_;
  std::vector<std::array<Cell, 4>> splits_;
  std::vector<std::vector<u32>> readers_;  // per cell with many readers: clock of each thread's last read
  std::vector<u32> unused_readers_;
};

}  // namespace ptx
