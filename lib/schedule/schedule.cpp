// schedule.cpp - names, labels, and exact byte regions of blocks.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/schedule.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>

SEQCCL_BEGIN

const char* op_name(std::size_t index) noexcept {
  constexpr const char* names[] = {"attend",
                                   "merge",
                                   "row dot",
                                   "attend backward",
                                   "sink gradient",
                                   "copy",
                                   "add",
                                   "zero",
                                   "linear summary",
                                   "state step",
                                   "take columns",
                                   "put columns",
                                   "linear local",
                                   "linear enter",
                                   "linear summary backward",
                                   "linear backward",
                                   "custom"};
  static_assert(std::size(names) == std::variant_size_v<Op>);
  return names[index];
}

const char* name(const Op& op) noexcept { return op_name(op.index()); }

const char* name(Tensor tensor) noexcept {
  constexpr const char* names[] = {
      "scratch",    "q",         "k",          "v",      "out",       "lse",      "sinks",     "dout",
      "dq",         "dk",        "dv",         "dsinks", "log_decay", "state_in", "state_out", "entering_state",
      "dstate_out", "dstate_in", "dlog_decay", "beta",   "bonus",     "dbeta",    "dbonus",    "user"};
  static_assert(std::size(names) == static_cast<std::size_t>(Tensor::user) + 1);
  return names[static_cast<int>(tensor)];
}

SlotIndex Schedule::find(Tensor tensor) const noexcept {
  for (std::size_t i = 0; i < slots.size(); ++i)
    if (slots[i].tensor == tensor) return static_cast<SlotIndex>(i);
  return no_slot;
}

std::size_t Schedule::num_bytes(const Block& block) const noexcept {
  if (block.empty()) return 0;
  const Slot& slot = slots[block.slot];
  return static_cast<std::size_t>(slot.batch * block.num_tokens * block.num_heads * slot.dim) * size_bytes(slot.dtype);
}

namespace {

std::string peers_of(std::span<const Transfer> transfers) {
  std::map<Rank, int> counts;
  for (const Transfer& transfer : transfers) ++counts[transfer.peer];
  std::string text;
  for (const auto& [peer, count] : counts) {
    if (!text.empty()) text += ", ";
    text += count == 1 ? fmt::format("{}", peer) : fmt::format("{} (x{})", peer, count);
  }
  return text;
}

}  // namespace

std::string Schedule::label(const Step& step) const {
  if (step.lane == Lane::compute)
    return step.about < 0 ? seqccl::name(ops[step.index]) : fmt::format("{}, block of rank {}", seqccl::name(ops[step.index]), step.about);
  const Exchange& exchange = exchanges[step.index];
  std::string text = "exchange";
  if (exchange.num_sends != 0) text += fmt::format(", to {}", peers_of(sends(exchange)));
  if (exchange.num_receives != 0) text += fmt::format(", from {}", peers_of(receives(exchange)));
  return text;
}

// Scratch is stored (T, B, H, D). For the caller's tensors the same order is used as a logical address: their strides are
// known only when the schedule runs, and overlap within one tensor does not depend on them.
Region region_of(const Schedule& schedule, const Block& block) noexcept {
  if (block.empty()) return {block.slot, 0, 0, 0, 0};
  const Slot& slot = schedule.slots[block.slot];
  const auto head_bytes = static_cast<std::uint64_t>(slot.dim) * size_bytes(slot.dtype);
  const std::uint64_t row_bytes = head_bytes * slot.heads, token_bytes = row_bytes * slot.batch;
  if (block.num_heads == slot.heads)
    return {block.slot, block.token_first * token_bytes, block.num_tokens * token_bytes, 0, token_bytes == 0 ? 0u : 1u};
  return {block.slot, block.token_first * token_bytes + block.head_first * head_bytes, block.num_heads * head_bytes, row_bytes,
          head_bytes == 0 ? 0u : static_cast<std::uint64_t>(block.num_tokens * slot.batch)};
}

namespace {

/// Does [begin, begin + length) meet any block of `region`?
bool meets(const Region& region, std::uint64_t begin, std::uint64_t length) noexcept {
  const std::uint64_t end = begin + length;
  if (end <= region.offset) return false;
  if (region.count == 1) return begin < region.offset + region.block;
  // The last block that starts before `end` is the only one that can reach furthest into the interval.
  const std::uint64_t last = std::min((end - 1 - region.offset) / region.stride, region.count - 1);
  return begin < region.offset + last * region.stride + region.block;
}

}  // namespace

bool overlap(const Region& a, const Region& b) noexcept {
  if (a.slot != b.slot || a.count == 0 || b.count == 0 || a.block == 0 || b.block == 0) return false;
  if (a.count > b.count) return overlap(b, a);
  if (a.count == 1) return meets(b, a.offset, a.block);
  if (a.stride == b.stride) {
    // Blocks i of a and j of b meet iff -b.block < b.offset - a.offset + (j - i) stride < a.block, -(a.count-1) <= j-i <= b.count-1.
    const auto shift = static_cast<std::int64_t>(b.offset) - static_cast<std::int64_t>(a.offset);
    const auto stride = static_cast<std::int64_t>(a.stride);
    const std::int64_t low = -static_cast<std::int64_t>(b.block) + 1 - shift, high = static_cast<std::int64_t>(a.block) - 1 - shift;
    const auto floor_divide = [](std::int64_t x, std::int64_t y) { return x / y - (x % y != 0 && x < 0 ? 1 : 0); };
    const std::int64_t first = std::max(-floor_divide(-low, stride), -static_cast<std::int64_t>(a.count - 1));
    const std::int64_t last = std::min(floor_divide(high, stride), static_cast<std::int64_t>(b.count - 1));
    return first <= last;
  }
  for (std::uint64_t i = 0; i < a.count; ++i)
    if (meets(b, a.offset + i * a.stride, a.block)) return true;
  return false;
}

SEQCCL_END
