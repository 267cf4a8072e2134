// async_copy.cpp - cp.async: a copy from global to shared memory lands as late as it may, when a wait covers it.
// SPDX-License-Identifier: Apache-2.0
#include "ptx/access.hpp"
#include "ptx/typed.hpp"

namespace ptx {
namespace {

// slots: to, from, bytes [, bytes that the source has; the rest is zero]. Until it lands the target holds NaNs.
void start(Warp& w, const Instruction& i, LaneMask lanes) {
  std::array<u64, num_lanes> to{}, from{};
  u32 num_bytes = 0;
  LaneMask reading = 0;
  each_lane(lanes, [&](int lane) {
    const auto l = static_cast<std::size_t>(lane);
    AsyncCopy copy;
    copy.num_bytes = w.get<u32>(i.slot[2], lane);
    copy.source_bytes = i.num_read > 3 ? w.get<u32>(i.slot[3], lane) : copy.num_bytes;
    copy.to = w.get<u32>(i.slot[0], lane) + static_cast<u32>(i.offset);
    copy.from = w.get<u64>(i.slot[1], lane) + static_cast<u64>(i.second_offset);
    if ((copy.num_bytes != 4 && copy.num_bytes != 8 && copy.num_bytes != 16) || copy.source_bytes > copy.num_bytes)
      w.block->run->fault(
          Finding::misaligned, w, i, lane,
          "cp.async of " + std::to_string(copy.source_bytes) + " in " + std::to_string(copy.num_bytes) + " bytes, want at most 4, 8 or 16");
    check_shared(w, i, lane, copy.to, copy.num_bytes);
    if (copy.from % copy.num_bytes != 0)
      w.block->run->fault(Finding::misaligned, w, i, lane, "the source of cp.async is not aligned to its size");
    const Conflict conflict = w.block->shared_shadow.start_copy(copy.to, copy.num_bytes, Run::shared_actor(w, lane));
    if (conflict != Conflict::none) report_conflict(conflict, w, i, lane, true);
    std::memset(&w.block->shared[copy.to], 0xff, copy.num_bytes);
    // Reading now finds what is out of bounds where it is written in the program; the bytes are taken when it lands.
    const u32 step = std::has_single_bit(copy.source_bytes) ? copy.source_bytes : 1;
    for (u32 n = 0; n < copy.source_bytes; n += step) (void)access_global(w, i, lane, copy.from + n, step, Touch::read);
    num_bytes = copy.num_bytes;
    to[l] = copy.to, from[l] = copy.from;
    reading |= LaneMask{copy.source_bytes > 0} << lane;
    w.open_copies[l].push_back(copy);
  });
  count_access(w, i, lanes, Space::shared, to, num_bytes);
  --w.block->run->cost(i).requests;  // one request, of two memories
  count_access(w, i, reading, Space::global, from, num_bytes);
}

void commit(Warp& w, const Instruction&, LaneMask lanes) {
  each_lane(lanes, [&](int lane) {
    const auto l = static_cast<std::size_t>(lane);
    w.copy_groups[l].push_back(std::move(w.open_copies[l]));
    w.open_copies[l].clear();
  });
}

void land(Warp& w, int lane, const AsyncCopy& copy) {
  u8* to = &w.block->shared[copy.to];
  std::memset(to, 0, copy.num_bytes);
  if (copy.source_bytes > 0) w.block->run->memory->read(to, copy.from, copy.source_bytes);
  w.block->shared_shadow.land(copy.to, copy.num_bytes, Run::shared_actor(w, lane));
}

// wait_group n: all but the n latest groups have landed. mode 1: wait_all, the open one too.
void wait(Warp& w, const Instruction& i, LaneMask lanes) {
  each_lane(lanes, [&](int lane) {
    const auto l = static_cast<std::size_t>(lane);
    auto& groups = w.copy_groups[l];
    if (i.mode == 1) {
      groups.push_back(std::move(w.open_copies[l]));
      w.open_copies[l].clear();
    }
    const std::size_t keep = i.mode == 1 ? 0 : w.get<u32>(i.slot[0], lane);
    for (; groups.size() > keep; groups.pop_front()) {
      for (const AsyncCopy& copy : groups.front()) land(w, lane, copy);
    }
  });
}

}  // namespace

Operation copy_operation(const Form& form) {
  if (form.base != "cp" || !form.has("async") || form.parts.size() < 2 || form.has("bulk") || form.has("L2::cache_hint")) return {};
  if (form.has("mbarrier")) return {};
  Operation made = operation(start, Work::copy, 3);
  made.writes = 0;
  if (form.parts[1] == "commit_group") {
    made.fields.execute = commit;
    made.reads = 0;
  } else if (form.parts[1] == "wait_group" || form.parts[1] == "wait_all") {
    made.fields.execute = wait;
    made.fields.mode = form.parts[1] == "wait_all";
    made.reads = made.fields.mode == 1 ? 0 : 1;
  } else if (form.parts[1] == "ca" || form.parts[1] == "cg") {
    made.optional_reads = 1;
  } else {
    return {};
  }
  return made;
}

}  // namespace ptx
