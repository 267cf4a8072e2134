// atomic.cpp - atom and red: one lane after the other, which is what atomic means.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "ptx/access.hpp"
#include "ptx/typed.hpp"

namespace ptx {
namespace {

enum Kind : u8 { add, low, high, bit_and, bit_or, bit_xor, exchange, compare_and_swap, increment, decrement, unknown };

template <class T>
T combined(u8 kind, T old, T value, T other) {
  if constexpr (std::is_integral_v<T>) {
    using U = std::make_unsigned_t<T>;
    switch (kind) {
      case add:
        return static_cast<T>(static_cast<U>(old) + static_cast<U>(value));
      case bit_and:
        return static_cast<T>(old & value);
      case bit_or:
        return static_cast<T>(old | value);
      case bit_xor:
        return static_cast<T>(old ^ value);
      case increment:
        return old >= value ? T{0} : static_cast<T>(old + 1);
      case decrement:
        return old == 0 || old > value ? value : static_cast<T>(old - 1);
      default:
        break;
    }
  } else if (kind == add) {
    return old + value;
  }
  switch (kind) {
    case low:
      return std::min(old, value);
    case high:
      return std::max(old, value);
    case compare_and_swap:
      return old == value ? other : old;
    default:
      return value;
  }
}

// slots: [old], address, value, [other]. mode: kind
template <class T>
void update(Warp& w, const Instruction& i, LaneMask lanes) {
  const std::size_t at = i.num_written;
  each_lane(lanes, [&](int lane) {
    const Place place = place_of(i.space, w.get<u64>(i.slot[at], lane) + static_cast<u64>(i.offset));
    u8* bytes = access(w, i, lane, place, sizeof(T), Touch::atomic);
    T old;
    std::memcpy(&old, bytes, sizeof(T));
    const T value = w.get<T>(i.slot[at + 1], lane), other = i.mode == compare_and_swap ? w.get<T>(i.slot[at + 2], lane) : T{};
    const T next = combined(i.mode, old, value, other);
    std::memcpy(bytes, &next, sizeof(T));
    if (i.num_written > 0) w.put(i.slot[0], lane, old);
  });
}

Kind kind_of(const Form& form) {
  static constexpr std::pair<std::string_view, Kind> names[] = {
      {"add", add},       {"min", low},      {"max", high},      {"and", bit_and},
      {"or", bit_or},     {"xor", bit_xor},  {"exch", exchange}, {"cas", compare_and_swap},
      {"inc", increment}, {"dec", decrement}};
  const auto* at = std::find_if(std::begin(names), std::end(names), [&](const auto& entry) { return form.has(entry.first); });
  return at == std::end(names) ? unknown : at->second;
}

}  // namespace

Operation atomic_operation(const Form& form) {
  if (form.base != "atom" && form.base != "red") return {};
  const Kind kind = kind_of(form);
  if (kind == unknown || form.has("noftz") || form.has("v2") || form.has("v4")) return {};
  Execute execute = nullptr;
  if (form.type == Type::f32 && kind == add) execute = update<float>;
  if (form.type == Type::f64 && kind == add) execute = update<double>;
  if (form.type <= Type::signed64) {
    execute = for_integer(form.type, [](auto t) -> Execute {
      using T = typename decltype(t)::type;
      if constexpr (sizeof(T) >= 4) return update<T>;
      return nullptr;
    });
  }
  Operation made = operation(execute, Work::atomic, kind == compare_and_swap ? 3 : 2);
  made.writes = form.base == "atom" ? 1 : 0;
  made.fields.mode = kind;
  made.fields.space = form.space;
  return made;
}

}  // namespace ptx
