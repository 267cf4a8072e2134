// move.cpp - mov, with packing and unpacking; cvta; selp, slct.
// SPDX-License-Identifier: Apache-2.0
#include "ptx/typed.hpp"

namespace ptx {
namespace {

struct Same {
  template <class T>
  T operator()(const Instruction&, T a) const {
    return a;
  }
};

u32 bits_of(Type type) {
  switch (type) {
    case Type::b16:
      return 16;
    case Type::b32:
      return 32;
    case Type::b64:
      return 64;
    default:
      return 0;
  }
}

// {a, b, ...} -> one register, lowest first. number: bits of an element.
void pack(Warp& w, const Instruction& i, LaneMask lanes) {
  each_lane(lanes, [&](int lane) {
    u64 whole = 0;
    for (u32 n = 0; n < i.num_read; ++n) whole |= (w.get<u64>(i.slot[1 + n], lane) & ((u64{1} << i.number) - 1)) << (n * i.number);
    w.put(i.slot[0], lane, whole);
  });
}

void unpack(Warp& w, const Instruction& i, LaneMask lanes) {
  each_lane(lanes, [&](int lane) {
    const u64 whole = w.get<u64>(i.slot[i.num_written], lane);
    for (u32 n = 0; n < i.num_written; ++n) w.put(i.slot[n], lane, (whole >> (n * i.number)) & ((u64{1} << i.number) - 1));
  });
}

// number: base of the window; mode 1: from generic.
void cvta(Warp& w, const Instruction& i, LaneMask lanes) {
  each_lane(lanes, [&](int lane) {
    const u64 a = w.get<u64>(i.slot[1], lane);
    w.put(i.slot[0], lane, i.mode == 1 ? a - i.number : a + i.number);
  });
}

struct Select {
  template <class T>
  T operator()(const Instruction&, T a, T b, u8 p) const {
    return (p & 1) != 0 ? a : b;
  }
};

// slct: c >= 0 ? a : b
struct SelectBySign {
  template <class T>
  T operator()(const Instruction&, T a, T b, s32 c) const {
    return c >= 0 ? a : b;
  }
  template <class T>
  T operator()(const Instruction&, T a, T b, float c) const {
    return c >= 0 ? a : b;
  }
};

// Values are only moved here, so types matter by size.
Type plain(Type type) {
  switch (type) {
    case Type::pred:
      return Type::unsigned8;
    case Type::f16:
    case Type::bf16:
      return Type::b16;
    case Type::f32:
    case Type::tf32:
    case Type::f16x2:
    case Type::bf16x2:
      return Type::b32;
    case Type::f64:
      return Type::b64;
    default:
      return type;
  }
}

}  // namespace

Operation move_operation(const Form& form) {
  if (form.base == "mov") {
    Operation made = operation(for_any_integer(plain(form.type),
                                               [](auto t) -> Execute {
                                                 using T = typename decltype(t)::type;
                                                 return per_lane<Same, T, T>;
                                               }),
                               Work::move, 1);
    made.fields.copies = true;
    return made;
  }
  if (form.base == "mov.pack" || form.base == "mov.unpack") {  // the decoder's names for mov with a vector
    Operation made = operation(form.base == "mov.pack" ? pack : unpack, Work::move, 1);
    made.fields.number = bits_of(form.type);
    return made;
  }
  if (form.base == "cvta") {
    Operation made = operation(cvta, Work::move, 1);
    made.fields.mode = form.has("to") ? 1 : 0;
    made.fields.number = form.space == Space::shared      ? shared_window
                         : form.space == Space::local     ? local_window
                         : form.space == Space::parameter ? parameter_window
                                                          : 0;
    return made;
  }
  if (form.base == "selp") {
    return operation(for_integer(plain(form.type),
                                 [](auto t) -> Execute {
                                   using T = typename decltype(t)::type;
                                   return per_lane<Select, T, T, T, u8>;
                                 }),
                     Work::move, 3);
  }
  if (form.base == "slct") {
    const bool by_float = form.type == Type::f32;
    return operation(for_integer(plain(form.other_type),
                                 [&](auto t) -> Execute {
                                   using T = typename decltype(t)::type;
                                   if (by_float) return per_lane<SelectBySign, T, T, T, float>;
                                   return per_lane<SelectBySign, T, T, T, s32>;
                                 }),
                     Work::move, 3);
  }
  return {};
}

}  // namespace ptx
