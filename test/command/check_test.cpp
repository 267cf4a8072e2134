// check_test.cpp - the rule of right and wrong itself: small errors pass, large ones and NaN do not.
// SPDX-License-Identifier: Apache-2.0
#include "command/check.hpp"

#include <cmath>
#include <limits>

#include "command/support.hpp"

namespace seqccl::command::test {
namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

HostTensor numbers(DType dtype, const std::vector<double>& values) {
  HostTensor tensor(dtype, {static_cast<std::int64_t>(values.size())});
  for (std::size_t i = 0; i < values.size(); ++i) tensor.set(static_cast<std::int64_t>(i), values[i]);
  return tensor;
}
TensorCheck compared(const std::vector<double>& got, const std::vector<double>& want, DType dtype = f32) {
  return compare("t", numbers(f32, got), numbers(DType::f64, want), numbers(f32, want), {dtype, false});
}

TEST(Check, rounding_passes_and_more_does_not) {
  EXPECT_TRUE(compared({1, 2, 3}, {1, 2, 3}).passed());
  EXPECT_TRUE(compared({1 + 1e-6, 2, 3}, {1, 2, 3}).passed());
  const TensorCheck wrong = compared({1 + 1e-4, 2, 3}, {1, 2, 3});
  EXPECT_FALSE(wrong.passed());
  EXPECT_EQ(wrong.num_wrong, 1);
  EXPECT_EQ(wrong.num_checked, 3);
  EXPECT_NEAR(wrong.max_error, 1e-4, 1e-6);
  EXPECT_TRUE(compared({1 + 1e-4, 2, 3}, {1, 2, 3}, bf16).passed());
}

TEST(Check, the_plain_run_sets_the_bar) {
  const HostTensor want = numbers(DType::f64, {1, 2, 3}), got = numbers(f32, {1.00001, 2, 3});
  EXPECT_FALSE(compare("t", got, want, numbers(f32, {1, 2, 3}), {f32, false}).passed());
  // Where even plain loops lose more than the cap, twice their error is allowed, and no more.
  EXPECT_TRUE(compare("t", got, want, numbers(f32, {1.00001, 2, 3}), {f32, false}).passed());
  EXPECT_FALSE(compare("t", numbers(f32, {1.00003, 2, 3}), want, numbers(f32, {1.00001, 2, 3}), {f32, false}).passed());
}

TEST(Check, sums_that_vanish_are_measured_by_their_terms) {
  const HostTensor zero = numbers(DType::f64, {0, 0, 0}), plain = numbers(f32, {0, 0, 0}), got = numbers(f32, {1e-6, 0, -1e-6});
  EXPECT_FALSE(compare("t", got, zero, plain, {f32, true}).passed());
  EXPECT_TRUE(compare("t", got, zero, plain, {f32, true, 10}).passed());
  EXPECT_FALSE(compare("t", numbers(f32, {1e-3, 0, 0}), zero, plain, {f32, true, 10}).passed());
  // Terms are of no account where the numbers themselves are not small.
  EXPECT_FALSE(
      compare("t", numbers(f32, {1.0001, 2, 3}), numbers(DType::f64, {1, 2, 3}), numbers(f32, {1, 2, 3}), {f32, true, 1000}).passed());
}

TEST(Check, the_cap_holds_where_there_is_no_plain_run) {
  const HostTensor want = numbers(DType::f64, {1, 2, 3}), got = numbers(f32, {1.00001, 2, 3});
  const TensorCheck capped = compare("t", got, want, {}, {f32, false});
  EXPECT_FALSE(capped.passed());
  EXPECT_DOUBLE_EQ(capped.relative_cap, 2e-6);
  EXPECT_DOUBLE_EQ(compare("t", got, want, {}, {f32, true}).relative_cap, 6e-6);  // gradients: three times the cap
}

TEST(Check, nan_and_infinity_stay_visible) {
  EXPECT_FALSE(compared({nan, 2}, {1, 2}).passed());
  EXPECT_TRUE(std::isnan(compared({nan, 2}, {1, 2}).max_error));
  EXPECT_TRUE(std::isnan(compared({nan, 50}, {1, 2}).max_error));  // no later element hides it
  EXPECT_FALSE(compared({infinity, 2}, {1, 2}).passed());
  EXPECT_FALSE(compared({1, 2}, {nan, 2}).passed());  // a NaN that got lost
  EXPECT_TRUE(compared({nan, 2}, {nan, 2}).passed());
  EXPECT_EQ(compared({nan, 2}, {nan, 2}).num_nan, 1);  // not wrong, but said
  EXPECT_TRUE(compared({-infinity, 2}, {-infinity, 2}).passed());
  EXPECT_FALSE(compared({infinity, 2}, {-infinity, 2}).passed());
  EXPECT_FALSE(compared({0, 2}, {-infinity, 2}).passed());
}

TEST(Check, sampled_rows_have_both_ends_and_no_duplicates) {
  const std::vector<std::int64_t> rows = sampled_rows(100000);
  EXPECT_EQ(rows.size(), 64u);
  EXPECT_EQ(rows.front(), 0);
  EXPECT_EQ(rows.back(), 99999);
  EXPECT_TRUE(std::is_sorted(rows.begin(), rows.end()));
  EXPECT_EQ(sampled_rows(3).size(), 3u);
}

/// The reference judges sampled rows as it judges whole problems, and a change in one sampled element is seen.
TEST(Check, sampled_reference_agrees_with_the_whole_one) {
  AttentionSpec spec;
  spec.batch = 2;
  spec.q_heads = 4;
  spec.kv_heads = 2;
  spec.head_dim = 8;
  spec.v_head_dim = 6;
  spec.mask = Mask::causal() & Mask::window(40, 0) & Mask::documents({130, 0, 70});
  spec.partition = Partition::zigzag(200, 3);
  const AttentionTensors tensors = random_attention(spec, false, 7);
  RunSettings settings;
  settings.num_ranks = 3;
  spec.method = Method::ring;
  AttentionResult result = run_attention(tensors, spec, settings, false);
  const AttentionReference sampled(tensors, spec, false, CheckLevel::sampled), whole(tensors, spec, false, CheckLevel::full);
  EXPECT_TRUE(sampled.judge(result).passed());
  EXPECT_TRUE(whole.judge(result).passed());
  EXPECT_EQ(sampled.judge(result).coverage, "64 of 200 query rows");
  EXPECT_EQ(whole.judge(result).coverage, "all 200 query rows");

  const std::int64_t row = sampled_rows(200)[33], at = ((200 + row) * 4 + 2) * 6 + 1;  // batch row 1, head 2, element 1
  result.out.set(at, result.out.get(at) + 0.01);
  EXPECT_EQ(sampled.judge(result).num_wrong(), 1);
  EXPECT_EQ(whole.judge(result).num_wrong(), 1);
  EXPECT_FALSE(sampled.judge(result).passed());
}

}  // namespace
}  // namespace seqccl::command::test
