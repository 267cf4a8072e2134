// exchange.cpp - shfl.sync, vote.sync, match.sync, redux.sync, activemask: between the lanes of a warp.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "ptx/typed.hpp"

namespace ptx {
namespace {

enum Shuffle : u8 { up, down, butterfly, index };

// d [| p], value, lane, clamp and segments, members. Where the source lane is out of its segment the own value comes back.
void shuffle(Warp& w, const Instruction& i, LaneMask lanes) {
  const std::size_t first = i.num_written;
  std::array<u32, num_lanes> values{};
  each_lane(lanes, [&](int lane) { values[static_cast<std::size_t>(lane)] = w.get<u32>(i.slot[first], lane); });
  each_lane(lanes, [&](int lane) {
    const int distance = static_cast<int>(w.get<u32>(i.slot[first + 1], lane) & 31);
    const u32 control = w.get<u32>(i.slot[first + 2], lane);
    const int clamp = static_cast<int>(control & 31), segment = static_cast<int>(control >> 8 & 31);
    const int low = lane & segment, high = low | (clamp & ~segment);
    int source = 0;
    bool inside = false;
    switch (i.mode) {
      case up:
        source = lane - distance, inside = source >= high;
        break;
      case down:
        source = lane + distance, inside = source <= high;
        break;
      case butterfly:
        source = lane ^ distance, inside = source <= high;
        break;
      default:
        source = low | (distance & ~segment), inside = source <= high;
        break;
    }
    if (!inside) source = lane;
    if ((lanes >> source & 1) == 0)
      w.block->run->fault(Finding::divergence, w, i, lane, "shfl reads lane " + std::to_string(source) + ", which does not take part");
    w.put(i.slot[0], lane, values[static_cast<std::size_t>(source)]);
    if (first > 1) w.put(i.slot[1], lane, static_cast<u8>(inside));
  });
}

LaneMask votes(const Warp& w, const Instruction& i, LaneMask lanes) {
  LaneMask yes = 0;
  each_lane(lanes, [&](int lane) { yes |= LaneMask{((w.get<u8>(i.slot[i.num_written], lane) & 1) != 0) != i.negated} << lane; });
  return yes;
}

enum Vote : u8 { ballot, all, any, uniform };

// Lanes that name the same members vote together.
void vote(Warp& w, const Instruction& i, LaneMask lanes) {
  const LaneMask yes = votes(w, i, lanes);
  each_lane(lanes, [&](int lane) {
    const LaneMask members = w.get<u32>(i.slot[i.num_written + 1U], lane) & lanes, mine = yes & members;
    if (i.mode == ballot) return w.put(i.slot[0], lane, mine);
    const bool result = i.mode == all ? mine == members : i.mode == any ? mine != 0 : mine == members || mine == 0;
    w.put(i.slot[0], lane, static_cast<u8>(result));
  });
}

// match.any: lanes with an equal value; match.all d|p: all members if all are equal
template <class T>
void match(Warp& w, const Instruction& i, LaneMask lanes) {
  const std::size_t first = i.num_written;
  each_lane(lanes, [&](int lane) {
    const LaneMask members = w.get<u32>(i.slot[first + 1], lane) & lanes;
    LaneMask equal = 0;
    each_lane(members, [&](int other) { equal |= LaneMask{w.get<T>(i.slot[first], other) == w.get<T>(i.slot[first], lane)} << other; });
    if (i.mode == all) equal = equal == members ? members : 0;
    w.put(i.slot[0], lane, equal);
    if (first > 1) w.put(i.slot[1], lane, static_cast<u8>(equal != 0));
  });
}

enum Reduction : u8 { sum, least, most, conjunction, disjunction, parity };

template <class T>
void reduce(Warp& w, const Instruction& i, LaneMask lanes) {
  each_lane(lanes, [&](int lane) {
    const LaneMask members = w.get<u32>(i.slot[2], lane) & lanes;
    T result = w.get<T>(i.slot[1], std::countr_zero(members));
    each_lane(members & (members - 1), [&](int other) {
      const T value = w.get<T>(i.slot[1], other);
      switch (i.mode) {
        case sum:
          result = static_cast<T>(static_cast<u32>(result) + static_cast<u32>(value));
          break;
        case least:
          result = std::min(result, value);
          break;
        case most:
          result = std::max(result, value);
          break;
        case conjunction:
          result &= value;
          break;
        case disjunction:
          result |= value;
          break;
        default:
          result ^= value;
          break;
      }
    });
    w.put(i.slot[0], lane, static_cast<u64>(static_cast<u32>(result)));
  });
}

void active(Warp& w, const Instruction& i, LaneMask lanes) {
  each_lane(lanes, [&](int lane) { w.put(i.slot[0], lane, lanes); });
}

template <std::size_t N>
int position(const Form& form, const std::string_view (&names)[N]) {
  for (std::size_t n = 0; n < N; ++n) {
    if (form.has(names[n])) return static_cast<int>(n);
  }
  return -1;
}

}  // namespace

Operation exchange_operation(const Form& form) {
  static constexpr std::string_view shuffles[] = {"up", "down", "bfly", "idx"}, vote_names[] = {"ballot", "all", "any", "uni"},
                                    matches[] = {"", "all", "any"}, reductions[] = {"add", "min", "max", "and", "or", "xor"};
  if (form.base == "activemask") return operation(active, Work::exchange, 0);
  if (!form.has("sync")) return {};
  Operation made;
  int mode = -1;
  if (form.base == "shfl" && form.type == Type::b32) {
    made = operation(shuffle, Work::exchange, 4);
    mode = position(form, shuffles);
  } else if (form.base == "vote") {
    made = operation(vote, Work::exchange, 2);
    made.may_negate = true;
    mode = position(form, vote_names);
  } else if (form.base == "match") {
    made = operation(form.type == Type::b64 ? Execute{match<u64>} : match<u32>, Work::exchange, 2);
    mode = position(form, matches);
  } else if (form.base == "redux" && (form.type == Type::unsigned32 || form.type == Type::signed32 || form.type == Type::b32)) {
    made = operation(form.type == Type::signed32 ? Execute{reduce<s32>} : reduce<u32>, Work::exchange, 2);
    mode = position(form, reductions);
  }
  if (mode < 0) return {};
  made.fields.mode = static_cast<u8>(mode);
  made.fields.flow = Flow::together;
  made.member = made.reads - 1;
  return made;
}

}  // namespace ptx
