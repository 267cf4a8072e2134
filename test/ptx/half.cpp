// half.cpp - arithmetic of f16, bf16 and their pairs: done in double, rounded once.
// SPDX-License-Identifier: Apache-2.0
#include "ptx/rounding.hpp"
#include "ptx/typed.hpp"

namespace ptx {
namespace {

template <class T>
T rounded(double value) {
  return T(to_odd(value));
}

struct Add {
  double operator()(double a, double b) const { return a + b; }
};
struct Sub {
  double operator()(double a, double b) const { return a - b; }
};
struct Mul {
  double operator()(double a, double b) const { return a * b; }
};
struct Fma {
  // The product of two halves is exact in double; fma rounds the sum once more, to 53 bits.
  double operator()(double a, double b, double c) const { return std::fma(a, b, c); }
};
struct Min {
  double operator()(double a, double b) const { return a == 0 && b == 0 ? (std::signbit(a) ? a : b) : std::fmin(a, b); }
};
struct Max {
  double operator()(double a, double b) const { return a == 0 && b == 0 ? (std::signbit(a) ? b : a) : std::fmax(a, b); }
};
struct Neg {
  double operator()(double a) const { return -a; }
};
struct Abs {
  double operator()(double a) const { return std::fabs(a); }
};
struct Exp2 {
  double operator()(double a) const { return std::exp2(a); }
};
struct Tanh {
  double operator()(double a) const { return std::tanh(a); }
};

template <class T, class Function, class... From>
T on_halves(const Instruction& i, From... from) {
  if (i.mode == 1 && (std::isnan(static_cast<float>(from)) || ...)) return T(std::numeric_limits<float>::quiet_NaN());  // min.NaN, max.NaN
  double result = Function()(static_cast<double>(static_cast<float>(from))...);
  if (i.saturate) result = result > 0 ? std::fmin(result, 1.0) : 0.0;
  if (i.relu && !(result > 0) && !std::isnan(result)) result = 0;
  return rounded<T>(result);
}

template <class T, class Function>
struct One {
  template <class... From>
  T operator()(const Instruction& i, From... from) const {
    return on_halves<T, Function>(i, from...);
  }
};
template <class T, class Function>
struct Two {
  template <class... From>
  u32 operator()(const Instruction& i, From... from) const {
    const T low = on_halves<T, Function>(i, half_of(from, 0)...), high = on_halves<T, Function>(i, half_of(from, 16)...);
    return low.bits | (u32{high.bits} << 16);
  }
  static T half_of(u32 pair, int shift) {
    T half;
    half.bits = static_cast<u16>(pair >> shift);
    return half;
  }
};

template <class Function, int Reads>
Execute pick(Type type) {
  const auto of = [](auto single, auto pair) -> Execute {
    using T = typename decltype(single)::type;
    if constexpr (decltype(pair)::value) {
      if constexpr (Reads == 1) return per_lane<Two<T, Function>, u32, u32>;
      if constexpr (Reads == 2) return per_lane<Two<T, Function>, u32, u32, u32>;
      if constexpr (Reads == 3) return per_lane<Two<T, Function>, u32, u32, u32, u32>;
    } else {
      if constexpr (Reads == 1) return per_lane<One<T, Function>, T, T>;
      if constexpr (Reads == 2) return per_lane<One<T, Function>, T, T, T>;
      if constexpr (Reads == 3) return per_lane<One<T, Function>, T, T, T, T>;
    }
  };
  switch (type) {
    case Type::f16:
      return of(Tag<Float16>{}, std::false_type{});
    case Type::bf16:
      return of(Tag<BFloat16>{}, std::false_type{});
    case Type::f16x2:
      return of(Tag<Float16>{}, std::true_type{});
    case Type::bf16x2:
      return of(Tag<BFloat16>{}, std::true_type{});
    default:
      return nullptr;
  }
}

}  // namespace

Operation half_operation(const Form& form) {
  Operation made;
  const Type type = form.type;
  if (form.base == "add") made = operation(pick<Add, 2>(type), Work::floating, 2);
  if (form.base == "sub") made = operation(pick<Sub, 2>(type), Work::floating, 2);
  if (form.base == "mul") made = operation(pick<Mul, 2>(type), Work::floating, 2);
  if (form.base == "fma") made = operation(pick<Fma, 3>(type), Work::floating, 3);
  if (form.base == "min") made = operation(pick<Min, 2>(type), Work::floating, 2);
  if (form.base == "max") made = operation(pick<Max, 2>(type), Work::floating, 2);
  if (form.base == "neg") made = operation(pick<Neg, 1>(type), Work::floating, 1);
  if (form.base == "abs") made = operation(pick<Abs, 1>(type), Work::floating, 1);
  if (form.base == "ex2") made = operation(pick<Exp2, 1>(type), Work::special, 1);
  if (form.base == "tanh") made = operation(pick<Tanh, 1>(type), Work::special, 1);
  made.fields.saturate = form.has("sat");
  made.fields.relu = form.has("relu");
  made.fields.mode = form.has("NaN");
  if (form.has("ftz") && (type == Type::f16 || type == Type::f16x2)) return {};
  return made;
}

}  // namespace ptx
