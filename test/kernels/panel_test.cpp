// panel_test.cpp - packing, products with limits and the softmax of a tile against obvious loops, at odd sizes.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "../../lib/kernels/cpu/panel.hpp"
#include "support/tensor.hpp"

namespace seqccl::test {
namespace {

using cpu::AlignedFloats;
using cpu::Interval;
using cpu::panel_ops;
using cpu::PanelOps;
using cpu::round_up;

constexpr float infinity = std::numeric_limits<float>::infinity();

AlignedFloats floats(std::int64_t size, float fill) {
  AlignedFloats result;
  result.grow(std::max<std::int64_t>(1, size));
  std::fill_n(result.data(), size, fill);
  return result;
}

TEST(Panel, PacksRowsPanelsAndTransposes) {
  const PanelOps& ops = panel_ops();
  for (const DType type : {f32, f16, bf16}) {
    for (const std::int64_t count : {1, 3, 4, 5, 13}) {
      for (const std::int64_t size : {1, 3, 4, 7, 8, 17, 33}) {
        const HostTensor from = random_tensor(type, {1, count, 1, size}, static_cast<unsigned>(count * size));  // ends with its last number
        const cpu::PackSource source{from.bytes.data(), type, size, count, size};
        const std::int64_t row = round_up(size, ops.lanes), width = round_up(count, ops.panel);
        AlignedFloats rows = floats(count * row, -1), panels = floats(count * round_up(size, ops.panel), -1),
                      transposed = floats(width * size, -1);
        EXPECT_TRUE(ops.pack_rows(source, 2, rows.data(), row));
        EXPECT_TRUE(ops.pack_panels(source, 2, panels.data(), count * ops.panel));
        EXPECT_TRUE(ops.pack_transposed(source, transposed.data(), ops.panel, ops.panel * size));
        for (std::int64_t i = 0; i < width; ++i) {
          for (std::int64_t x = 0; x < row; ++x) {
            const double want = i < count && x < size ? from.get(i * size + x) : 0;
            if (i < count) {
              EXPECT_EQ(rows.data()[i * row + x], 2 * want);
              EXPECT_EQ(panels.data()[x / ops.panel * count * ops.panel + i * ops.panel + x % ops.panel], 2 * want);
            }
            if (x < size) {
              EXPECT_EQ(transposed.data()[i / ops.panel * ops.panel * size + x * ops.panel + i % ops.panel], want);
            }
          }
        }
      }
    }
  }
}

TEST(Panel, PackingFindsEveryInfinityAndNan) {
  const PanelOps& ops = panel_ops();
  for (const double strange : {static_cast<double>(infinity), std::nan("")}) {
    for (std::int64_t at = 0; at < 5 * 11; ++at) {
      HostTensor from = random_tensor(f32, {1, 5, 1, 11}, 1);
      from.set(at, strange);
      const cpu::PackSource source{from.bytes.data(), f32, 11, 5, 11};
      AlignedFloats to = floats(64 * 64, 0);
      EXPECT_FALSE(ops.pack_rows(source, 1, to.data(), 16));
      EXPECT_FALSE(ops.pack_panels(source, 1, to.data(), 5 * ops.panel));
      EXPECT_FALSE(ops.pack_transposed(source, to.data(), ops.panel, 11 * ops.panel));
    }
  }
}

/// Both layouts of B, limits in both directions, every number of rows of the register block.
TEST(Panel, MultipliesWithinItsLimits) {
  const PanelOps& ops = panel_ops();
  for (const bool packed : {true, false}) {
    for (const std::int64_t m : {1, 2, 5, 6, 7, 15, 24}) {
      for (const std::int64_t n : {1, 8, 17, 40}) {
        for (const std::int64_t k : {1, 5, 33}) {
          const std::int64_t width = round_up(n, ops.lanes), row = round_up(n, 16), num_blocks = (m + 5) / 6;
          const HostTensor a = random_tensor(f32, {1, k, 1, m}, 3), b = random_tensor(f32, {1, k, 1, n}, 4);  // a as its transpose
          AlignedFloats a_rows = floats(k * m, 0), b_rows = floats(k * round_up(n, ops.panel), 0), c = floats(m * row, 1);
          for (std::int64_t i = 0; i < k * m; ++i) a_rows.data()[i] = static_cast<float>(a.get(i));
          const cpu::PackSource source{b.bytes.data(), f32, n, k, n};
          if (packed)
            ops.pack_panels(source, 1, b_rows.data(), k * ops.panel);
          else
            ops.pack_rows(source, 1, b_rows.data(), row);
          std::vector<Interval> depths;
          for (std::int64_t block = 0; block < num_blocks; ++block) depths.push_back({block % 2, std::max<std::int64_t>(1, k - block)});
          ops.multiply(m, width, k, a_rows.data(), 1, m, b_rows.data(), packed ? ops.panel : row, packed ? k * ops.panel : ops.panel,
                       c.data(), row, true, nullptr, depths.data());
          for (std::int64_t i = 0; i < m; ++i) {
            for (std::int64_t j = 0; j < n; ++j) {
              double want = 1;
              const Interval depth = depths[static_cast<std::size_t>(i / 6)];
              for (std::int64_t x = depth.first; x < depth.end; ++x) want += a.get(x * m + i) * b.get(x * n + j);
              ASSERT_NEAR(c.data()[i * row + j], want, 1e-5) << m << " " << n << " " << k << " at " << i << " " << j;
            }
          }
          // Columns that a block has no need of keep what was there, where a whole panel is outside.
          const std::vector<Interval> columns(static_cast<std::size_t>(num_blocks), Interval{0, 1});
          std::fill_n(c.data(), m * row, 7.0F);
          ops.multiply(m, width, k, a_rows.data(), 1, m, b_rows.data(), packed ? ops.panel : row, packed ? k * ops.panel : ops.panel,
                       c.data(), row, false, columns.data(), nullptr);
          for (std::int64_t i = 0; i < m; ++i) {
            EXPECT_NE(c.data()[i * row], 7);
            for (std::int64_t j = ops.panel; j < width; ++j) EXPECT_EQ(c.data()[i * row + j], 7);
          }
        }
      }
    }
  }
}

TEST(Panel, SoftmaxKeepsTheRunningRow) {
  const PanelOps& ops = panel_ops();
  constexpr std::int64_t rows = 8, width = 64;
  AlignedFloats scores = floats(rows * width, 0), high = floats(rows, -infinity), total = floats(rows * ops.lanes, 0),
                factor = floats(rows, 0);
  const Interval columns[] = {{0, width}, {0, width}};
  double right_high[rows], right_total[rows] = {};
  std::fill_n(right_high, rows, -infinity);
  for (unsigned tile = 0; tile < 3; ++tile) {
    const HostTensor numbers = random_tensor(f32, {1, rows, 1, width}, 10 + tile, 20);
    for (std::int64_t r = 0; r < rows; ++r) {
      double now = right_high[r];
      for (std::int64_t j = 0; j < width; ++j) now = std::max(now, numbers.get(r * width + j));
      right_total[r] *= std::exp(right_high[r] - now);
      right_high[r] = now;
      for (std::int64_t j = 0; j < width; ++j) {
        scores.data()[r * width + j] = static_cast<float>(numbers.get(r * width + j));
        right_total[r] += std::exp(numbers.get(r * width + j) - now);
      }
    }
    ops.softmax(rows, scores.data(), width, columns, high.data(), total.data(), factor.data());
    for (std::int64_t r = 0; r < rows; ++r) {
      EXPECT_EQ(high.data()[r], right_high[r]);
      EXPECT_NEAR(ops.sum_lanes(total.data() + r * ops.lanes), right_total[r], 1e-6 * right_total[r]);
      for (std::int64_t j = 0; j < width; ++j) {
        const double want = std::exp(numbers.get(r * width + j) - right_high[r]);
        const double below = right_high[r] - numbers.get(r * width + j);  // the difference is rounded, then its exponential
        ASSERT_NEAR(scores.data()[r * width + j], want, (3e-7 + 1e-7 * below) * want + 1.2e-38);
      }
    }
  }
}

/// The error of e^x grows with -x, as that of the scores does (notes.md); 0 where it would be subnormal; through the softmax, whose high is
/// 0 here.
TEST(Panel, ExpOfEverythingBelowZero) {
  const PanelOps& ops = panel_ops();
  constexpr std::int64_t width = 64;
  AlignedFloats scores = floats(width, 0), high = floats(1, 0), total = floats(ops.lanes, 0), factor = floats(1, 0);
  const Interval columns[] = {{0, width}};
  for (float first = 0; first > -90; first -= 0.37F) {
    for (std::int64_t j = 0; j < width; ++j) scores.data()[j] = first - 0.0057F * static_cast<float>(j);
    const std::vector<float> x(scores.data(), scores.data() + width);
    ops.softmax(1, scores.data(), width, columns, high.data(), total.data(), factor.data());
    for (std::int64_t j = 0; j < width; ++j) {
      const double want = std::exp(static_cast<double>(x[static_cast<std::size_t>(j)]));
      if (want > 1.2e-38)
        ASSERT_NEAR(scores.data()[j] / want, 1, 2.5e-7 - 2.5e-8 * x[static_cast<std::size_t>(j)]) << j;
      else
        ASSERT_LE(scores.data()[j], 1.2e-38F);
    }
  }
  for (const float strange : {-infinity, -1e30F, -88.0F}) {
    std::fill_n(scores.data(), width, strange);
    ops.softmax(1, scores.data(), width, columns, high.data(), total.data(), factor.data());
    EXPECT_EQ(scores.data()[3], 0) << strange;
  }
  std::fill_n(scores.data(), width, std::nanf(""));
  ops.softmax(1, scores.data(), width, columns, high.data(), total.data(), factor.data());
  EXPECT_TRUE(std::isnan(ops.sum_lanes(total.data())));
}

TEST(Panel, SoftmaxBackwardOfRowsThatSawNothing) {
  const PanelOps& ops = panel_ops();
  AlignedFloats p = floats(64, 0.5F), ds = floats(64, 2);
  const Interval columns[] = {{0, 32}};
  const float lse[] = {1, -infinity}, delta[] = {0.25F, 0.25F};
  ops.softmax_backward(2, p.data(), ds.data(), 32, columns, lse, delta);
  for (int j = 0; j < 32; ++j) {
    EXPECT_NEAR(p.data()[j], std::exp(-0.5), 2e-7);
    EXPECT_NEAR(ds.data()[j], std::exp(-0.5) * 1.75, 4e-7);
    EXPECT_EQ(p.data()[32 + j], 0);
    EXPECT_EQ(ds.data()[32 + j], 0);
  }
}

}  // namespace
}  // namespace seqccl::test
