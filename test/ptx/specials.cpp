// specials.cpp - values of special registers.
// SPDX-License-Identifier: Apache-2.0
#include "ptx/specials.hpp"

#include <algorithm>

#include "ptx/warp.hpp"

namespace ptx {
namespace {

constexpr std::pair<std::string_view, Special> names[] = {
    {"%tid.x", Special::tid_x},
    {"%tid.y", Special::tid_y},
    {"%tid.z", Special::tid_z},
    {"%ntid.x", Special::ntid_x},
    {"%ntid.y", Special::ntid_y},
    {"%ntid.z", Special::ntid_z},
    {"%ctaid.x", Special::ctaid_x},
    {"%ctaid.y", Special::ctaid_y},
    {"%ctaid.z", Special::ctaid_z},
    {"%nctaid.x", Special::nctaid_x},
    {"%nctaid.y", Special::nctaid_y},
    {"%nctaid.z", Special::nctaid_z},
    {"%laneid", Special::laneid},
    {"%warpid", Special::warpid},
    {"%nwarpid", Special::nwarpid},
    {"%lanemask_eq", Special::lanemask_eq},
    {"%lanemask_le", Special::lanemask_le},
    {"%lanemask_lt", Special::lanemask_lt},
    {"%lanemask_ge", Special::lanemask_ge},
    {"%lanemask_gt", Special::lanemask_gt},
    {"%smid", Special::smid},
    {"%nsmid", Special::nsmid},
    {"%gridid", Special::gridid},
    {"%dynamic_smem_size", Special::dynamic_smem_size},
    {"%total_smem_size", Special::total_smem_size},
};

u64 value_of(Special special, const Warp& w, int lane) {
  const Launch& launch = *w.block->run->launch;
  const u32 thread = w.thread(lane), bit = u32{1} << lane;
  switch (special) {
    case Special::tid_x:
      return thread % launch.block.x;
    case Special::tid_y:
      return thread / launch.block.x % launch.block.y;
    case Special::tid_z:
      return thread / launch.block.x / launch.block.y;
    case Special::ntid_x:
      return launch.block.x;
    case Special::ntid_y:
      return launch.block.y;
    case Special::ntid_z:
      return launch.block.z;
    case Special::ctaid_x:
      return w.block->index.x;
    case Special::ctaid_y:
      return w.block->index.y;
    case Special::ctaid_z:
      return w.block->index.z;
    case Special::nctaid_x:
      return launch.grid.x;
    case Special::nctaid_y:
      return launch.grid.y;
    case Special::nctaid_z:
      return launch.grid.z;
    case Special::laneid:
      return static_cast<u64>(lane);
    case Special::warpid:
      return w.index;
    case Special::nwarpid:
      return w.block->warps.size();
    case Special::lanemask_eq:
      return bit;
    case Special::lanemask_le:
      return bit | (bit - 1);
    case Special::lanemask_lt:
      return bit - 1;
    case Special::lanemask_ge:
      return ~(bit - 1);
    case Special::lanemask_gt:
      return ~(bit | (bit - 1));
    case Special::smid:
      return w.block->serial % 108;
    case Special::nsmid:
      return 108;
    case Special::gridid:
      return 0;
    case Special::dynamic_smem_size:
      return launch.dynamic_shared_bytes;
    case Special::total_smem_size:
      return w.block->shared.size();
  }
  return 0;
}

}  // namespace

std::optional<Special> special_of(std::string_view name) {
  const auto* at = std::find_if(std::begin(names), std::end(names), [&](const auto& entry) { return entry.first == name; });
  if (at == std::end(names)) return std::nullopt;
  return at->second;
}

void fill_specials(Warp& warp) {
  for (const auto& [slot, special] : warp.block->kernel->specials) {
    for (int lane = 0; lane < num_lanes; ++lane) warp.put(slot, lane, static_cast<u32>(value_of(special, warp, lane)));
    warp.set[slot] = all_lanes;
  }
}

}  // namespace ptx
