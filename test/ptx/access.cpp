// access.cpp - bounds, alignment, initialisation, races.
// SPDX-License-Identifier: Apache-2.0
#include "ptx/access.hpp"

#include <algorithm>
#include <cstdio>

namespace ptx {
namespace {

std::string bytes_at(u32 num_bytes, u64 address) {
  char text[64];
  std::snprintf(text, sizeof text, "%u bytes at 0x%llx", num_bytes, static_cast<unsigned long long>(address));
  return text;
}

const char* verb(Touch touch) { return touch == Touch::read ? "reads " : touch == Touch::write ? "writes " : "updates "; }

void check_aligned(Warp& w, const Instruction& i, int lane, u64 address, u32 num_bytes) {
  if (address % num_bytes != 0)
    w.block->run->fault(Finding::misaligned, w, i, lane, bytes_at(num_bytes, address) + " are not aligned to their size");
}

u8* access_frame(Warp& w, const Instruction& i, int lane, u64 address, u32 num_bytes, Touch touch) {
  const u64 frame_bytes = w.block->kernel->frame_bytes;
  if (address > frame_bytes || num_bytes > frame_bytes - address) {
    w.block->run->fault(Finding::out_of_bounds, w, i, lane,
                        verb(touch) + bytes_at(num_bytes, address) + " of local memory, which has " + std::to_string(frame_bytes));
  }
  const std::size_t at = static_cast<std::size_t>(lane) * frame_bytes + address;
  const auto written = w.frame_written.begin() + static_cast<std::ptrdiff_t>(at);
  if (touch == Touch::read && std::find(written, written + num_bytes, 0) != written + num_bytes) {
    w.block->run->report(Finding::uninitialised_local, w, i, lane,
                         verb(touch) + bytes_at(num_bytes, address) + " of local memory that nothing has written");
  }
  if (touch != Touch::read) std::fill_n(written, num_bytes, u8{1});
  return &w.frame[at];
}

u8* access_shared(Warp& w, const Instruction& i, int lane, u64 address, u32 num_bytes, Touch touch) {
  check_shared(w, i, lane, address, num_bytes);
  Shadow& shadow = w.block->shared_shadow;
  if (touch == Touch::atomic && !shadow.all_written(address, num_bytes, w.block->serial))
    report_conflict(Conflict::unwritten, w, i, lane, true);
  const Actor actor = Run::shared_actor(w, lane);
  const Conflict conflict =
      touch == Touch::read ? shadow.read(address, num_bytes, actor, true) : shadow.write(address, num_bytes, actor, touch == Touch::atomic);
  if (conflict != Conflict::none) report_conflict(conflict, w, i, lane, true);
  return &w.block->shared[address];
}

}  // namespace

Place place_of(Space space, u64 address) {
  if (space == Space::shared || space == Space::local || space == Space::frame) return {space, address & 0xffffffff};
  if (space != Space::generic) return {space, address};
  if (address - shared_window < window_bytes) return {Space::shared, address - shared_window};
  if (address - local_window < window_bytes) return {Space::local, address - local_window};
  if (address - parameter_window < window_bytes) return {Space::parameter, address - parameter_window};
  return {Space::global, address};
}

void check_shared(Warp& w, const Instruction& i, int lane, u64 address, u32 num_bytes) {
  check_aligned(w, i, lane, address, num_bytes);
  const u64 size = w.block->shared.size();
  if (address > size || num_bytes > size - address) {
    w.block->run->fault(Finding::out_of_bounds, w, i, lane,
                        bytes_at(num_bytes, address) + " of shared memory, which has " + std::to_string(size));
  }
}

u8* access_shared_elements(Warp& w, const Instruction& i, int lane, u64 address, u32 element_bytes) {
  check_shared(w, i, lane, address, element_bytes * i.count);
  const Actor actor = Run::shared_actor(w, lane);
  for (u32 n = 0; n < i.count; ++n) {
    const Conflict conflict = w.block->shared_shadow.read(address + n * element_bytes, element_bytes, actor, true);
    if (conflict == Conflict::unwritten)
      w.unwritten[n] |= LaneMask{1} << lane;
    else if (conflict != Conflict::none)
      report_conflict(conflict, w, i, lane, true);
  }
  return &w.block->shared[address];
}

void report_conflict(Conflict conflict, Warp& w, const Instruction& i, int lane, bool is_shared) {
  Run& run = *w.block->run;
  const Finding race = is_shared ? Finding::race_shared : Finding::race_global;
  switch (conflict) {
    case Conflict::none:
      return;
    case Conflict::unwritten:
      return run.report(Finding::uninitialised_shared, w, i, lane, "reads shared memory that this block has not written");
    case Conflict::in_flight:
      return run.report(Finding::copy_in_flight, w, i, lane, "touches shared memory into which a cp.async is under way");
    case Conflict::write_after_write:
      return run.report(race, w, i, lane, "overwrites what another thread wrote, with nothing that orders them");
    case Conflict::read_after_write:
      return run.report(race, w, i, lane, "reads what another thread wrote, with nothing that orders them");
    case Conflict::write_after_read:
      return run.report(race, w, i, lane, "overwrites what another thread read, with nothing that orders them");
    case Conflict::other_block:
      return run.report(Finding::race_between_blocks, w, i, lane, "shares memory with another block of the launch, one of them writing");
  }
}

u8* access_global(Warp& w, const Instruction& i, int lane, u64 address, u32 num_bytes, Touch touch) {
  check_aligned(w, i, lane, address, num_bytes);
  Run& run = *w.block->run;
  Allocation* found = run.memory->near(address);
  if (found == nullptr || found->freed || address > found->end() || num_bytes > found->end() - address) {
    std::string what = verb(touch) + bytes_at(num_bytes, address) + ", ";
    if (found == nullptr) {
      what += "near no allocation";
    } else {
      what += found->freed
                  ? "in memory that was freed"
                  : std::to_string(address - found->address) + " bytes into an allocation of " + std::to_string(found->bytes.size());
      if (!found->name.empty()) what += " (" + found->name + ")";
    }
    run.fault(Finding::out_of_bounds, w, i, lane, what);
  }
  const u64 offset = address - found->address;
  if (touch != Touch::read && found->read_only) run.fault(Finding::read_only, w, i, lane, "writes to " + found->name);
  const auto written = found->written.begin() + static_cast<std::ptrdiff_t>(offset);
  if (touch != Touch::write && std::find(written, written + num_bytes, 0) != written + num_bytes) {
    run.report(Finding::uninitialised_global, w, i, lane,
               "reads global memory that neither host nor device has written, " + std::to_string(offset) + " bytes into an allocation of " +
                   std::to_string(found->bytes.size()) + (found->name.empty() ? "" : " (" + found->name + ")"));
  }
  if (touch != Touch::read) std::fill_n(written, num_bytes, u8{1});
  if (!found->read_only) {
    if (found->shadow.num_bytes() < found->bytes.size()) found->shadow.resize(found->bytes.size());
    const Actor actor = run.actor(w, lane);
    const Conflict conflict = touch == Touch::read ? found->shadow.read(offset, num_bytes, actor, false)
                                                   : found->shadow.write(offset, num_bytes, actor, touch == Touch::atomic);
    if (conflict != Conflict::none) report_conflict(conflict, w, i, lane, false);
  }
  return &found->bytes[offset];
}

u8* access(Warp& w, const Instruction& i, int lane, Place place, u32 num_bytes, Touch touch) {
  switch (place.space) {
    case Space::generic:
    case Space::global:
      return access_global(w, i, lane, place.address, num_bytes, touch);
    case Space::shared:
      return access_shared(w, i, lane, place.address, num_bytes, touch);
    case Space::local:
    case Space::frame:
      check_aligned(w, i, lane, place.address, num_bytes);
      return access_frame(w, i, lane, place.address, num_bytes, touch);
    case Space::parameter: {
      check_aligned(w, i, lane, place.address, num_bytes);
      Run& run = *w.block->run;
      const std::vector<u8>& arguments = run.launch->arguments;
      if (touch != Touch::read) run.fault(Finding::read_only, w, i, lane, "writes to a parameter of the kernel");
      if (place.address > arguments.size() || num_bytes > arguments.size() - place.address)
        run.fault(Finding::out_of_bounds, w, i, lane, "reads beyond the parameters of the kernel");
      return const_cast<u8*>(arguments.data()) + place.address;
    }
  }
  return nullptr;
}

void count_access(Warp& w, const Instruction& i, LaneMask lanes, Space space, const std::array<u64, num_lanes>& addresses, u32 num_bytes) {
  Cost& cost = w.block->run->cost(i);
  ++cost.requests;
  if (space == Space::shared) {
    // A pass delivers each of 32 banks of 4 bytes once; lanes of one pass are as many as fit 128 bytes; equal words are one.
    const int per_pass = num_bytes <= 4 ? num_lanes : static_cast<int>(128 / num_bytes);
    for (int begin = 0; begin < num_lanes; begin += per_pass) {
      std::array<u64, 2 * num_lanes> words;
      std::array<u8, num_lanes> load{};
      std::size_t count = 0;
      u8 worst = 0;
      for (int lane = begin; lane < begin + per_pass; ++lane) {
        if ((lanes >> lane & 1) == 0) continue;
        for (u32 b = 0; b < num_bytes; b += 4) {
          const u64 word = (addresses[static_cast<std::size_t>(lane)] + b) / 4;
          const auto end = words.begin() + static_cast<std::ptrdiff_t>(count);
          if (std::find(words.begin(), end, word) != end) continue;
          words[count++] = word;
          worst = std::max(worst, ++load[word % num_lanes]);
        }
      }
      cost.bank_waves += worst;
      cost.min_waves += worst > 0;
    }
  } else if (space == Space::global) {
    std::array<u64, 2 * num_lanes> sectors;
    std::array<u64, num_lanes> distinct;
    std::size_t count = 0, num_distinct = 0;
    const auto add = [](auto& list, std::size_t& n, u64 value) {
      for (std::size_t k = n; k-- > 0;) {
        if (list[k] == value) return;
      }
      list[n++] = value;
    };
    each_lane(lanes, [&](int lane) {
      const u64 address = addresses[static_cast<std::size_t>(lane)];
      add(sectors, count, address / 32);
      if ((address + num_bytes - 1) / 32 != address / 32) add(sectors, count, (address + num_bytes - 1) / 32);
      add(distinct, num_distinct, address);
    });
    cost.sectors += count;
    cost.min_sectors += (num_distinct * num_bytes + 31) / 32;
  }
}

}  // namespace ptx
