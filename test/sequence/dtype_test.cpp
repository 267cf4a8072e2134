// dtype_test.cpp - conversions of f16 and bf16: every pattern, and rounding against double arithmetic.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/dtype.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>

namespace seqccl {
namespace {

// A format with `mantissa_bits` stored bits, whose smallest normal number is 2^least and largest is below 2^(most + 1).
struct Format {
  int mantissa_bits, least, most;
};
constexpr Format half{10, -14, 15}, brain{7, -126, 127};

// Round to nearest even in double: exact, because a double has room for every float and every midpoint.
double rounded(float value, const Format& format) {
  if (std::isnan(value) || std::isinf(value) || value == 0) return value;
  const int exponent = std::max(std::ilogb(static_cast<double>(value)), format.least);
  const double unit = std::ldexp(1.0, exponent - format.mantissa_bits);
  const double result = std::nearbyint(static_cast<double>(value) / unit) * unit;  // ties to even by default
  const double limit = std::ldexp(1.0, format.most + 1);
  if (std::abs(result) >= limit) return std::copysign(std::numeric_limits<double>::infinity(), result);
  return result;
}

template <class T>
void expect_rounded(float value, const Format& format) {
  const float got = static_cast<float>(T(value));
  const double want = rounded(value, format);
  if (std::isnan(value)) {
    ASSERT_TRUE(std::isnan(got));
    return;
  }
  ASSERT_EQ(static_cast<double>(got), want) << std::hexfloat << value;
  ASSERT_EQ(std::signbit(got), std::signbit(value)) << std::hexfloat << value;
}

template <class T>
void expect_all_patterns_round_trip(const Format& format) {
  for (std::uint32_t pattern = 0; pattern <= 0xffff; ++pattern) {
    T value;
    value.bits = static_cast<std::uint16_t>(pattern);
    const float wide = static_cast<float>(value);
    const T back(wide);
    if (std::isnan(wide)) {
      ASSERT_TRUE(std::isnan(static_cast<float>(back))) << pattern;
      ASSERT_EQ(std::signbit(static_cast<float>(back)), std::signbit(wide)) << pattern;
    } else {
      ASSERT_EQ(back.bits, pattern);
    }
    const std::uint32_t exponent = pattern << 17 >> 17 >> format.mantissa_bits, mantissa = pattern & ((1u << format.mantissa_bits) - 1);
    const std::uint32_t largest = format.most + 1 - format.least + 1;
    if (exponent == largest) {
      ASSERT_EQ(std::isnan(wide), mantissa != 0) << pattern;
      ASSERT_EQ(std::isinf(wide), mantissa == 0) << pattern;
    } else {
      const double significand = mantissa + (exponent == 0 ? 0.0 : std::ldexp(1.0, format.mantissa_bits));
      const double magnitude = std::ldexp(significand, static_cast<int>(std::max(exponent, 1u)) - 1 + format.least - format.mantissa_bits);
      ASSERT_EQ(std::abs(static_cast<double>(wide)), magnitude) << pattern;
      ASSERT_EQ(std::signbit(wide), pattern >> 15 != 0) << pattern;
    }
  }
}

TEST(Float16, AllPatternsRoundTrip) { expect_all_patterns_round_trip<Float16>(half); }
TEST(BFloat16, AllPatternsRoundTrip) { expect_all_patterns_round_trip<BFloat16>(brain); }

// The float at, just below and just above every representable number and every midpoint between two of them.
template <class T>
void expect_midpoints_round_to_even(const Format& format) {
  for (std::uint32_t pattern = 0; pattern < 0x7fff; ++pattern) {
    T value, next;
    value.bits = static_cast<std::uint16_t>(pattern);
    next.bits = static_cast<std::uint16_t>(pattern + 1);
    const double a = static_cast<float>(value), b = static_cast<float>(next);
    if (!std::isfinite(a) || !std::isfinite(b)) continue;
    const float middle = static_cast<float>((a + b) / 2);
    for (const float near : {middle, std::nextafter(middle, -1e30f), std::nextafter(middle, std::numeric_limits<float>::infinity())}) {
      ASSERT_NO_FATAL_FAILURE(expect_rounded<T>(near, format));
      ASSERT_NO_FATAL_FAILURE(expect_rounded<T>(-near, format));
    }
  }
}

TEST(Float16, MidpointsRoundToEven) { expect_midpoints_round_to_even<Float16>(half); }
TEST(BFloat16, MidpointsRoundToEven) { expect_midpoints_round_to_even<BFloat16>(brain); }

TEST(Float16AndBFloat16, RandomFloatsRoundToNearest) {
  std::mt19937 generator(11);
  for (int i = 0; i < 300'000; ++i) {
    const float value = std::bit_cast<float>(static_cast<std::uint32_t>(generator()));
    ASSERT_NO_FATAL_FAILURE(expect_rounded<Float16>(value, half));
    ASSERT_NO_FATAL_FAILURE(expect_rounded<BFloat16>(value, brain));
    const float moderate = std::ldexp(value / std::max(std::abs(value), 1e-30f), static_cast<int>(generator() % 48) - 30);
    ASSERT_NO_FATAL_FAILURE(expect_rounded<Float16>(moderate, half));
  }
}

TEST(Float16AndBFloat16, Edges) {
  EXPECT_EQ(Float16(65504.f).bits, 0x7bff);
  EXPECT_EQ(Float16(65519.996f).bits, 0x7bff);
  EXPECT_EQ(Float16(65520.f).bits, 0x7c00);
  EXPECT_EQ(Float16(0x1p-24f).bits, 1);
  EXPECT_EQ(Float16(0x1p-25f).bits, 0);
  EXPECT_EQ(Float16(-0x1.000002p-25f).bits, 0x8001);
  EXPECT_EQ(Float16(-0.f).bits, 0x8000);
  EXPECT_EQ(BFloat16(std::numeric_limits<float>::max()).bits, 0x7f80);
  EXPECT_EQ(BFloat16(1.00390625f).bits, 0x3f80);  // tie, to even
  EXPECT_EQ(BFloat16(std::numeric_limits<float>::denorm_min()).bits, 0);
  // A NaN whose payload lies in the lower half only must not become an infinity.
  EXPECT_TRUE(std::isnan(static_cast<float>(BFloat16(std::bit_cast<float>(0x7f800001u)))));
  EXPECT_TRUE(std::isnan(static_cast<float>(Float16(std::bit_cast<float>(0xff800001u)))));
}

TEST(DType, SizesNamesAndEpsilons) {
  EXPECT_EQ(size_bytes(f32), 4u);
  EXPECT_EQ(size_bytes(f16), 2u);
  EXPECT_EQ(size_bytes(bf16), 2u);
  EXPECT_EQ(size_bytes(DType::f64), 8u);
  EXPECT_STREQ(name(bf16), "bf16");
  EXPECT_STREQ(name(DType::f64), "f64");
  EXPECT_EQ(epsilon(f32), std::numeric_limits<float>::epsilon());
  EXPECT_EQ(epsilon(DType::f64), std::numeric_limits<double>::epsilon());
  Float16 one(1.f), next;
  next.bits = static_cast<std::uint16_t>(one.bits + 1);
  EXPECT_EQ(static_cast<float>(next) - 1, epsilon(f16));
  BFloat16 brain_one(1.f), brain_next;
  brain_next.bits = static_cast<std::uint16_t>(brain_one.bits + 1);
  EXPECT_EQ(static_cast<float>(brain_next) - 1, epsilon(bf16));
}

}  // namespace
}  // namespace seqccl
