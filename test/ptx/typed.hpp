// typed.hpp - picks the instance of a template for the type of an instruction, and runs functions over lanes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>

#include "ptx/operation.hpp"
#include "ptx/warp.hpp"
#include "seqccl/dtype.hpp"

namespace ptx {

using seqccl::BFloat16;
using seqccl::Float16;

template <class T>
struct Tag {
  using type = T;
};

/// pick(Tag<T>) for the integer type, nullptr for others. Bits (.b32) are unsigned.
template <class Pick>
Execute for_integer(Type type, Pick pick) {
  switch (type) {
    case Type::b16:
    case Type::unsigned16:
      return pick(Tag<u16>{});
    case Type::signed16:
      return pick(Tag<s16>{});
    case Type::b32:
    case Type::unsigned32:
      return pick(Tag<u32>{});
    case Type::signed32:
      return pick(Tag<s32>{});
    case Type::b64:
    case Type::unsigned64:
      return pick(Tag<u64>{});
    case Type::signed64:
      return pick(Tag<s64>{});
    default:
      return nullptr;
  }
}

/// The same for 8-bit integers too.
template <class Pick>
Execute for_any_integer(Type type, Pick pick) {
  if (type == Type::unsigned8 || type == Type::b8) return pick(Tag<u8>{});
  if (type == Type::signed8) return pick(Tag<s8>{});
  return for_integer(type, pick);
}

/// slot[0] = Function()(i, slot[1], ...) for each lane.
template <class Function, class To, class... From>
void per_lane(Warp& w, const Instruction& i, LaneMask lanes) {
  const auto one = [&]<std::size_t... n>(int lane, std::index_sequence<n...>) {
    w.put<To>(i.slot[0], lane, static_cast<To>(Function()(i, w.get<From>(i.slot[1 + n], lane)...)));
  };
  each_lane(lanes, [&](int lane) { one(lane, std::index_sequence_for<From...>()); });
}

/// An Operation of one result, `reads` operands.
inline Operation operation(Execute execute, Work work, int reads) {
  Operation made{.fields = {.execute = execute, .work = work}};
  made.reads = reads;
  return made;
}

}  // namespace ptx
