// floating.cpp - arithmetic of f32 and f64.
// SPDX-License-Identifier: Apache-2.0
#include "ptx/rounding.hpp"
#include "ptx/typed.hpp"

namespace ptx {
namespace {

float in(const Instruction& i, float value) { return i.flush ? flushed(value) : value; }
double in(const Instruction&, double value) { return value; }
float out(const Instruction& i, float value) {
  if (i.saturate) value = saturated(value);
  return i.flush ? flushed(value) : value;
}

struct Add {
  float operator()(const Instruction& i, float a, float b) const { return out(i, fused(in(i, a), 1, in(i, b), i.rounding)); }
  double operator()(const Instruction&, double a, double b) const { return a + b; }
};
struct Sub {
  float operator()(const Instruction& i, float a, float b) const { return out(i, fused(in(i, a), 1, -in(i, b), i.rounding)); }
  double operator()(const Instruction&, double a, double b) const { return a - b; }
};
// A sum rounded to nearest needs no more than the processor's own; these are half of all instructions.
struct AddNearest {
  float operator()(const Instruction& i, float a, float b) const { return out(i, in(i, a) + in(i, b)); }
};
struct SubNearest {
  float operator()(const Instruction& i, float a, float b) const { return out(i, in(i, a) - in(i, b)); }
};
struct Mul {
  float operator()(const Instruction& i, float a, float b) const {
    a = in(i, a), b = in(i, b);
    const float nearest = a * b;
    return out(i, i.rounding == 'n' || i.rounding == 0
                      ? nearest
                      : directed(nearest, static_cast<double>(a) * b - static_cast<double>(nearest), i.rounding));
  }
  double operator()(const Instruction&, double a, double b) const { return a * b; }
};
struct Fma {
  float operator()(const Instruction& i, float a, float b, float c) const {
    return out(i, fused(in(i, a), in(i, b), in(i, c), i.rounding));
  }
  double operator()(const Instruction&, double a, double b, double c) const { return std::fma(a, b, c); }
};
// div.approx and div.full: exact here
struct Div {
  float operator()(const Instruction& i, float a, float b) const { return out(i, in(i, a) / in(i, b)); }
  double operator()(const Instruction&, double a, double b) const { return a / b; }
};
struct Min {
  template <class T>
  T operator()(const Instruction& i, T a, T b) const {
    a = in(i, a), b = in(i, b);
    if (i.mode == 1 && (a != a || b != b)) return std::numeric_limits<T>::quiet_NaN();  // min.NaN
    if (a == 0 && b == 0) return std::signbit(a) ? a : b;
    return std::fmin(a, b);
  }
};
struct Max {
  template <class T>
  T operator()(const Instruction& i, T a, T b) const {
    a = in(i, a), b = in(i, b);
    if (i.mode == 1 && (a != a || b != b)) return std::numeric_limits<T>::quiet_NaN();
    if (a == 0 && b == 0) return std::signbit(a) ? b : a;
    return std::fmax(a, b);
  }
};
struct Neg {
  template <class T>
  T operator()(const Instruction& i, T a) const {
    return -in(i, a);
  }
};
struct Abs {
  template <class T>
  T operator()(const Instruction& i, T a) const {
    return std::fabs(in(i, a));
  }
};
struct CopySign {
  template <class T>
  T operator()(const Instruction&, T a, T b) const {
    return std::copysign(b, a);
  }
};
// testp.finite and the like: mode
struct Test {
  template <class T>
  u8 operator()(const Instruction& i, T a) const {
    const int kind = std::fpclassify(a);
    switch (i.mode) {
      case 0:
        return std::isfinite(a);
      case 1:
        return std::isinf(a);
      case 2:
        return !std::isnan(a);
      case 3:
        return std::isnan(a);
      case 4:
        return kind == FP_NORMAL;
      default:
        return kind == FP_SUBNORMAL;
    }
  }
};

template <class Function>
Execute unary(Type type) {
  return type == Type::f32 ? Execute{per_lane<Function, float, float>} : per_lane<Function, double, double>;
}
template <class Function>
Execute binary(Type type) {
  return type == Type::f32 ? Execute{per_lane<Function, float, float, float>} : per_lane<Function, double, double, double>;
}
template <class Function>
Execute ternary(Type type) {
  return type == Type::f32 ? Execute{per_lane<Function, float, float, float, float>} : per_lane<Function, double, double, double, double>;
}

Operation arithmetic(const Form& form, u8 rounding) {
  const Type type = form.type;
  const bool nearest = type == Type::f32 && (rounding == 'n' || rounding == 0);
  if (form.base == "add")
    return operation(nearest ? Execute{per_lane<AddNearest, float, float, float>} : binary<Add>(type), Work::floating, 2);
  if (form.base == "sub")
    return operation(nearest ? Execute{per_lane<SubNearest, float, float, float>} : binary<Sub>(type), Work::floating, 2);
  if (form.base == "mul") return operation(binary<Mul>(type), Work::floating, 2);
  if (form.base == "fma" || form.base == "mad") return operation(ternary<Fma>(type), Work::floating, 3);
  if (form.base == "div" && (rounding == 'n' || rounding == 0)) return operation(binary<Div>(type), Work::floating, 2);
  if (form.base == "min") return operation(binary<Min>(type), Work::floating, 2);
  if (form.base == "max") return operation(binary<Max>(type), Work::floating, 2);
  if (form.base == "neg") return operation(unary<Neg>(type), Work::floating, 1);
  if (form.base == "abs") return operation(unary<Abs>(type), Work::floating, 1);
  if (form.base == "copysign") return operation(binary<CopySign>(type), Work::floating, 2);
  return {};
}

}  // namespace

Operation float_operation(const Form& form) {
  if (form.type != Type::f32 && form.type != Type::f64) return {};
  if (form.base == "testp") {
    static constexpr std::string_view kinds[] = {"finite", "infinite", "number", "notanumber", "normal", "subnormal"};
    Operation made = operation(form.type == Type::f32 ? Execute{per_lane<Test, u8, float>} : per_lane<Test, u8, double>, Work::floating, 1);
    for (u8 n = 0; n < 6; ++n) {
      made.fields.mode = n;
      if (form.has(kinds[n])) return made;
    }
    return {};
  }
  u8 rounding = 0;
  for (const char mode : {'n', 'z', 'm', 'p'}) rounding = form.has(std::string("r") + mode) ? static_cast<u8>(mode) : rounding;
  if (form.type == Type::f64 && rounding != 0 && rounding != 'n') return {};
  Operation made = arithmetic(form, rounding);
  made.fields.rounding = rounding;
  made.fields.flush = form.has("ftz");
  made.fields.saturate = form.has("sat");
  made.fields.mode = form.has("NaN");
  return made;
}

}  // namespace ptx
