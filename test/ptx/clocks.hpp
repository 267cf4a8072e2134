// clocks.hpp - what each thread of a block knows of the others' progress: vector clocks.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "ptx/types.hpp"

namespace ptx {

/// Happens-before within a block
/// =============================
///
/// Thread t counts its own intervals, now(t) = 1, 2, ... An access of thread w in interval c happened before what thread t does now
/// iff knows(t, w, c). A thread that arrives at a barrier gives what it knows (give), a thread that leaves one takes the sum of what
/// all have given (take). __syncwarp, bar.sync and bar.arrive / bar.sync pairs are all made of these two.
///
/// Threads that left the same barrier share one row, so a barrier of N threads costs O(N) per warp, not O(N^2).
class Clocks {
 public:
  using Row = std::vector<u32>;  // per thread; the own entry of a thread lies in now()

  void reset(u32 num_threads);
  [[nodiscard]] u32 num_threads() const { return static_cast<u32>(now_.size()); }
  [[nodiscard]] u32 now(u32 thread) const { return now_[thread]; }
  [[nodiscard]] bool knows(u32 observer, u32 thread, u32 clock) const {
    return observer == thread || rows_[row_of_[observer]].clocks[thread] >= clock;
  }

  /// Whether that holds for an interval of every thread; 0: none.
  [[nodiscard]] bool knows_all(u32 observer, const Row& clocks) const;

  /// into = max(into, what the lanes of a warp know), then each begins a new interval.
  void give(u32 first_thread, LaneMask lanes, Row& into);
  /// The lanes of a warp know `row` from now on. They must have given to it. Returns a handle for the next warp that takes the same.
  u32 take(u32 first_thread, LaneMask lanes, const Row& row);
  void take_same(u32 first_thread, LaneMask lanes, u32 handle);

 private:
  struct Shared {
    Row clocks;
    u32 users = 0;
  };
  void leave(u32 thread);

  std::vector<u32> now_, row_of_;
  std::vector<Shared> rows_;
  std::vector<u32> unused_;
};

}  // namespace ptx
