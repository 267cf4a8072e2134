// barrier.cpp - bar.sync, bar.arrive and bar.red: counting threads and passing on what they know.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "ptx/scheduler.hpp"

namespace ptx {
namespace {

enum Mode : u8 { sync, arrive_only, red_popc, red_and, red_or };

u32 num_live(const Block& block) {
  u32 count = 0;
  for (const Warp& w : block.warps) count += static_cast<u32>(std::popcount(w.live));
  return count;
}

void open(Block& block, Barrier& barrier) {
  u32 handle = 0;
  bool taken = false;
  for (const auto& reduction : barrier.reductions) {
    Warp& w = block.warps[reduction.first];
    const Instruction& i = *reduction.second;
    const u32 yes = barrier.votes_true;
    each_lane(barrier.waiting[w.index], [&](int lane) {
      w.put(i.slot[0], lane, i.mode == red_popc ? yes : i.mode == red_and ? u32{yes == barrier.arrived} : u32{yes != 0});
    });
  }
  for (Warp& w : block.warps) {
    const LaneMask lanes = barrier.waiting[w.index];
    if (lanes == 0) continue;
    w.waiting &= ~lanes;
    if (taken) {
      block.clocks.take_same(w.index * num_lanes, lanes, handle);
    } else {
      handle = block.clocks.take(w.index * num_lanes, lanes, barrier.known);
      taken = true;
    }
  }
  barrier = {};
}

}  // namespace

// Registers: reductions (red: result | ) barrier [, threads] [, predicate].
void arrive(Warp& w, const Instruction& i, LaneMask lanes) {
  Block& block = *w.block;
  Run& run = *block.run;
  const int first = std::countr_zero(lanes);
  const bool reduces = i.mode >= red_popc;
  const u32 number_slot = i.slot[i.num_written], num_plain = static_cast<u32>(i.num_read) - (reduces ? 1 : 0);
  const u32 number = w.get<u32>(number_slot, first);
  const u32 needed = num_plain > 1 ? w.get<u32>(i.slot[i.num_written + 1U], first) : 0;
  each_lane(lanes, [&](int lane) {
    if (w.get<u32>(number_slot, lane) != number || (num_plain > 1 && w.get<u32>(i.slot[i.num_written + 1U], lane) != needed)) {
      run.fault(Finding::barrier_misuse, w, i, lane, "lanes of one warp name different barriers");
    }
  });
  if (number >= block.barriers.size())
    run.fault(Finding::barrier_misuse, w, i, first, "barrier " + std::to_string(number) + ", there are 16");
  if (num_plain > 1 && (needed == 0 || needed % num_lanes != 0))
    run.fault(Finding::barrier_misuse, w, i, first, "a barrier of " + std::to_string(needed) + " threads, want a multiple of 32");
  Barrier& barrier = block.barriers[number];
  if (barrier.arrived != 0 && barrier.needed != needed)
    run.fault(Finding::barrier_misuse, w, i, first, "threads disagree about how many use barrier " + std::to_string(number));
  barrier.needed = needed;
  barrier.arrived += static_cast<u32>(std::popcount(lanes));
  if (needed != 0 && barrier.arrived > needed)
    run.fault(Finding::barrier_misuse, w, i, first,
              "more than " + std::to_string(needed) + " threads arrive at barrier " + std::to_string(number));
  barrier.waiting.resize(block.warps.size());
  block.clocks.give(w.index * num_lanes, lanes, barrier.known);
  if (reduces) {
    const u32 slot = i.slot[i.num_written + static_cast<u32>(i.num_read) - 1];
    each_lane(lanes, [&](int lane) { barrier.votes_true += (w.get<u8>(slot, lane) != 0) != i.negated; });
    barrier.reductions.emplace_back(w.index, &i);
  }
  if (i.mode != arrive_only) {
    barrier.waiting[w.index] |= lanes;
    w.waiting |= lanes;
  }
  if (needed != 0 && barrier.arrived == needed) open(block, barrier);
}

void open_barriers(Block& block) {
  const u32 all = num_live(block);
  for (Barrier& barrier : block.barriers) {
    if (barrier.arrived != 0 && barrier.needed == 0 && barrier.arrived >= all) open(block, barrier);
  }
}

}  // namespace ptx
