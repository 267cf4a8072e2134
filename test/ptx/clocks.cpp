// clocks.cpp - vector clocks with shared rows.
// SPDX-License-Identifier: Apache-2.0
#include "ptx/clocks.hpp"

#include <algorithm>

namespace ptx {

void Clocks::reset(u32 num_threads) {
  now_.assign(num_threads, 1);
  row_of_.assign(num_threads, 0);
  rows_.resize(1);
  rows_[0].clocks.assign(num_threads, 0);
  rows_[0].users = num_threads;
  unused_.clear();
}

bool Clocks::knows_all(u32 observer, const Row& clocks) const {
  const Row& known = rows_[row_of_[observer]].clocks;
  u32 num_unknown = 0;
  for (std::size_t t = 0; t < clocks.size(); ++t) num_unknown += clocks[t] > known[t] ? 1 : 0;
  return num_unknown == (clocks[observer] > known[observer] ? 1U : 0U);  // a thread knows what it did itself
}

void Clocks::give(u32 first_thread, LaneMask lanes, Row& into) {
  into.resize(now_.size());
  u32 merged = ~u32{0};
  for (u32 lane = 0; lane < num_lanes; ++lane) {
    if ((lanes >> lane & 1) == 0) continue;
    const u32 thread = first_thread + lane;
    if (row_of_[thread] != merged) {
      merged = row_of_[thread];
      const Row& known = rows_[merged].clocks;
      for (std::size_t t = 0; t < into.size(); ++t) into[t] = std::max(into[t], known[t]);
    }
    into[thread] = std::max(into[thread], now_[thread]++);
  }
}

void Clocks::leave(u32 thread) {
  const u32 old = row_of_[thread];
  if (--rows_[old].users == 0) unused_.push_back(old);
}

u32 Clocks::take(u32 first_thread, LaneMask lanes, const Row& row) {
  u32 handle = static_cast<u32>(rows_.size());
  if (unused_.empty()) {
    rows_.emplace_back();
  } else {
    handle = unused_.back();
    unused_.pop_back();
  }
  rows_[handle].clocks = row;
  rows_[handle].users = 0;
  take_same(first_thread, lanes, handle);
  return handle;
}

void Clocks::take_same(u32 first_thread, LaneMask lanes, u32 handle) {
  for (u32 lane = 0; lane < num_lanes; ++lane) {
    if ((lanes >> lane & 1) == 0) continue;
    ++rows_[handle].users;
    leave(first_thread + lane);
    row_of_[first_thread + lane] = handle;
  }
}

}  // namespace ptx
