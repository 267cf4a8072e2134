// arithmetic_test.cpp - integer, bit, float and compare instructions against formulas of their own.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <limits>

#include "ptx/harness.hpp"

namespace ptx::test {
namespace {

u64 one(const std::string& instruction, u64 a, u64 b = 0, u64 c = 0) {
  const std::size_t begin = instruction.find('%');
  return evaluate_one(instruction, instruction.substr(begin, 3), a, b, c);
}
constexpr u64 minus(u64 n) { return u64{0} - n; }
constexpr float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();

TEST(Integer, ArithmeticWraps) {
  EXPECT_EQ(one("add.s32 %r0, %r1, %r2;", 0x7fffffff, 1), 0x80000000U);
  EXPECT_EQ(one("add.sat.s32 %r0, %r1, %r2;", 0x7fffffff, 1), 0x7fffffffU);
  EXPECT_EQ(one("sub.s64 %d0, %d1, %d2;", 3, 5), minus(2));
  EXPECT_EQ(one("sub.u16 %h0, %h1, %h2;", 3, 5), 0xfffeU);
  EXPECT_EQ(one("mul.lo.s32 %r0, %r1, %r2;", minus(3), 5), static_cast<u32>(-15));
  EXPECT_EQ(one("mul.lo.u16 %h0, %h1, %h2;", 0xffff, 0xffff), 1U);
  EXPECT_EQ(one("mul.hi.s32 %r0, %r1, %r2;", minus(1), 5), 0xffffffffU);
  EXPECT_EQ(one("mul.hi.u32 %r0, %r1, %r2;", minus(1), 5), 4U);
  EXPECT_EQ(one("mul.hi.u64 %d0, %d1, %d2;", minus(1), 5), 4U);
  EXPECT_EQ(one("mul.hi.s64 %d0, %d1, %d2;", minus(1), 5), minus(1));
  EXPECT_EQ(one("mul.wide.s32 %d0, %r1, %r2;", minus(3), 5), minus(15));
  EXPECT_EQ(one("mul.wide.u32 %d0, %r1, %r2;", minus(1), 2), 0x1fffffffeU);
  EXPECT_EQ(one("mul.wide.s16 %r0, %h1, %h2;", minus(3), 5), static_cast<u32>(-15));
  EXPECT_EQ(one("mad.lo.s32 %r0, %r1, %r2, %r3;", 7, 6, 5), 47U);
  EXPECT_EQ(one("mad.wide.s32 %d0, %r1, %r2, %d3;", minus(2), 3, 100), 94U);
  EXPECT_EQ(one("mad.hi.u32 %r0, %r1, %r2, %r3;", minus(1), 5, 10), 14U);
  EXPECT_EQ(one("sad.u32 %r0, %r1, %r2, %r3;", 3, 10, 1), 8U);
}

TEST(Integer, Division) {
  EXPECT_EQ(one("div.s32 %r0, %r1, %r2;", minus(7), 2), static_cast<u32>(-3));
  EXPECT_EQ(one("rem.s32 %r0, %r1, %r2;", minus(7), 2), static_cast<u32>(-1));
  EXPECT_EQ(one("div.u64 %d0, %d1, %d2;", minus(1), 3), minus(1) / 3);
  EXPECT_EQ(one("div.s32 %r0, %r1, %r2;", 0x80000000, minus(1)), 0x80000000U);
  EXPECT_EQ(one("rem.s32 %r0, %r1, %r2;", 0x80000000, minus(1)), 0U);
  EXPECT_EQ(one("div.u32 %r0, %r1, %r2;", 5, 0), 0xffffffffU);
}

TEST(Integer, MinMaxNegAbs) {
  EXPECT_EQ(one("min.s32 %r0, %r1, %r2;", minus(1), 1), 0xffffffffU);
  EXPECT_EQ(one("min.u32 %r0, %r1, %r2;", minus(1), 1), 1U);
  EXPECT_EQ(one("max.s16 %h0, %h1, %h2;", minus(1), 1), 1U);
  EXPECT_EQ(one("neg.s32 %r0, %r1;", 5), static_cast<u32>(-5));
  EXPECT_EQ(one("abs.s32 %r0, %r1;", minus(5)), 5U);
  EXPECT_EQ(one("abs.s64 %d0, %d1;", minus(5)), 5U);
}

TEST(Bits, Logic) {
  EXPECT_EQ(one("and.b32 %r0, %r1, %r2;", 0b1100, 0b1010), 0b1000U);
  EXPECT_EQ(one("or.b16 %h0, %h1, %h2;", 0b1100, 0b1010), 0b1110U);
  EXPECT_EQ(one("xor.b64 %d0, %d1, %d2;", 0b1100, 0b1010), 0b0110U);
  EXPECT_EQ(one("not.b32 %r0, %r1;", 1), 0xfffffffeU);
  EXPECT_EQ(one("and.pred %p0, %p1, %p2;", 1, 0), 0U);
  EXPECT_EQ(one("or.pred %p0, %p1, %p2;", 1, 0), 1U);
  EXPECT_EQ(one("not.pred %p0, %p1;", 0), 1U);
  for (u32 table = 0; table < 256; table += 17) {  // a = 0xf0, b = 0xcc, c = 0xaa give the table itself
    EXPECT_EQ(one("lop3.b32 %r0, %r1, %r2, %r3, " + std::to_string(table) + ";", 0xf0, 0xcc, 0xaa) & 0xff, table);
  }
}

TEST(Bits, Shifts) {
  EXPECT_EQ(one("shl.b32 %r0, %r1, %r2;", 1, 31), 0x80000000U);
  EXPECT_EQ(one("shl.b32 %r0, %r1, %r2;", 1, 32), 0U);  // clamped, not taken modulo 32
  EXPECT_EQ(one("shr.s32 %r0, %r1, %r2;", minus(8), 1), static_cast<u32>(-4));
  EXPECT_EQ(one("shr.s32 %r0, %r1, %r2;", minus(8), 40), 0xffffffffU);
  EXPECT_EQ(one("shr.u64 %d0, %d1, %r2;", minus(8), 60), 15U);
  EXPECT_EQ(one("shf.l.wrap.b32 %r0, %r1, %r2, %r3;", 0x80000000, 1, 33), 3U);
  EXPECT_EQ(one("shf.r.clamp.b32 %r0, %r1, %r2, %r3;", 5, 9, 40), 9U);
  EXPECT_EQ(one("shf.r.wrap.b32 %r0, %r1, %r2, %r3;", 0x12345678, 0x9a, 8), 0x9a123456U);
}

TEST(Bits, Fields) {
  EXPECT_EQ(one("bfe.u32 %r0, %r1, %r2, %r3;", 0xabcd, 4, 8), 0xbcU);
  EXPECT_EQ(one("bfe.s32 %r0, %r1, %r2, %r3;", 0xabcd, 4, 8), 0xffffffbcU);
  EXPECT_EQ(one("bfe.s32 %r0, %r1, %r2, %r3;", 0x80000000, 28, 8), 0xfffffff8U);  // beyond the top: the sign
  EXPECT_EQ(one("bfi.b32 %r0, %r1, %r2, 8, 4;", 0xf, 0), 0xf00U);
  EXPECT_EQ(one("bfi.b32 %r0, %r1, %r2, 16, 16;", 0x1234, 0xffffabcd), 0x1234abcdU);
  EXPECT_EQ(one("popc.b64 %r0, %d1;", 0xff00ff), 16U);
  EXPECT_EQ(one("clz.b32 %r0, %r1;", 1), 31U);
  EXPECT_EQ(one("clz.b32 %r0, %r1;", 0), 32U);
  EXPECT_EQ(one("bfind.u32 %r0, %r1;", 0x100), 8U);
  EXPECT_EQ(one("bfind.s32 %r0, %r1;", minus(1)), 0xffffffffU);
  EXPECT_EQ(one("bfind.shiftamt.u32 %r0, %r1;", 0x100), 23U);
  EXPECT_EQ(one("brev.b32 %r0, %r1;", 1), 0x80000000U);
  EXPECT_EQ(one("prmt.b32 %r0, %r1, %r2, %r3;", 0x33221100, 0x77665544, 0x7250), 0x77225500U);
  EXPECT_EQ(one("prmt.b32 %r0, %r1, %r2, %r3;", 0x80, 0, 0x1118), 0xffU);  // the sign of byte 0 below three zeros
}

TEST(Move, PacksAndSelects) {
  EXPECT_EQ(one("mov.b32 %r0, {%h1, %h2};", 0x1234, 0x5678), 0x56781234U);
  EXPECT_EQ(one("mov.b64 %d0, {%r1, %r2};", 1, 2), 0x200000001U);
  EXPECT_EQ(one("mov.b64 {_, %r0}, %d1;", 0) + evaluate_one("mov.b64 {_, %r0}, %d1;", "%r0", 0x700000003), 7U);
  EXPECT_EQ(evaluate_one("mov.b64 {%h10, %h11, %h12, %h13}, %d1;", "%h12", 0x0004000300020001), 3U);
  EXPECT_EQ(one("selp.b32 %r0, %r1, %r2, %p3;", 5, 6, 1), 5U);
  EXPECT_EQ(one("selp.f32 %f0, %f1, %f2, %p3;", bits(1.5F), bits(2.5F), 0), bits(2.5F));
  EXPECT_EQ(one("slct.u32.s32 %r0, %r1, %r2, %r3;", 5, 6, minus(1)), 6U);
  EXPECT_EQ(one("mov.u32 %r0, WARP_SZ;", 0), 32U);
  EXPECT_EQ(one("mov.f32 %f0, 0f3FC00000;", 0), bits(1.5F));
  EXPECT_EQ(one("mov.f64 %g0, 0d3FF8000000000000;", 0), bits(1.5));
}

TEST(Floating, Arithmetic) {
  EXPECT_EQ(one("add.f32 %f0, %f1, %f2;", bits(1.5F), bits(2.25F)), bits(3.75F));
  EXPECT_EQ(one("sub.f32 %f0, %f1, %f2;", bits(1.5F), bits(2.25F)), bits(-0.75F));
  EXPECT_EQ(one("mul.f32 %f0, %f1, %f2;", bits(1.5F), bits(-2.0F)), bits(-3.0F));
  EXPECT_EQ(one("div.rn.f32 %f0, %f1, %f2;", bits(1.0F), bits(3.0F)), bits(1.0F / 3.0F));
  EXPECT_EQ(one("div.rn.f32 %f0, %f1, %f2;", bits(1.0F), bits(0.0F)), bits(infinity));
  EXPECT_EQ(one("fma.rn.f64 %g0, %g1, %g2, %g3;", bits(3.0), bits(5.0), bits(-14.0)), bits(1.0));
  const float a = 1 + 0x1p-23F;  // a * a - 1 keeps the last bit only if rounded once
  EXPECT_EQ(one("fma.rn.f32 %f0, %f1, %f2, %f3;", bits(a), bits(a), bits(-1.0F)), bits(0x1p-22F + 0x1p-46F));
  EXPECT_EQ(one("neg.f32 %f0, %f1;", bits(0.0F)), bits(-0.0F));
  EXPECT_EQ(one("abs.f32 %f0, %f1;", bits(-2.0F)), bits(2.0F));
  EXPECT_EQ(one("add.sat.f32 %f0, %f1, %f2;", bits(0.75F), bits(0.75F)), bits(1.0F));
  EXPECT_EQ(one("copysign.f32 %f0, %f1, %f2;", bits(-1.0F), bits(3.0F)), bits(-3.0F));
}

TEST(Floating, MinAndMaxDropNaN) {
  EXPECT_EQ(one("max.f32 %f0, %f1, %f2;", bits(nan), bits(1.0F)), bits(1.0F));
  EXPECT_EQ(one("min.f32 %f0, %f1, %f2;", bits(1.0F), bits(nan)), bits(1.0F));
  EXPECT_TRUE(std::isnan(as_float(one("max.NaN.f32 %f0, %f1, %f2;", bits(nan), bits(1.0F)))));
  EXPECT_EQ(one("max.f32 %f0, %f1, %f2;", bits(-0.0F), bits(0.0F)), bits(0.0F));
  EXPECT_EQ(one("min.f32 %f0, %f1, %f2;", bits(0.0F), bits(-0.0F)), bits(-0.0F));
}

TEST(Floating, DirectedRounding) {
  const u64 x = bits(1.0F), tiny = bits(0x1p-40F), above = bits(1 + 0x1p-23F), below = bits(1 - 0x1p-24F), minus_tiny = bits(-0x1p-40F);
  EXPECT_EQ(one("add.rn.f32 %f0, %f1, %f2;", x, tiny), x);
  EXPECT_EQ(one("add.rp.f32 %f0, %f1, %f2;", x, tiny), above);
  EXPECT_EQ(one("add.rm.f32 %f0, %f1, %f2;", x, tiny), x);
  EXPECT_EQ(one("add.rz.f32 %f0, %f1, %f2;", x, minus_tiny), below);
  EXPECT_EQ(one("add.rm.f32 %f0, %f1, %f2;", x, minus_tiny), below);
  EXPECT_EQ(one("add.rp.f32 %f0, %f1, %f2;", x, minus_tiny), x);
  EXPECT_EQ(one("add.rp.f32 %f0, %f1, %f2;", x, bits(0x1p-100F)), above);  // far below the last bit of a double
  EXPECT_EQ(one("mul.rp.f32 %f0, %f1, %f2;", above, above), bits(1 + 0x1p-22F + 0x1p-23F));
  EXPECT_EQ(one("mul.rz.f32 %f0, %f1, %f2;", above, above), bits(1 + 0x1p-22F));
  EXPECT_EQ(one("mul.rm.f32 %f0, %f1, %f2;", above, above | 0x80000000), bits(-(1 + 0x1p-22F + 0x1p-23F)));
  EXPECT_EQ(one("fma.rm.f32 %f0, %f1, %f2, %f3;", bits(0.4F), bits(252.0F), bits(12582913.0F)),
            bits(std::floor(0.4F * 252.0F) + 12582913.0F));  // how expf takes its argument apart
}

TEST(Floating, FlushToZero) {
  const u64 subnormal = 1, smallest = bits(std::numeric_limits<float>::min());
  EXPECT_EQ(one("add.f32 %f0, %f1, %f2;", subnormal, 0), 1U);
  EXPECT_EQ(one("add.ftz.f32 %f0, %f1, %f2;", subnormal, 0), 0U);
  EXPECT_EQ(one("mul.ftz.f32 %f0, %f1, %f2;", smallest, bits(0.5F)), 0U);
  EXPECT_EQ(one("setp.eq.ftz.f32 %p0, %f1, %f2;", subnormal, 0), 1U);
  EXPECT_EQ(one("setp.eq.f32 %p0, %f1, %f2;", subnormal, 0), 0U);
}

TEST(Floating, Compares) {
  EXPECT_EQ(one("setp.lt.f32 %p0, %f1, %f2;", bits(1.0F), bits(2.0F)), 1U);
  for (const char* name : {"lt", "le", "gt", "ge", "eq", "ne", "num"})
    EXPECT_EQ(one(std::string("setp.") + name + ".f32 %p0, %f1, %f2;", bits(nan), bits(1.0F)), 0U) << name;
  for (const char* name : {"ltu", "leu", "gtu", "geu", "equ", "neu", "nan"})
    EXPECT_EQ(one(std::string("setp.") + name + ".f32 %p0, %f1, %f2;", bits(nan), bits(1.0F)), 1U) << name;
  EXPECT_EQ(one("setp.lt.s32 %p0, %r1, %r2;", minus(1), 0), 1U);
  EXPECT_EQ(one("setp.lt.u32 %p0, %r1, %r2;", minus(1), 0), 0U);
  EXPECT_EQ(one("setp.hi.u32 %p0, %r1, %r2;", minus(1), 0), 1U);
  EXPECT_EQ(one("setp.ne.and.s32 %p0, %r1, %r2, %p3;", 1, 2, 0), 0U);
  EXPECT_EQ(one("setp.ne.and.s32 %p0, %r1, %r2, !%p3;", 1, 2, 0), 1U);
  EXPECT_EQ(one("setp.ne.xor.s32 %p0, %r1, %r2, %p3;", 1, 2, 1), 0U);
  EXPECT_EQ(evaluate_one("setp.eq.s32 %p4|%p5, %r1, %r2;", "%p5", 1, 2), 1U);
  EXPECT_EQ(one("set.lt.u32.f32 %r0, %f1, %f2;", bits(1.0F), bits(2.0F)), 0xffffffffU);
  EXPECT_EQ(one("testp.infinite.f32 %p0, %f1;", bits(-infinity)), 1U);
  EXPECT_EQ(one("testp.subnormal.f32 %p0, %f1;", bits(1.0F)), 0U);
}

TEST(Floating, SpecialFunctions) {
  EXPECT_EQ(one("ex2.approx.ftz.f32 %f0, %f1;", bits(3.0F)), bits(8.0F));
  EXPECT_EQ(one("ex2.approx.f32 %f0, %f1;", bits(-infinity)), 0U);
  EXPECT_EQ(one("lg2.approx.f32 %f0, %f1;", bits(8.0F)), bits(3.0F));
  EXPECT_EQ(one("lg2.approx.f32 %f0, %f1;", 0), bits(-infinity));
  EXPECT_EQ(one("rcp.approx.ftz.f32 %f0, %f1;", bits(4.0F)), bits(0.25F));
  EXPECT_EQ(one("rsqrt.approx.f32 %f0, %f1;", bits(4.0F)), bits(0.5F));
  EXPECT_EQ(one("sqrt.rn.f64 %g0, %g1;", bits(2.0)), bits(std::sqrt(2.0)));
  EXPECT_NEAR(as_float(one("sin.approx.f32 %f0, %f1;", bits(1.0F))), std::sin(1.0F), 1e-6);
  EXPECT_NEAR(as_float(one("cos.approx.f32 %f0, %f1;", bits(1.0F))), std::cos(1.0F), 1e-6);
  EXPECT_NEAR(as_float(one("tanh.approx.f32 %f0, %f1;", bits(1.0F))), std::tanh(1.0F), 1e-6);
}

// bf16: 1 is 0x3f80, 2^-8 is half of its last bit; f16: 1 is 0x3c00.
TEST(Floating, Halves) {
  EXPECT_EQ(one("add.rn.bf16 %h0, %h1, %h2;", 0x3f80, 0x3b80), 0x3f80U);                // 1 + 2^-8: a tie, to even
  EXPECT_EQ(one("add.rn.bf16 %h0, %h1, %h2;", 0x3f81, 0x3b80), 0x3f82U);                // the next tie goes up
  EXPECT_EQ(one("mul.rn.bf16x2 %r0, %r1, %r2;", 0x40003f80, 0x40404000), 0x40c04000U);  // 1 * 2, 2 * 3
  EXPECT_EQ(one("fma.rn.f16 %h0, %h1, %h2, %h3;", 0x4000, 0x4200, 0x3c00), 0x4700U);    // 2 * 3 + 1
  EXPECT_EQ(one("fma.rn.f16x2 %r0, %r1, %r2, %r3;", 0x40004000, 0x42004200, 0x3c000000), 0x47004600U);
  EXPECT_EQ(one("max.bf16x2 %r0, %r1, %r2;", 0x3f80bf80, 0x40000000), 0x40000000U);
  EXPECT_EQ(one("neg.bf16x2 %r0, %r1;", 0x3f804000), 0xbf80c000U);
  // 1.5 * (1 + 2^-10) + 2^-24 lies just above a tie of f16: rounding by way of float would lose that.
  EXPECT_EQ(one("fma.rn.f16 %h0, %h1, %h2, %h3;", 0x3c01, 0x3c01, 0x0001), 0x3c02U);
  EXPECT_EQ(one("setp.lt.bf16 %p0, %h1, %h2;", 0xbf80, 0x3f80), 1U);
}

}  // namespace
}  // namespace ptx::test
