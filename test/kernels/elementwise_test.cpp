// elementwise_test.cpp - merge, row sums, sink gradient, and copies between all types and layouts.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "seqccl/error.hpp"
#include "seqccl/kernels.hpp"
#include "support/tensor.hpp"

namespace seqccl::test {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

TEST(Copy, ConvertsBetweenAllTypesAsTheScalarConversionsDo) {
  for (const DType from : {f32, f16, bf16}) {
    for (const DType to : {f32, f16, bf16}) {
      HostTensor source = random_tensor(from, {2, 5, 3, 7}, 1, 100), target(to, {2, 5, 3, 7}), want(to, {2, 5, 3, 7});
      source.set(0, infinity), source.set(1, -infinity), source.set(2, 1e-6), source.set(3, -0.0), source.set(4, 7e4), source.set(5, 1e-40);
      for (std::int64_t i = 0; i < source.size(); ++i) want.set(i, source.get(i));
      cpu::copy(source.view(), target.view(), 1);
      EXPECT_EQ(target.bytes, want.bytes) << name(from) << " to " << name(to);
    }
  }
}

TEST(Copy, EveryHalfPrecisionNumberWidensExactly) {
  for (const DType type : {f16, bf16}) {
    HostTensor all(type, {1, 1, 256, 256}), wide(f32, {1, 1, 256, 256});
    for (int bits = 0; bits < 65536; ++bits) reinterpret_cast<std::uint16_t*>(all.bytes.data())[bits] = static_cast<std::uint16_t>(bits);
    cpu::copy(all.view(), wide.view(), 1);
    for (int bits = 0; bits < 65536; ++bits) {
      const double want = all.get(bits), got = wide.get(bits);
      if (std::isnan(want))
        ASSERT_TRUE(std::isnan(got)) << bits;
      else
        ASSERT_EQ(got, want) << bits;
    }
  }
}

TEST(Copy, EqualTypesMoveBitsEvenOfNan) {
  const HostTensor poison(f16, {2, 3, 4, 5});
  HostTensor target(f16, {2, 3, 4, 5});
  target.fill(1);
  cpu::copy(poison.view(), target.view(), 1);
  EXPECT_EQ(target.bytes, poison.bytes);
}

/// The same (B, T, H, D) extents over memory in the given order of axes, outermost first.
TensorView ordered(HostTensor& memory, std::array<std::int64_t, 4> shape, std::array<int, 4> order) {
  TensorView result = memory.view();
  std::int64_t stride = 1;
  for (int i = 3; i >= 0; --i) {
    result.geometry.shape[order[i]] = shape[order[i]];
    result.geometry.strides[order[i]] = stride;
    stride *= shape[order[i]];
  }
  return result;
}
std::int64_t offset(const TensorView& view, std::int64_t b, std::int64_t t, std::int64_t h, std::int64_t d) {
  return b * view.stride(0) + t * view.stride(1) + h * view.stride(2) + d * view.stride(3);
}

TEST(Copy, AnyOrderOfAxesAndAnyExtentOne) {
  const std::array<std::array<int, 4>, 6> orders = {{{0, 1, 2, 3}, {1, 0, 2, 3}, {0, 2, 1, 3}, {2, 0, 1, 3}, {0, 2, 3, 1}, {3, 2, 1, 0}}};
  for (const auto& shape : std::array<std::array<std::int64_t, 4>, 6>{
           {{2, 5, 3, 4}, {1, 5, 3, 1}, {2, 1, 1, 4}, {3, 300, 7, 1}, {1, 1, 1, 1}, {2, 700, 2, 64}}}) {
    for (const auto& from_order : orders) {
      for (const auto& to_order : orders) {
        HostTensor from(f32, {shape[0], shape[1], shape[2], shape[3]}), to(bf16, {shape[0], shape[1], shape[2], shape[3]});
        for (std::int64_t i = 0; i < from.size(); ++i) from.set(i, static_cast<double>(i % 251));
        const TensorView source = ordered(from, shape, from_order), target = ordered(to, shape, to_order);
        cpu::copy(source, target, 2);
        for (std::int64_t i = 0; i<from.size(); i += from.size()> 10000 ? 97 : 1) {
          const std::int64_t b = i / shape[1] / shape[2] / shape[3], t = i / shape[2] / shape[3] % shape[1], h = i / shape[3] % shape[2],
                             d = i % shape[3];
          ASSERT_EQ(to.get(offset(target, b, t, h, d)), from.get(offset(source, b, t, h, d)));
        }
      }
    }
  }
}

TEST(Copy, EmptyAndMismatched) {
  for (const auto& shape : {std::array<std::int64_t, 4>{0, 3, 2, 4}, {2, 0, 2, 4}, {2, 3, 0, 4}, {2, 3, 2, 0}}) {
    HostTensor from(f32, {shape[0], shape[1], shape[2], shape[3]}), to(f16, {shape[0], shape[1], shape[2], shape[3]});
    cpu::copy(from.view(), to.view(), 2);
    cpu::add(from.view(), from.view(), 2);
    cpu::zero(to.view(), 2);
  }
  HostTensor a(f32, {1, 2, 3, 4}), b(f32, {1, 2, 4, 3}), wide(DType::f64, {1, 2, 3, 4});
  EXPECT_THROW(cpu::copy(a.view(), b.view(), 1), Error);
  EXPECT_THROW(cpu::copy(wide.view(), a.view(), 1), Error);
  EXPECT_THROW(cpu::add(a.view(), wide.view(), 1), Error);
}

TEST(Copy, LongRunsAndShortRunsOnManyThreads) {
  for (const auto& shape : {std::array<std::int64_t, 4>{1, 1, 1, 1000003}, {3, 1, 2, 200001}, {2, 70001, 3, 2}}) {
    HostTensor from(f32, {shape[0], shape[1], shape[2], shape[3]}), to = from, sum = from;
    for (std::int64_t i = 0; i < from.size(); ++i) from.set(i, static_cast<double>(i));
    cpu::copy(from.view(), to.view(), 3);
    EXPECT_EQ(to.bytes, from.bytes);
    cpu::zero(sum.view(), 3);
    for (int i = 0; i < 2; ++i) cpu::add(from.view(), sum.view(), 3);
    for (std::int64_t i = 0; i < from.size(); ++i) ASSERT_EQ(sum.get(i), 2 * from.get(i));
  }
}

TEST(Zero, TouchesOnlyTheView) {
  HostTensor memory(f16, {2, 4, 3, 8});
  memory.fill(1);
  TensorView part = memory.view();
  part.geometry.shape = {2, 4, 1, 4};
  cpu::zero(part, 1);
  for (std::int64_t i = 0; i < memory.size(); ++i) EXPECT_EQ(memory.get(i), i / 8 % 3 == 0 && i % 8 < 4 ? 0 : 1) << i;
}

TEST(Merge, FollowsTheRuleInDouble) {
  for (const DType type : {f32, f16, bf16}) {
    HostTensor part_out = random_tensor(type, {2, 9, 3, 5}, 1), out = random_tensor(f32, {2, 9, 3, 5}, 2);
    HostTensor part_lse = random_tensor(f32, {2, 9, 3, 1}, 3, 10), lse = random_tensor(f32, {2, 9, 3, 1}, 4, 10);
    const HostTensor old_out = out, old_lse = lse;
    cpu::merge(part_out.view(), part_lse.view(), out.view(), lse.view(), 2);
    for (std::int64_t row = 0; row < lse.size(); ++row) {
      const double a = old_lse.get(row), b = part_lse.get(row), high = std::max(a, b);
      const double want = high + std::log(std::exp(a - high) + std::exp(b - high));
      EXPECT_NEAR(lse.get(row), want, 1e-6 * std::abs(want) + 1e-6);
      for (std::int64_t d = 0; d < 5; ++d)
        EXPECT_NEAR(out.get(row * 5 + d), std::exp(a - want) * old_out.get(row * 5 + d) + std::exp(b - want) * part_out.get(row * 5 + d),
                    3e-6);
    }
  }
}

TEST(Merge, EmptyPartialsAreTheIdentity) {
  HostTensor part_out(f32, {1, 4, 1, 2}), part_lse(f32, {1, 4, 1, 1}), out(f32, {1, 4, 1, 2}), lse(f32, {1, 4, 1, 1});
  part_out.fill(3), out.fill(7), part_lse.fill(0.5), lse.fill(0.25);
  part_lse.set(0, -infinity), lse.set(1, -infinity), part_lse.set(2, -infinity), lse.set(2, -infinity);
  out.set(2, std::nan("")), out.set(3, std::nan(""));  // nothing is there yet: what lies there is not read
  part_lse.set(3, std::nan(""));
  cpu::merge(part_out.view(), part_lse.view(), out.view(), lse.view(), 1);
  EXPECT_EQ(out.get(0), 7);
  EXPECT_EQ(lse.get(0), 0.25);
  EXPECT_EQ(out.get(2), 3);
  EXPECT_EQ(lse.get(1), 0.5);
  EXPECT_EQ(out.get(4), 7);
  EXPECT_EQ(lse.get(2), -infinity);
  EXPECT_TRUE(std::isnan(out.get(6)) && std::isnan(lse.get(3)));
}

TEST(RowDot, AllTypesAndSizes) {
  for (const DType a : {f32, f16, bf16}) {
    for (const std::int64_t size : {1, 7, 16, 17, 40, 128}) {
      HostTensor dout = random_tensor(a, {2, 5, 3, size}, 1), out = random_tensor(f32, {2, 5, 3, size}, 2), delta(f32, {2, 5, 3, 1});
      cpu::row_dot(dout.view(), out.view(), delta.view(), 1);
      for (std::int64_t row = 0; row < delta.size(); ++row) {
        double want = 0;
        for (std::int64_t d = 0; d < size; ++d) want += dout.get(row * size + d) * out.get(row * size + d);
        EXPECT_NEAR(delta.get(row), want, 1e-5);
      }
    }
  }
}

TEST(SinkGradient, SumsOverBatchAndTokens) {
  HostTensor sinks = random_tensor(f32, {1, 1, 3, 1}, 1), lse = random_tensor(f32, {2, 6, 3, 1}, 2),
             delta = random_tensor(f32, {2, 6, 3, 1}, 3);
  HostTensor dsinks(f32, {1, 1, 3, 1});
  lse.set(4, -infinity);
  cpu::sink_gradient(sinks.view(), lse.view(), delta.view(), dsinks.view());
  for (std::int64_t h = 0; h < 3; ++h) {
    double want = 0;
    for (std::int64_t row = h; row < lse.size(); row += 3) {
      if (lse.get(row) != -infinity) want -= std::exp(sinks.get(h) - lse.get(row)) * delta.get(row);
    }
    EXPECT_NEAR(dsinks.get(h), want, 1e-5);
  }
}

}  // namespace
}  // namespace seqccl::test
