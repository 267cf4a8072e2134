// tile_test.cpp - the SIMD primitives against obvious loops in double, at every tail length.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "../../lib/kernels/cpu/tile.hpp"
#include "seqccl/kernels.hpp"

namespace seqccl::test {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
const float nan_value = std::numeric_limits<float>::quiet_NaN();

/// Exactly as long as asked for, so that AddressSanitizer sees every byte beyond the extents.
std::vector<float> random_floats(std::int64_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> result(static_cast<std::size_t>(count));
  for (float& x : result) x = normal(generator);
  return result;
}

void check_gemm(std::int64_t m, std::int64_t n, std::int64_t k, bool transposed, bool accumulate) {
  const std::int64_t b_row = n + 3, c_row = n + 1;
  const auto a = random_floats(m * k, 1), b = random_floats(std::max<std::int64_t>(k - 1, 0) * b_row + n, 2);
  auto c = random_floats((m - 1) * c_row + n, 3);
  const auto before = c;
  const std::int64_t a_row = transposed ? 1 : k, a_col = transposed ? m : 1;
  cpu::tile().gemm(m, n, k, a.data(), a_row, a_col, b.data(), b_row, c.data(), c_row, accumulate);
  for (std::int64_t i = 0; i < m; ++i) {
    for (std::int64_t j = 0; j < n; ++j) {
      double sum = accumulate ? before[i * c_row + j] : 0, size = std::abs(sum);
      for (std::int64_t x = 0; x < k; ++x) {
        sum += static_cast<double>(a[i * a_row + x * a_col]) * b[x * b_row + j];
        size += std::abs(static_cast<double>(a[i * a_row + x * a_col]) * b[x * b_row + j]);
      }
      ASSERT_NEAR(c[i * c_row + j], sum, 1e-6 * size) << m << " " << n << " " << k << " at " << i << " " << j;
    }
    if (i + 1 < m) {
      ASSERT_EQ(c[i * c_row + n], before[i * c_row + n]) << "beside the matrix";
    }
  }
}

TEST(Tile, GemmOfEveryTail) {
  for (const std::int64_t m : {1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 64})
    for (const std::int64_t n : {1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65, 80})
      for (const std::int64_t k : {0, 1, 2, 33, 300}) check_gemm(m, n, k, (m + n) % 2 == 0, k % 2 == 0);
}

TEST(Tile, GemmDoesNotReadOldContentsUnlessItAccumulates) {
  std::vector<float> a(12 * 5, 1), b(5 * 20, 1), c(12 * 20, nan_value);
  cpu::tile().gemm(12, 20, 5, a.data(), 5, 1, b.data(), 20, c.data(), 20, false);
  for (const float x : c) EXPECT_EQ(x, 5);
}

TEST(Tile, ExpIsAccurateEverywhere) {
  std::vector<float> x, y;
  for (float value = -87.33F; value < 88.72F; value += 0.0037F) x.push_back(value);
  y.resize(x.size());
  cpu::tile().exp(x.data(), y.data(), static_cast<std::int64_t>(x.size()));
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double want = std::exp(static_cast<double>(x[i]));
    ASSERT_NEAR(y[i] / want, 1, 3e-7) << x[i];
  }
}

TEST(Tile, ExpOfStrangeNumbers) {
  const float poison = std::bit_cast<float>(0xffffffffU);  // a NaN with all bits set
  const std::vector<float> x = {-infinity, infinity, nan_value, poison, -88, -1e30F, 1e30F, 88.73F, 0, -0.0F};
  std::vector<float> y(x.size());
  cpu::tile().exp(x.data(), y.data(), static_cast<std::int64_t>(x.size()));
  EXPECT_EQ(y[0], 0);
  EXPECT_EQ(y[1], infinity);
  EXPECT_TRUE(std::isnan(y[2]) && std::isnan(y[3]));
  EXPECT_EQ(y[4], 0);  // subnormal results are flushed
  EXPECT_EQ(y[5], 0);
  EXPECT_EQ(y[6], infinity);
  EXPECT_EQ(y[7], infinity);
  EXPECT_EQ(y[8], 1);
  EXPECT_EQ(y[9], 1);
}

TEST(Tile, RowOperationsOfEveryTail) {
  const cpu::TileOps& ops = cpu::tile();
  for (std::int64_t n = 0; n < 70; ++n) {
    const auto x = random_floats(n, 1), y = random_floats(n, 2);
    double dot = 0, sum = 0;
    float high = -infinity;
    for (std::int64_t i = 0; i < n; ++i) {
      dot += static_cast<double>(x[i]) * y[i];
      sum += std::exp(static_cast<double>(x[i]) - 2);
      high = std::max(high, x[i]);
    }
    EXPECT_EQ(ops.max(x.data(), n), high);
    EXPECT_NEAR(ops.dot(x.data(), y.data(), n), dot, 1e-5);
    auto e = x, z = y, s = x;
    EXPECT_NEAR(ops.exp_sum(e.data(), n, 2), sum, 1e-6 * sum);
    ops.axpy(0.5F, x.data(), z.data(), n);
    ops.scale(3, s.data(), n);
    for (std::int64_t i = 0; i < n; ++i) {
      EXPECT_NEAR(e[i], std::exp(x[i] - 2), 1e-6 * e[i]);
      EXPECT_NEAR(z[i], 0.5F * x[i] + y[i], 1e-6);
      EXPECT_EQ(s[i], 3 * x[i]);
      auto strange = x;
      strange[i] = nan_value;
      EXPECT_TRUE(std::isnan(ops.max(strange.data(), n))) << i << " of " << n;
      EXPECT_TRUE(std::isnan(ops.exp_sum(strange.data(), n, 0)));
    }
  }
}

TEST(Tile, InstructionSetHasAName) { EXPECT_FALSE(cpu::instruction_set().empty()); }

}  // namespace
}  // namespace seqccl::test
