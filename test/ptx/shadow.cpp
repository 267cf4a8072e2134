// shadow.cpp - byte-exact detection of races.
// SPDX-License-Identifier: Apache-2.0
#include "ptx/shadow.hpp"

#include <algorithm>

namespace ptx {

// Calls visit(cell) for what covers the bytes: one cell per whole word of one history, else one per byte.
template <class Visit>
Conflict Shadow::visit(u64 offset, u32 num_bytes, Visit visit) {
  Conflict worst = Conflict::none;
  const u64 end = offset + num_bytes;
  while (offset < end) {
    Cell& word = words_[offset / 4];
    const u32 first = static_cast<u32>(offset % 4), count = static_cast<u32>(std::min<u64>(4 - first, end - offset));
    offset += count;
    if (!word.split && count == 4) {
      worst = std::max(worst, visit(word));
      continue;
    }
    if (!word.split) {
      const u32 index = static_cast<u32>(splits_.size());
      splits_.push_back({word, word, word, word});
      if (word.many_readers) {
        for (u32 n = 1; n < 4; ++n) {
          splits_[index][n].read_clock = static_cast<u32>(readers_.size());
          const std::vector<u32> copy = readers_[word.read_clock];
          readers_.push_back(copy);
        }
      }
      word.split = true;
      word.write_clock = index;
    }
    const u32 index = word.write_clock;
    for (u32 n = first; n < first + count; ++n) worst = std::max(worst, visit(splits_[index][n]));
  }
  return worst;
}

void Shadow::forget_readers(Cell& cell) {
  if (cell.many_readers) unused_readers_.push_back(cell.read_clock);
  cell.many_readers = false;
  cell.reader_block = cell.read_clock = cell.earlier_reader_block = 0;
}

void Shadow::note_reader(Cell& cell, const Actor& actor) {
  const u32 now = actor.clocks->now(actor.thread);
  if (cell.reader_block != actor.block) {
    const u32 earlier = cell.reader_block;
    forget_readers(cell);
    cell.earlier_reader_block = earlier;
    cell.reader_block = actor.block;
    cell.reader = static_cast<u16>(actor.thread);
    cell.read_clock = now;
  } else if (cell.many_readers) {
    readers_[cell.read_clock][actor.thread] = now;
  } else if (cell.reader == actor.thread || actor.clocks->knows(actor.thread, cell.reader, cell.read_clock)) {
    cell.reader = static_cast<u16>(actor.thread);
    cell.read_clock = now;
  } else {
    if (unused_readers_.empty()) {
      unused_readers_.push_back(static_cast<u32>(readers_.size()));
      readers_.emplace_back();
    }
    const u32 index = unused_readers_.back();
    unused_readers_.pop_back();
    readers_[index].assign(actor.clocks->num_threads(), 0);
    readers_[index][cell.reader] = cell.read_clock;
    readers_[index][actor.thread] = now;
    cell.many_readers = true;
    cell.read_clock = index;
  }
}

// With the last atomic, for a plain access.
Conflict Shadow::with_atomic(const Cell& cell, const Actor& actor, Conflict race) {
  if (cell.atomic_block == actor.block)
    return actor.clocks->knows(actor.thread, cell.atomic_writer, cell.atomic_clock) ? Conflict::none : race;
  return cell.atomic_block >= actor.first_block ? Conflict::other_block : Conflict::none;
}

Conflict Shadow::before_write(Cell& cell, const Actor& actor, bool atomic) {
  Conflict result = atomic ? Conflict::none : with_atomic(cell, actor, Conflict::write_after_write);
  if (cell.writer_block == actor.block) {
    if (cell.in_flight) {
      result = std::max(result, Conflict::in_flight);
    } else if (!actor.clocks->knows(actor.thread, cell.writer, cell.write_clock)) {
      result = std::max(result, Conflict::write_after_write);
    }
  } else if (cell.writer_block >= actor.first_block) {
    result = Conflict::other_block;
  }
  if (cell.reader_block == actor.block) {
    const bool known = cell.many_readers ? actor.clocks->knows_all(actor.thread, readers_[cell.read_clock])
                                         : actor.clocks->knows(actor.thread, cell.reader, cell.read_clock);
    if (!known) result = std::max(result, Conflict::write_after_read);
    if (cell.earlier_reader_block >= actor.first_block) result = Conflict::other_block;
  } else if (cell.reader_block >= actor.first_block) {
    result = Conflict::other_block;
  }
  return result;
}

Conflict Shadow::read_cell(Cell& cell, const Actor& actor, bool fresh) {
  Conflict result = with_atomic(cell, actor, Conflict::read_after_write);
  if (cell.writer_block == actor.block) {
    if (cell.in_flight) {
      result = std::max(result, Conflict::in_flight);
    } else if (!actor.clocks->knows(actor.thread, cell.writer, cell.write_clock)) {
      result = std::max(result, Conflict::read_after_write);
    }
  } else if (fresh) {
    result = std::max(result, Conflict::unwritten);
  } else if (cell.writer_block >= actor.first_block) {
    result = Conflict::other_block;
  }
  note_reader(cell, actor);
  return result;
}

Conflict Shadow::read(u64 offset, u32 num_bytes, const Actor& actor, bool fresh) {
  return visit(offset, num_bytes, [&](Cell& cell) { return read_cell(cell, actor, fresh); });
}

Conflict Shadow::write(u64 offset, u32 num_bytes, const Actor& actor, bool atomic) {
  return visit(offset, num_bytes, [&](Cell& cell) {
    const Conflict result = before_write(cell, actor, atomic);
    forget_readers(cell);
    (atomic ? cell.atomic_block : cell.writer_block) = actor.block;
    (atomic ? cell.atomic_writer : cell.writer) = static_cast<u16>(actor.thread);
    (atomic ? cell.atomic_clock : cell.write_clock) = actor.clocks->now(actor.thread);
    if (!atomic) cell.atomic_block = 0, cell.in_flight = false;
    return result;
  });
}

bool Shadow::all_written(u64 offset, u32 num_bytes, u32 block) const {
  for (u64 at = offset; at < offset + num_bytes; ++at) {
    const Cell& word = words_[at / 4];
    const Cell& cell = word.split ? splits_[word.write_clock][at % 4] : word;
    if (cell.writer_block != block) return false;
  }
  return true;
}

Conflict Shadow::start_copy(u64 offset, u32 num_bytes, const Actor& actor) {
  const Conflict result = write(offset, num_bytes, actor);
  visit(offset, num_bytes, [](Cell& cell) { return cell.in_flight = true, Conflict::none; });
  return result;
}

void Shadow::land(u64 offset, u32 num_bytes, const Actor& actor) {
  visit(offset, num_bytes, [&](Cell& cell) {
    cell.in_flight = false;
    cell.write_clock = actor.clocks->now(actor.thread);
    return Conflict::none;
  });
}

}  // namespace ptx
