// special.cpp - ex2, lg2, rcp, sqrt, rsqrt, sin, cos, tanh of f32 and the exact ones of f64. Approximations are exact here to the last bit.
// SPDX-License-Identifier: Apache-2.0
#include "ptx/rounding.hpp"
#include "ptx/typed.hpp"

namespace ptx {
namespace {

float flush_if(const Instruction& i, float value) { return i.flush ? flushed(value) : value; }
double flush_if(const Instruction&, double value) { return value; }

template <auto Function>
struct Call {
  template <class T>
  T operator()(const Instruction& i, T a) const {
    return flush_if(i, static_cast<T>(Function(static_cast<double>(flush_if(i, a)))));
  }
};
double ex2(double a) { return std::exp2(a); }
double lg2(double a) { return std::log2(a); }
double reciprocal(double a) { return 1 / a; }
double root(double a) { return std::sqrt(a); }
double reciprocal_root(double a) { return 1 / std::sqrt(a); }
double sine(double a) { return std::sin(a); }
double cosine(double a) { return std::cos(a); }
double hyperbolic(double a) { return std::tanh(a); }

template <auto Function>
Execute f32_only(Type type) {
  return type == Type::f32 ? Execute{per_lane<Call<Function>, float, float>} : nullptr;
}
template <auto Function>
Execute f32_or_f64(Type type) {
  return type == Type::f64 ? Execute{per_lane<Call<Function>, double, double>} : f32_only<Function>(type);
}

}  // namespace

Operation special_operation(const Form& form) {
  if (form.has("rz") || form.has("rm") || form.has("rp")) return {};
  Execute execute = nullptr;
  if (form.base == "ex2") execute = f32_only<ex2>(form.type);
  if (form.base == "lg2") execute = f32_only<lg2>(form.type);
  if (form.base == "rcp") execute = f32_or_f64<reciprocal>(form.type);
  if (form.base == "sqrt") execute = f32_or_f64<root>(form.type);
  if (form.base == "rsqrt") execute = f32_or_f64<reciprocal_root>(form.type);
  if (form.base == "sin") execute = f32_only<sine>(form.type);
  if (form.base == "cos") execute = f32_only<cosine>(form.type);
  if (form.base == "tanh") execute = f32_only<hyperbolic>(form.type);
  Operation made = operation(execute, Work::special, 1);
  made.fields.flush = form.has("ftz");
  return made;
}

}  // namespace ptx
