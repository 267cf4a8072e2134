// bits.cpp - and, or, xor, not, shifts, lop3, prmt, bfe, bfi, popc, clz, bfind, brev.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <type_traits>

#include "ptx/typed.hpp"

namespace ptx {
namespace {

struct And {
  template <class T>
  T operator()(const Instruction&, T a, T b) const {
    return static_cast<T>(a & b);
  }
};
struct Or {
  template <class T>
  T operator()(const Instruction&, T a, T b) const {
    return static_cast<T>(a | b);
  }
};
struct Xor {
  template <class T>
  T operator()(const Instruction&, T a, T b) const {
    return static_cast<T>(a ^ b);
  }
};
struct Not {
  template <class T>
  T operator()(const Instruction& i, T a) const {
    return i.mode == 1 ? static_cast<T>((a & 1) ^ 1) : static_cast<T>(~a);
  }  // 1: predicate
};
struct ShiftLeft {
  template <class T>
  T operator()(const Instruction&, T a, u32 n) const {
    return n >= 8 * sizeof(T) ? T{0} : static_cast<T>(static_cast<u64>(a) << n);
  }
};
struct ShiftRight {
  template <class T>
  T operator()(const Instruction&, T a, u32 n) const {
    return static_cast<T>(n >= 8 * sizeof(T) ? (a < T{0} ? T(-1) : T{0}) : a >> n);
  }
};
// shf: 64 bits {c, b} shifted. mode: 1 right; count 1: wrap
struct Funnel {
  u32 operator()(const Instruction& i, u32 low, u32 high, u32 n) const {
    const u64 both = low | (u64{high} << 32);
    n = i.count == 1 ? n & 31 : std::min(n, 32U);
    return i.mode == 1 ? static_cast<u32>(both >> n) : static_cast<u32>((both << n) >> 32);
  }
};
struct Logic3 {
  u32 operator()(const Instruction&, u32 a, u32 b, u32 c, u32 table) const {
    u32 result = 0;
    for (u32 row = 0; row < 8; ++row) {
      if ((table >> row & 1) != 0) result |= ((row & 4) != 0 ? a : ~a) & ((row & 2) != 0 ? b : ~b) & ((row & 1) != 0 ? c : ~c);
    }
    return result;
  }
};
struct Permute {
  u32 operator()(const Instruction&, u32 a, u32 b, u32 selector) const {
    const u64 bytes = a | (u64{b} << 32);
    u32 result = 0;
    for (u32 n = 0; n < 4; ++n) {
      const u32 nibble = selector >> (4 * n) & 15;
      u32 byte = static_cast<u32>(bytes >> (8 * (nibble & 7))) & 255;
      if ((nibble & 8) != 0) byte = (byte & 128) != 0 ? 255 : 0;  // the sign of the byte, eight times
      result |= byte << (8 * n);
    }
    return result;
  }
};
struct Extract {
  template <class T>
  T operator()(const Instruction&, T a, u32 position, u32 length) const {
    constexpr u32 width = 8 * sizeof(T);
    position &= 255, length &= 255;
    if (length == 0) return 0;
    const auto bit = [&](u32 n) { return static_cast<u64>(a) >> n & 1; };
    const u64 sign = std::is_signed_v<T> ? bit(std::min(position + length - 1, width - 1)) : 0;
    u64 result = 0;
    for (u32 n = 0; n < width; ++n) result |= (n < length && position + n < width ? bit(position + n) : sign) << n;
    return static_cast<T>(result);
  }
};
struct Insert {
  template <class T>
  T operator()(const Instruction&, T a, T into, u32 position, u32 length) const {
    position &= 255, length &= 255;
    for (u32 n = 0; n < length && position + n < 8 * sizeof(T); ++n) {
      const T bit = T{1} << (position + n);
      into = static_cast<T>((into & ~bit) | ((a >> n & 1) != 0 ? bit : 0));
    }
    return into;
  }
};
struct Population {
  template <class T>
  u32 operator()(const Instruction&, T a) const {
    return static_cast<u32>(std::popcount(a));
  }
};
struct LeadingZeros {
  template <class T>
  u32 operator()(const Instruction&, T a) const {
    return static_cast<u32>(std::countl_zero(a));
  }
};
// bfind: position of the highest bit that is not the sign; mode 1: how far to shift it to the top
struct FindHighest {
  template <class T>
  u32 operator()(const Instruction& i, T a) const {
    using U = std::make_unsigned_t<T>;
    const U value = a < T{0} ? static_cast<U>(~a) : static_cast<U>(a);
    if (value == 0) return ~u32{0};
    const u32 zeros = static_cast<u32>(std::countl_zero(value));
    return i.mode == 1 ? zeros : static_cast<u32>(8 * sizeof(T)) - 1 - zeros;
  }
};
struct Reverse {
  template <class T>
  T operator()(const Instruction&, T a) const {
    T result = 0;
    for (u32 n = 0; n < 8 * sizeof(T); ++n) result = static_cast<T>(result << 1) | static_cast<T>(a >> n & 1);
    return result;
  }
};

template <class Function>
Execute logic(Type type) {
  if (type == Type::pred) return per_lane<Function, u8, u8, u8>;
  return for_integer(type, [](auto t) -> Execute {
    using T = typename decltype(t)::type;
    return per_lane<Function, T, T, T>;
  });
}
// To a 32-bit count, from an unsigned or any type of 32 or 64 bits.
template <class Function, bool Signed>
Execute count(Type type) {
  return for_integer(type, [](auto t) -> Execute {
    using T = typename decltype(t)::type;
    if constexpr (sizeof(T) >= 4 && (Signed || std::is_unsigned_v<T>)) return per_lane<Function, u32, T>;
    return nullptr;
  });
}
template <class Function>
Execute shift(Type type) {
  return for_integer(type, [](auto t) -> Execute {
    using T = typename decltype(t)::type;
    return per_lane<Function, T, T, u32>;
  });
}

}  // namespace

Operation bit_operation(const Form& form) {
  const auto& base = form.base;
  const Type type = form.type;
  if (base == "and") return operation(logic<And>(type), Work::integer, 2);
  if (base == "or") return operation(logic<Or>(type), Work::integer, 2);
  if (base == "xor") return operation(logic<Xor>(type), Work::integer, 2);
  if (base == "not") {
    Operation made = operation(type == Type::pred ? Execute{per_lane<Not, u8, u8>}
                                                  : for_integer(type,
                                                                [](auto t) -> Execute {
                                                                  using T = typename decltype(t)::type;
                                                                  return per_lane<Not, T, T>;
                                                                }),
                               Work::integer, 1);
    made.fields.mode = type == Type::pred;
    return made;
  }
  if (base == "shl") return operation(shift<ShiftLeft>(type), Work::integer, 2);
  if (base == "shr") return operation(shift<ShiftRight>(type), Work::integer, 2);
  if (base == "shf" && type == Type::b32) {
    Operation made = operation(per_lane<Funnel, u32, u32, u32, u32>, Work::integer, 3);
    made.fields.mode = form.has("r");
    made.fields.count = form.has("wrap");
    return made;
  }
  if (base == "lop3" && type == Type::b32 && form.parts.size() == 1)
    return operation(per_lane<Logic3, u32, u32, u32, u32, u32>, Work::integer, 4);
  if (base == "prmt" && type == Type::b32 && form.parts.size() == 1)
    return operation(per_lane<Permute, u32, u32, u32, u32>, Work::integer, 3);
  if (base == "bfe") {
    return operation(for_integer(type,
                                 [](auto t) -> Execute {
                                   using T = typename decltype(t)::type;
                                   if constexpr (sizeof(T) >= 4) return per_lane<Extract, T, T, u32, u32>;
                                   return nullptr;
                                 }),
                     Work::integer, 3);
  }
  if (base == "bfi" && type == Type::b32) return operation(per_lane<Insert, u32, u32, u32, u32, u32>, Work::integer, 4);
  if (base == "bfi" && type == Type::b64) return operation(per_lane<Insert, u64, u64, u64, u32, u32>, Work::integer, 4);
  if (base == "popc") return operation(count<Population, false>(type), Work::integer, 1);
  if (base == "clz") return operation(count<LeadingZeros, false>(type), Work::integer, 1);
  if (base == "bfind") {
    Operation made = operation(count<FindHighest, true>(type), Work::integer, 1);
    made.fields.mode = form.has("shiftamt");
    return made;
  }
  if (base == "brev" && type == Type::b32) return operation(per_lane<Reverse, u32, u32>, Work::integer, 1);
  if (base == "brev" && type == Type::b64) return operation(per_lane<Reverse, u64, u64>, Work::integer, 1);
  return {};
}

}  // namespace ptx
