// convert_test.cpp - cvt: between sizes, signs, integers and floats, with every rounding.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <limits>

#include "ptx/harness.hpp"

namespace ptx::test {
namespace {

u64 one(const std::string& instruction, u64 a, u64 b = 0) {
  return evaluate_one(instruction, instruction.substr(instruction.find('%'), 3), a, b);
}

TEST(Convert, Integers) {
  EXPECT_EQ(one("cvt.s64.s32 %d0, %r1;", 0xffffffff), ~u64{0});
  EXPECT_EQ(one("cvt.u64.u32 %d0, %r1;", 0xffffffff), 0xffffffffU);
  EXPECT_EQ(one("cvt.u32.u64 %r0, %d1;", 0x100000002), 2U);
  EXPECT_EQ(one("cvt.s32.s8 %r0, %r1;", 0x180), static_cast<u32>(-128));
  EXPECT_EQ(one("cvt.u32.u16 %r0, %h1;", 0x8000), 0x8000U);
  EXPECT_EQ(one("cvt.s32.s16 %r0, %h1;", 0x8000), 0xffff8000U);
  EXPECT_EQ(one("cvt.sat.u8.s32 %r0, %r1;", 300), 255U);
  EXPECT_EQ(one("cvt.sat.u32.s32 %r0, %r1;", static_cast<u32>(-4)), 0U);
}

TEST(Convert, ToIntegersRoundsAndClamps) {
  EXPECT_EQ(one("cvt.rzi.s32.f32 %r0, %f1;", bits(-2.7F)), static_cast<u32>(-2));
  EXPECT_EQ(one("cvt.rni.s32.f32 %r0, %f1;", bits(2.5F)), 2U);
  EXPECT_EQ(one("cvt.rmi.s32.f32 %r0, %f1;", bits(-2.1F)), static_cast<u32>(-3));
  EXPECT_EQ(one("cvt.rpi.s64.f64 %d0, %g1;", bits(2.1)), 3U);
  EXPECT_EQ(one("cvt.rzi.s32.f32 %r0, %f1;", bits(1e20F)), 0x7fffffffU);
  EXPECT_EQ(one("cvt.rzi.u32.f32 %r0, %f1;", bits(-5.0F)), 0U);
  EXPECT_EQ(one("cvt.rzi.s32.f32 %r0, %f1;", bits(std::numeric_limits<float>::quiet_NaN())), 0U);
}

TEST(Convert, FromIntegers) {
  EXPECT_EQ(one("cvt.rn.f32.s32 %f0, %r1;", static_cast<u32>(-3)), bits(-3.0F));
  EXPECT_EQ(one("cvt.rn.f32.u32 %f0, %r1;", 16777217), bits(16777216.0F));
  EXPECT_EQ(one("cvt.rz.f32.u32 %f0, %r1;", 16777219), bits(16777218.0F));
  EXPECT_EQ(one("cvt.rn.f64.s64 %g0, %d1;", ~u64{0}), bits(-1.0));
  EXPECT_EQ(one("cvt.rn.f16.s32 %h0, %r1;", 2), 0x4000U);
}

TEST(Convert, BetweenFloats) {
  EXPECT_EQ(one("cvt.f64.f32 %g0, %f1;", bits(0.1F)), bits(static_cast<double>(0.1F)));
  EXPECT_EQ(one("cvt.rn.f32.f64 %f0, %g1;", bits(0.1)), bits(0.1F));
  EXPECT_EQ(one("cvt.rm.f32.f64 %f0, %g1;", bits(0.1)), bits(std::nextafter(0.1F, 0.0F)));  // 0.1F lies above 0.1
  EXPECT_EQ(one("cvt.rn.bf16.f32 %h0, %f1;", bits(1 + 0x1p-8F)), 0x3f80U);
  EXPECT_EQ(one("cvt.rn.bf16.f32 %h0, %f1;", bits(1 + 0x1.8p-8F)), 0x3f81U);
  EXPECT_EQ(one("cvt.rz.bf16.f32 %h0, %f1;", bits(-1 - 0x1.8p-8F)), 0xbf80U);
  EXPECT_EQ(one("cvt.f32.bf16 %f0, %h1;", 0x4040), bits(3.0F));
  EXPECT_EQ(one("cvt.f32.f16 %f0, %h1;", 0x3555), bits(0x1.554p-2F));
  EXPECT_EQ(one("cvt.rn.f16.f32 %h0, %f1;", bits(70000.0F)), 0x7c00U);
  EXPECT_EQ(one("cvt.rz.f16.f32 %h0, %f1;", bits(70000.0F)), 0x7bffU);               // the largest f16
  EXPECT_EQ(one("cvt.rn.f16.f64 %h0, %g1;", bits(1 + 0x1p-11 + 0x1p-40)), 0x3c01U);  // a tie only after rounding to float
  EXPECT_EQ(one("cvt.rni.f32.f32 %f0, %f1;", bits(2.5F)), bits(2.0F));
  EXPECT_EQ(one("cvt.sat.f32.f32 %f0, %f1;", bits(1.5F)), bits(1.0F));
  EXPECT_EQ(one("cvt.ftz.sat.f32.f32 %f0, %f1;", bits(-1.5F)), bits(0.0F));
}

TEST(Convert, PairsHaveTheFirstOperandOnTop) {
  EXPECT_EQ(one("cvt.rn.bf16x2.f32 %r0, %f1, %f2;", bits(1.0F), bits(2.0F)), 0x3f804000U);
  EXPECT_EQ(one("cvt.rn.f16x2.f32 %r0, %f1, %f2;", bits(1.0F), bits(2.0F)), 0x3c004000U);
  EXPECT_EQ(one("cvt.rn.relu.bf16x2.f32 %r0, %f1, %f2;", bits(-1.0F), bits(2.0F)), 0x00004000U);
}

TEST(Convert, Tf32) {
  EXPECT_EQ(one("cvt.rna.tf32.f32 %r0, %f1;", bits(1 + 0x1p-11F)), bits(1 + 0x1p-10F));  // ties away from zero
  EXPECT_EQ(one("cvt.rn.tf32.f32 %r0, %f1;", bits(1 + 0x1p-11F)), bits(1.0F));
  EXPECT_EQ(one("cvt.rna.tf32.f32 %r0, %f1;", bits(std::numeric_limits<float>::infinity())), bits(std::numeric_limits<float>::infinity()));
}

}  // namespace
}  // namespace ptx::test
