// call.cpp - parameters that move between frames.
// SPDX-License-Identifier: Apache-2.0
#include "ptx/call.hpp"

#include "ptx/warp.hpp"

namespace ptx {
namespace {

void copy_frame_bytes(Warp& w, const Instruction& i, LaneMask lanes) {
  each_lane(lanes, [&](int lane) {
    const std::size_t frame = static_cast<std::size_t>(lane) * w.block->kernel->frame_bytes;
    const std::size_t from = frame + static_cast<std::size_t>(i.offset), to = frame + static_cast<std::size_t>(i.second_offset);
    std::memmove(w.frame.data() + to, w.frame.data() + from, i.number);
    std::memmove(w.frame_written.data() + to, w.frame_written.data() + from, i.number);
  });
}

void missing(Warp& w, const Instruction& i, LaneMask lanes) {
  const int lane = std::countr_zero(lanes);
  if (i.mode == 1) w.block->run->fault(Finding::trap, w, i, lane, "an assertion of the kernel failed");
  w.block->run->fault(Finding::missing_function, w, i, lane, "call of a function without a body");
}

}  // namespace

Instruction copy_in_frame(u64 from, u64 to, u64 num_bytes) {
  return {.execute = copy_frame_bytes, .offset = static_cast<s64>(from), .second_offset = static_cast<s64>(to), .number = num_bytes};
}

Instruction call_of_missing(std::string_view name) {
  return {.execute = missing, .work = Work::control, .mode = static_cast<u8>(name == "__assertfail" ? 1 : 0)};
}

}  // namespace ptx
