// rounding.hpp - rounding as the instruction says: directed modes without touching the processor's, flush to zero, saturation.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cmath>
#include <limits>

#include "ptx/program.hpp"

namespace ptx {

inline float flushed(float value) { return std::fpclassify(value) == FP_SUBNORMAL ? std::copysign(0.0F, value) : value; }
inline float saturated(float value) { return value > 0 ? std::fmin(value, 1.0F) : 0.0F; }  // NaN gives 0

/// `nearest` is the float nearest to the exact value nearest + rest, of which only the sign of the rest is given.
inline float directed(float nearest, double rest, u8 rounding) {
  if (rest == 0 || !(std::fabs(nearest) <= std::numeric_limits<float>::max())) return nearest;
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const bool below = rest < 0;  // exact value below nearest
  if (rounding == 'm' || (rounding == 'z' && nearest > 0)) return below ? std::nextafter(nearest, -infinity) : nearest;
  if (rounding == 'p' || (rounding == 'z' && nearest < 0)) return below ? nearest : std::nextafter(nearest, infinity);
  return nearest;
}

/// a * b + c rounded once. The product of two floats is exact in double; the error of the sum is found by two-sum.
inline float fused(float a, float b, float c, u8 rounding) {
  const float nearest = std::fma(a, b, c);
  if (rounding == 'n' || rounding == 0) return nearest;
  const double product = static_cast<double>(a) * b, sum = product + c;
  const double part = sum - product, error = (product - (sum - part)) + (c - part);
  const double rest = sum - static_cast<double>(nearest);
  return directed(nearest, rest != 0 ? rest : error, rounding);
}

/// A double as float, rounded to odd: a later rounding to 22 bits or fewer is then as if there had been only one.
inline float to_odd(double value) {
  const auto nearest = static_cast<float>(value);
  if (std::isnan(value) || std::isinf(nearest) || static_cast<double>(nearest) == value) return nearest;
  if ((std::bit_cast<u32>(nearest) & 1) != 0) return nearest;
  return std::nextafter(
      nearest, value > static_cast<double>(nearest) ? std::numeric_limits<float>::infinity() : -std::numeric_limits<float>::infinity());
}

}  // namespace ptx
