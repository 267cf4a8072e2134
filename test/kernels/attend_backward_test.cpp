// attend_backward_test.cpp - the blocked gradients against the double loops.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <limits>

#include "attention_case.hpp"

namespace seqccl::test {
namespace {

struct Gradients {
  HostTensor dq, dk, dv;
};

Gradients new_gradients(const AttentionCase& c, DType dtype) {
  return {HostTensor(dtype, {c.batch, c.num_queries, c.q_heads, c.dk}), HostTensor(dtype, {c.batch, c.num_keys, c.kv_heads, c.dk}),
          HostTensor(dtype, {c.batch, c.num_keys, c.kv_heads, c.dv})};
}

/// Forward and delta in f32 by the library's own kernels, as a training step has them.
AttendBackwardArguments prepare(const AttentionProblem& p, Forward& state, HostTensor& delta) {
  state = {p.new_out(), p.new_lse()};
  delta = p.new_lse();
  AttendArguments a = p.arguments();
  a.out = state.out.view(), a.lse = state.lse.view();
  cpu::attend(a);
  cpu::row_dot(p.dout.view(), state.out.view(), delta.view(), 1);
  return {.q = p.q.view(),
          .k = p.k.view(),
          .v = p.v.view(),
          .dout = p.dout.view(),
          .lse = std::as_const(state.lse).view(),
          .delta = std::as_const(delta).view(),
          .slices = p.slices,
          .heads = p.heads(),
          .scale = static_cast<float>(p.scale),
          .softcap = p.shape.softcap,
          .fresh_dq = true,
          .fresh_dkv = true};
}

Gradients run(const AttentionProblem& p, int num_threads = 1) {
  Forward state;
  HostTensor delta;
  AttendBackwardArguments a = prepare(p, state, delta);
  Gradients result = new_gradients(p.shape, f32);
  a.dq = result.dq.view(), a.dk = result.dk.view(), a.dv = result.dv.view(), a.num_threads = num_threads;
  cpu::attend_backward(a);
  return result;
}

class AttendBackward : public ::testing::TestWithParam<AttentionCase> {};

TEST_P(AttendBackward, AgreesWithTheDoubleLoops) {
  const AttentionProblem p(GetParam());
  const Gradients got = run(p);
  Gradients right = new_gradients(p.shape, DType::f64), plain = new_gradients(p.shape, f32);
  HostTensor dsinks(DType::f64, {p.shape.q_heads});
  reference::attend_backward(p.reference_problem(), p.dout.view(), right.dq.view(), right.dk.view(), right.dv.view(), dsinks.view());
  reference::attend_backward_plain(p.reference_problem(), p.dout.view(), plain.dq.view(), plain.dk.view(), plain.dv.view());
  EXPECT_TRUE(close(got.dv, plain.dv, right.dv, 6e-6));
  const auto close_or_zero = [](const HostTensor& a, const HostTensor& b, const HostTensor& c) {
    // Rows with one visible key: ds is 0; what is left is the rounding of dout v^T and of delta, both about sqrt(Dv).
    const Distance error = distance(a, c);
    return error.reference_max == 0 && error.max <= 1e-4 ? ::testing::AssertionSuccess() : close(a, b, c, 6e-6);
  };
  EXPECT_TRUE(close_or_zero(got.dq, plain.dq, right.dq));
  EXPECT_TRUE(close_or_zero(got.dk, plain.dk, right.dk));
}

TEST_P(AttendBackward, IsBitwiseEqualOnAnyNumberOfThreads) {
  const AttentionProblem p(GetParam());
  const Gradients one = run(p, 1), three = run(p, 3);
  EXPECT_EQ(one.dq.bytes, three.dq.bytes);
  EXPECT_EQ(one.dk.bytes, three.dk.bytes);
  EXPECT_EQ(one.dv.bytes, three.dv.bytes);
}

INSTANTIATE_TEST_SUITE_P(Odd, AttendBackward, ::testing::ValuesIn(odd_cases()));

TEST(AttendBackwardSums, AddsToWhatIsThere) {
  const AttentionProblem p(
      {.batch = 2, .num_queries = 70, .num_keys = 90, .q_heads = 4, .kv_heads = 2, .dk = 16, .dv = 8, .shape = Shape::random, .seed = 4});
  const Gradients fresh = run(p);
  Forward state;
  HostTensor delta;
  AttendBackwardArguments a = prepare(p, state, delta);
  Gradients sum = new_gradients(p.shape, f32);
  sum.dq.fill(3), sum.dk.fill(4), sum.dv.fill(5);
  a.dq = sum.dq.view(), a.dk = sum.dk.view(), a.dv = sum.dv.view(), a.fresh_dq = a.fresh_dkv = false;
  cpu::attend_backward(a);
  for (std::int64_t i = 0; i < sum.dq.size(); ++i) EXPECT_NEAR(sum.dq.get(i), 3 + fresh.dq.get(i), 1e-5);
  for (std::int64_t i = 0; i < sum.dk.size(); ++i) EXPECT_NEAR(sum.dk.get(i), 4 + fresh.dk.get(i), 1e-5);
  for (std::int64_t i = 0; i < sum.dv.size(); ++i) EXPECT_NEAR(sum.dv.get(i), 5 + fresh.dv.get(i), 1e-5);
}

TEST(AttendBackwardNumbers, RowsThatSawNothingAndHiddenPairsTakeNoPart) {
  AttentionProblem p({.num_queries = 100, .num_keys = 100, .dk = 8, .dv = 8, .seed = 9});
  p.slices = {{10, 90, 0, 100, -unbounded, 0}};  // queries 0..9 see nothing
  const Gradients want = run(p);
  for (std::int64_t i = 0; i < 80; ++i) p.dout.set(i, std::numeric_limits<double>::quiet_NaN());
  const Gradients got = run(p);
  EXPECT_EQ(got.dk.bytes, want.dk.bytes);
  EXPECT_EQ(got.dv.bytes, want.dv.bytes);
  for (std::int64_t i = 0; i < 80; ++i) EXPECT_EQ(got.dq.get(i), 0);
  p.dout.set(50 * 8, std::numeric_limits<double>::infinity());  // query 50 sees keys 0..50
  const Gradients partly = run(p);
  for (std::int64_t j = 0; j < 100; ++j) EXPECT_EQ(std::isfinite(partly.dv.get(j * 8)), j > 50) << j;
  for (std::int64_t j = 0; j < 100; ++j) EXPECT_EQ(std::isfinite(partly.dk.get(j * 8)), j > 50) << j;
}

}  // namespace
}  // namespace seqccl::test
