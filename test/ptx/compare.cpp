// compare.cpp - setp and set, with the logic that they may add.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "ptx/rounding.hpp"
#include "ptx/typed.hpp"

namespace ptx {
namespace {

enum Comparison : u8 { eq, ne, lt, le, gt, ge, num, nan, unordered = 16 };
enum Logic : u8 { no_logic, and_logic, or_logic, xor_logic };

template <class T>
auto number(const Instruction& i, T value) {
  if constexpr (std::is_same_v<T, Float16> || std::is_same_v<T, BFloat16>) {
    return static_cast<float>(value);
  } else if constexpr (std::is_same_v<T, float>) {
    return i.flush ? flushed(value) : value;
  } else {
    return value;
  }
}

template <class T>
bool compare(u8 mode, T a, T b) {
  const bool is_nan = a != a || b != b;
  if (is_nan && (mode & unordered) != 0) return true;
  switch (mode & 15) {
    case eq:
      return a == b;
    case ne:
      return a != b && !is_nan;
    case lt:
      return a < b;
    case le:
      return a <= b;
    case gt:
      return a > b;
    case ge:
      return a >= b;
    case num:
      return !is_nan;
    default:
      return is_nan;
  }
}

// p [| q] = (a cmp b) logic c; q with the comparison inverted. mode: comparison, count: logic.
template <class T>
void set_predicate(Warp& w, const Instruction& i, LaneMask lanes) {
  const std::size_t first = i.num_written;
  each_lane(lanes, [&](int lane) {
    const bool is = compare(i.mode, number(i, w.get<T>(i.slot[first], lane)), number(i, w.get<T>(i.slot[first + 1], lane)));
    const bool other = i.count != no_logic && ((w.get<u8>(i.slot[first + 2], lane) & 1) != 0) != i.negated;
    const auto join = [&](bool p) {
      return i.count == and_logic ? p && other : i.count == or_logic ? p || other : i.count == xor_logic ? p != other : p;
    };
    w.put(i.slot[0], lane, static_cast<u8>(join(is)));
    if (i.num_written > 1) w.put(i.slot[1], lane, static_cast<u8>(join(!is)));
  });
}

// set.cmp.dtype.stype: all bits, or 1.0
template <class T>
void set_value(Warp& w, const Instruction& i, LaneMask lanes) {
  each_lane(lanes, [&](int lane) {
    const bool is = compare(i.mode, number(i, w.get<T>(i.slot[1], lane)), number(i, w.get<T>(i.slot[2], lane)));
    w.put(i.slot[0], lane, is ? static_cast<u32>(i.number) : 0U);
  });
}

template <class Pick>
Execute for_comparable(Type type, Pick pick) {
  switch (type) {
    case Type::f32:
      return pick(Tag<float>{});
    case Type::f64:
      return pick(Tag<double>{});
    case Type::f16:
      return pick(Tag<Float16>{});
    case Type::bf16:
      return pick(Tag<BFloat16>{});
    default:
      return for_integer(type, pick);
  }
}

int comparison_of(const Form& form) {
  static constexpr std::pair<std::string_view, int> names[] = {{"eq", eq},
                                                               {"ne", ne},
                                                               {"lt", lt},
                                                               {"le", le},
                                                               {"gt", gt},
                                                               {"ge", ge},
                                                               {"lo", lt},
                                                               {"ls", le},
                                                               {"hi", gt},
                                                               {"hs", ge},
                                                               {"num", num},
                                                               {"nan", nan},
                                                               {"equ", eq | unordered},
                                                               {"neu", ne | unordered},
                                                               {"ltu", lt | unordered},
                                                               {"leu", le | unordered},
                                                               {"gtu", gt | unordered},
                                                               {"geu", ge | unordered}};
  if (form.parts.empty()) return -1;
  const auto* at = std::find_if(std::begin(names), std::end(names), [&](const auto& entry) { return entry.first == form.parts[0]; });
  return at == std::end(names) ? -1 : at->second;
}

}  // namespace

Operation compare_operation(const Form& form) {
  if (form.base != "setp" && form.base != "set") return {};
  const int comparison = comparison_of(form);
  if (comparison < 0) return {};
  const bool is_float = form.type >= Type::f16 && form.type <= Type::f64;
  Operation made;
  if (form.base == "setp") {
    const Logic logic = form.has("and") ? and_logic : form.has("or") ? or_logic : form.has("xor") ? xor_logic : no_logic;
    made = operation(for_comparable(form.type, [](auto t) -> Execute { return set_predicate<typename decltype(t)::type>; }),
                     is_float ? Work::floating : Work::integer, logic == no_logic ? 2 : 3);
    made.may_negate = logic != no_logic;
    made.fields.count = logic;
  } else {
    made = operation(for_comparable(form.type, [](auto t) -> Execute { return set_value<typename decltype(t)::type>; }),
                     is_float ? Work::floating : Work::integer, 2);
    if (form.other_type != Type::unsigned32 && form.other_type != Type::signed32 && form.other_type != Type::f32) return {};
    made.fields.number = form.other_type == Type::f32 ? 0x3f800000 : 0xffffffff;
  }
  made.fields.mode = static_cast<u8>(comparison);
  made.fields.flush = form.has("ftz");
  return made;
}

}  // namespace ptx
