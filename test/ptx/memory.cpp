// memory.cpp - ld and st, of 1, 2, 4 or 8 elements.
// SPDX-License-Identifier: Apache-2.0
#include "ptx/access.hpp"
#include "ptx/typed.hpp"

namespace ptx {
namespace {

struct Addresses {
  std::array<u64, num_lanes> at{};
  Space space = Space::generic;  // of the first lane
};

template <class Body>
void each_place(Warp& w, const Instruction& i, LaneMask lanes, u32 slot, u32 num_bytes, Body body) {
  Addresses addresses;
  bool first = true;
  each_lane(lanes, [&](int lane) {
    const Place place = place_of(i.space, w.get<u64>(slot, lane) + static_cast<u64>(i.offset));
    if (std::exchange(first, false)) addresses.space = place.space;
    addresses.at[static_cast<std::size_t>(lane)] = place.address;
    body(lane, place);
  });
  count_access(w, i, lanes, addresses.space, addresses.at, num_bytes);
}

// slots: values..., address. count: elements. Signed and small elements are extended to the whole register.
template <class T>
void load(Warp& w, const Instruction& i, LaneMask lanes) {
  const u32 num_bytes = static_cast<u32>(sizeof(T)) * i.count;
  each_place(w, i, lanes, i.slot[i.count], num_bytes, [&](int lane, Place place) {
    const bool apart = i.elements_apart && place.space == Space::shared;
    const u8* from =
        apart ? access_shared_elements(w, i, lane, place.address, sizeof(T)) : access(w, i, lane, place, num_bytes, Touch::read);
    for (u32 n = 0; n < i.count; ++n) {
      T value;
      std::memcpy(&value, from + n * sizeof(T), sizeof(T));
      w.put(i.slot[n], lane, value);
    }
  });
}

// slots: address, values...
template <class T>
void store(Warp& w, const Instruction& i, LaneMask lanes) {
  const u32 num_bytes = static_cast<u32>(sizeof(T)) * i.count;
  each_place(w, i, lanes, i.slot[0], num_bytes, [&](int lane, Place place) {
    u8* to = access(w, i, lane, place, num_bytes, Touch::write);
    for (u32 n = 0; n < i.count; ++n) {
      const T value = w.get<T>(i.slot[1 + n], lane);
      std::memcpy(to + n * sizeof(T), &value, sizeof(T));
    }
  });
}

Type element(Type type) {
  switch (type) {
    case Type::f16:
    case Type::bf16:
      return Type::b16;
    case Type::f32:
    case Type::f16x2:
    case Type::bf16x2:
      return Type::b32;
    case Type::f64:
      return Type::b64;
    default:
      return type;
  }
}

Work work_of(Space space) {
  switch (space) {
    case Space::generic:
      return Work::generic;
    case Space::global:
      return Work::global;
    case Space::shared:
      return Work::shared;
    case Space::local:
      return Work::local;
    default:
      return Work::move;
  }
}

}  // namespace

Operation memory_operation(const Form& form) {
  const bool loads = form.base == "ld" || form.base == "ldu";
  if ((!loads && form.base != "st") || form.has("L2::cache_hint")) return {};
  const u8 count = form.has("v2") ? 2 : form.has("v4") ? 4 : form.has("v8") ? 8 : 1;
  Operation made = operation(for_any_integer(element(form.type),
                                             [&](auto t) -> Execute {
                                               using T = typename decltype(t)::type;
                                               return loads ? load<T> : store<T>;
                                             }),
                             work_of(form.space), loads ? 1 : 1 + count);
  made.writes = loads ? count : 0;
  made.fields.count = count;
  made.fields.elements_apart = loads && count > 1;
  made.fields.space = form.space;
  return made;
}

}  // namespace ptx
