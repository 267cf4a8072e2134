// merge_test.cpp - the algebra of partial results.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/merge.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace seqccl {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

struct Partial {
  float out, lse;
};

Partial merge(const Partial& a, const Partial& b) {
  const MergeWeights weights = merge_weights(a.lse, b.lse);
  return {weights.a * a.out + weights.b * b.out, weights.lse};
}

std::vector<Partial> random_partials(int count, float deviation) {
  std::mt19937 generator(7);
  std::normal_distribution<float> normal;
  std::vector<Partial> result;
  for (int i = 0; i < count; ++i) result.push_back({normal(generator), deviation * normal(generator)});
  return result;
}

TEST(Merge, EmptyIsTheExactIdentityOnBothSides) {
  for (const float lse : {-1e38f, -300.f, -0.f, 0.f, 1.5f, 3e38f, infinity}) {
    const Partial partial{0.3f, lse};
    for (const Partial& merged : {merge(partial, {0, -infinity}), merge({0, -infinity}, partial)}) {
      EXPECT_EQ(merged.out, partial.out);
      EXPECT_EQ(merged.lse, partial.lse);
    }
  }
}

TEST(Merge, TwoEmptyPartialsAreEmpty) {
  const Partial merged = merge({0, -infinity}, {0, -infinity});
  EXPECT_EQ(merged.out, 0);
  EXPECT_EQ(merged.lse, -infinity);
}

TEST(Merge, CommutesExactly) {
  const std::vector<Partial> partials = random_partials(200, 20);
  for (const Partial& a : partials)
    for (const Partial& b : partials) {
      const MergeWeights ab = merge_weights(a.lse, b.lse), ba = merge_weights(b.lse, a.lse);
      ASSERT_EQ(ab.a, ba.b);
      ASSERT_EQ(ab.b, ba.a);
      ASSERT_EQ(ab.lse, ba.lse);
    }
}

TEST(Merge, IsSoftmaxOverTheUnion) {
  for (const float deviation : {1.f, 10.f, 100.f}) {
    const std::vector<Partial> partials = random_partials(40, deviation);
    double high = -infinity, sum = 0, out = 0;
    for (const Partial& partial : partials) high = std::max<double>(high, partial.lse);
    for (const Partial& partial : partials) {
      sum += std::exp(partial.lse - high);
      out += std::exp(partial.lse - high) * partial.out;
    }
    Partial forward{0, -infinity}, backward{0, -infinity};
    for (std::size_t i = 0; i < partials.size(); ++i) {
      forward = merge(forward, partials[i]);
      backward = merge(partials[partials.size() - 1 - i], backward);
    }
    const double lse = high + std::log(sum);
    for (const Partial& merged : {forward, backward}) {
      EXPECT_NEAR(merged.out, out / sum, 1e-5);
      EXPECT_NEAR(merged.lse, lse, 1e-6 * std::max(1.0, std::abs(lse)));
    }
  }
}

TEST(Merge, AssociatesUpToRounding) {
  const std::vector<Partial> partials = random_partials(300, 3);
  for (std::size_t i = 0; i + 2 < partials.size(); ++i) {
    const Partial left = merge(merge(partials[i], partials[i + 1]), partials[i + 2]);
    const Partial right = merge(partials[i], merge(partials[i + 1], partials[i + 2]));
    ASSERT_NEAR(left.out, right.out, 4e-6);
    ASSERT_NEAR(left.lse, right.lse, 4e-6);
  }
}

TEST(Merge, IsNotIdempotentAndFarValuesDoNotOverflow) {
  EXPECT_NEAR(merge_weights(2, 2).lse, 2 + std::log(2.0), 1e-6);
  const MergeWeights apart = merge_weights(1e30f, -1e30f);
  EXPECT_EQ(apart.a, 1);
  EXPECT_EQ(apart.b, 0);
  EXPECT_EQ(apart.lse, 1e30f);
}

TEST(Merge, NaNStaysNaN) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const float other : {0.f, -infinity, infinity, nan}) {
    EXPECT_TRUE(std::isnan(merge_weights(nan, other).lse)) << other;
    EXPECT_TRUE(std::isnan(merge_weights(other, nan).lse)) << other;
  }
}

}  // namespace
}  // namespace seqccl
