// integer.cpp - add, sub, mul, mad, div, rem, min, max, abs, neg, sad and carries of integers.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <limits>
#include <type_traits>

#include "ptx/typed.hpp"

namespace ptx {
namespace {

template <class T>
using Unsigned = std::make_unsigned_t<T>;
// Arithmetic wraps: it is done in unsigned words wide enough that C++ does not promote them to int.
template <class T>
using Word = std::conditional_t<sizeof(T) == 8, u64, u32>;
__extension__ typedef __int128 s128;
__extension__ typedef unsigned __int128 u128;
template <class T>
using Wide = std::conditional_t<sizeof(T) == 2, std::conditional_t<std::is_signed_v<T>, s32, u32>,
                                std::conditional_t<sizeof(T) == 4, std::conditional_t<std::is_signed_v<T>, s64, u64>,
                                                   std::conditional_t<std::is_signed_v<T>, s128, u128>>>;

template <class T>
T high_part(T a, T b) {
  return static_cast<T>((static_cast<Wide<T>>(a) * static_cast<Wide<T>>(b)) >> (8 * sizeof(T)));
}
s32 clamp_to_s32(s64 value) {
  return static_cast<s32>(std::clamp<s64>(value, std::numeric_limits<s32>::min(), std::numeric_limits<s32>::max()));
}

struct Add {
  template <class T>
  T operator()(const Instruction& i, T a, T b) const {
    if constexpr (std::is_same_v<T, s32>) {
      if (i.saturate) return clamp_to_s32(s64{a} + b);
    }
    return static_cast<T>(static_cast<Word<T>>(a) + static_cast<Word<T>>(b));
  }
};
struct Sub {
  template <class T>
  T operator()(const Instruction& i, T a, T b) const {
    if constexpr (std::is_same_v<T, s32>) {
      if (i.saturate) return clamp_to_s32(s64{a} - b);
    }
    return static_cast<T>(static_cast<Word<T>>(a) - static_cast<Word<T>>(b));
  }
};
struct MulLow {
  template <class T>
  T operator()(const Instruction&, T a, T b) const {
    return static_cast<T>(static_cast<Word<T>>(a) * static_cast<Word<T>>(b));
  }
};
struct MulHigh {
  template <class T>
  T operator()(const Instruction&, T a, T b) const {
    return high_part(a, b);
  }
};
struct MulWide {
  template <class T>
  Wide<T> operator()(const Instruction&, T a, T b) const {
    return static_cast<Wide<T>>(a) * static_cast<Wide<T>>(b);
  }
};
struct MadLow {
  template <class T>
  T operator()(const Instruction&, T a, T b, T c) const {
    return static_cast<T>(static_cast<Word<T>>(a) * static_cast<Word<T>>(b) + static_cast<Word<T>>(c));
  }
};
struct MadHigh {
  template <class T>
  T operator()(const Instruction&, T a, T b, T c) const {
    return static_cast<T>(static_cast<Word<T>>(high_part(a, b)) + static_cast<Word<T>>(c));
  }
};
struct MadWide {
  template <class T, class W>
  W operator()(const Instruction&, T a, T b, W c) const {
    return static_cast<W>(static_cast<Word<W>>(static_cast<W>(a) * static_cast<W>(b)) + static_cast<Word<W>>(c));
  }
};
// What a device returns for a division by zero is not specified; all bits set is what they give.
struct Div {
  template <class T>
  T operator()(const Instruction&, T a, T b) const {
    if (b == 0) return static_cast<T>(~Unsigned<T>{0});
    if constexpr (std::is_signed_v<T>) {
      if (b == -1) return static_cast<T>(Word<T>{0} - static_cast<Word<T>>(a));
    }
    return static_cast<T>(a / b);
  }
};
struct Rem {
  template <class T>
  T operator()(const Instruction&, T a, T b) const {
    if (b == 0) return a;
    if constexpr (std::is_signed_v<T>) {
      if (b == -1) return 0;
    }
    return static_cast<T>(a % b);
  }
};
struct Min {
  template <class T>
  T operator()(const Instruction& i, T a, T b) const {
    const T least = std::min(a, b);
    return i.relu && least < T{0} ? T{0} : least;
  }
};
struct Max {
  template <class T>
  T operator()(const Instruction& i, T a, T b) const {
    const T most = std::max(a, b);
    return i.relu && most < T{0} ? T{0} : most;
  }
};
struct Neg {
  template <class T>
  T operator()(const Instruction&, T a) const {
    return static_cast<T>(Word<T>{0} - static_cast<Word<T>>(a));
  }
};
struct Abs {
  template <class T>
  T operator()(const Instruction& i, T a) const {
    return a < T{0} ? Neg()(i, a) : a;
  }
};
struct Sad {
  template <class T>
  T operator()(const Instruction&, T a, T b, T c) const {
    const auto difference = a < b ? static_cast<Word<T>>(b) - static_cast<Word<T>>(a) : static_cast<Word<T>>(a) - static_cast<Word<T>>(b);
    return static_cast<T>(static_cast<Word<T>>(c) + difference);
  }
};

template <class Function>
Operation unary(const Form& form) {
  return operation(for_integer(form.type,
                               [](auto t) -> Execute {
                                 using T = typename decltype(t)::type;
                                 return per_lane<Function, T, T>;
                               }),
                   Work::integer, 1);
}
template <class Function>
Operation binary(const Form& form) {
  Operation made = operation(for_integer(form.type,
                                         [](auto t) -> Execute {
                                           using T = typename decltype(t)::type;
                                           return per_lane<Function, T, T, T>;
                                         }),
                             Work::integer, 2);
  made.fields.saturate = form.has("sat");
  made.fields.relu = form.has("relu");
  return made;
}
template <class Function>
Operation ternary(const Form& form) {
  return operation(for_integer(form.type,
                               [](auto t) -> Execute {
                                 using T = typename decltype(t)::type;
                                 return per_lane<Function, T, T, T, T>;
                               }),
                   Work::integer, 3);
}

}  // namespace

Operation integer_operation(const Form& form) {
  if (form.has("cc") || (form.type >= Type::f16 && form.type != Type::b128) || form.type == Type::b8) return {};
  if (form.base == "add") return binary<Add>(form);
  if (form.base == "sub") return binary<Sub>(form);
  if (form.base == "div") return binary<Div>(form);
  if (form.base == "rem") return binary<Rem>(form);
  if (form.base == "min") return binary<Min>(form);
  if (form.base == "max") return binary<Max>(form);
  if (form.base == "neg") return unary<Neg>(form);
  if (form.base == "abs") return unary<Abs>(form);
  if (form.base == "sad") return ternary<Sad>(form);
  if (form.base != "mul" && form.base != "mad") return {};
  const bool adds = form.base == "mad";
  if (form.has("lo")) return adds ? ternary<MadLow>(form) : binary<MulLow>(form);
  if (form.has("hi")) return adds ? ternary<MadHigh>(form) : binary<MulHigh>(form);
  if (!form.has("wide")) return {};
  return operation(for_integer(form.type,
                               [&](auto t) -> Execute {
                                 using T = typename decltype(t)::type;
                                 if constexpr (sizeof(T) < 8) {
                                   if (adds) return per_lane<MadWide, Wide<T>, T, T, Wide<T>>;
                                   return per_lane<MulWide, Wide<T>, T, T>;
                                 }
                                 return nullptr;
                               }),
                   Work::integer, adds ? 3 : 2);
}

}  // namespace ptx
