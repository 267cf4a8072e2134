// reference_test.cpp - the double loops themselves: against arithmetic done by hand, and gradients against finite differences.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "attention_case.hpp"

namespace seqccl::test {
namespace {

TEST(Reference, TwoKeysByHand) {
  HostTensor q(DType::f64, {1, 2, 1, 1}), k = q, v = q, out = q, lse(DType::f64, {1, 1, 2});
  q.set(0, 1), q.set(1, 2), k.set(0, 3), k.set(1, 5), v.set(0, 10), v.set(1, 20);
  const std::vector<BandSlice> causal = {{0, 2, 0, 2, -unbounded, 0}};
  reference::attend({.q = q.view(), .k = k.view(), .v = v.view(), .slices = causal, .scale = 0.5}, out.view(), lse.view());
  EXPECT_DOUBLE_EQ(out.get(0), 10);  // query 0 sees key 0 alone
  EXPECT_DOUBLE_EQ(lse.get(0), 1.5);
  EXPECT_DOUBLE_EQ(out.get(1), (10 * std::exp(3) + 20 * std::exp(5)) / (std::exp(3) + std::exp(5)));
  EXPECT_DOUBLE_EQ(lse.get(1), std::log(std::exp(3) + std::exp(5)));
}

TEST(Reference, SinkAndSoftcapByHand) {
  HostTensor q(DType::f64, {1, 1, 1, 1}), k = q, v = q, out = q, lse(DType::f64, {1, 1, 1}), sinks(f32, {1});
  q.set(0, 1), k.set(0, 3), v.set(0, 10), sinks.set(0, 0.5);
  const std::vector<BandSlice> one = {{0, 1, 0, 1}};
  reference::attend({.q = q.view(), .k = k.view(), .v = v.view(), .sinks = sinks.view(), .slices = one, .softcap = 2}, out.view(),
                    lse.view());
  const double score = 2 * std::tanh(1.5);
  EXPECT_DOUBLE_EQ(lse.get(0), std::log(std::exp(score) + std::exp(0.5)));
  EXPECT_DOUBLE_EQ(out.get(0), 10 * std::exp(score) / (std::exp(score) + std::exp(0.5)));
}

TEST(Reference, RowsThatSeeNothing) {
  const AttentionProblem p({.num_queries = 3, .num_keys = 3, .shape = Shape::none});
  const Forward right = right_forward(p);
  for (std::int64_t i = 0; i < 3; ++i) EXPECT_EQ(right.lse.get(i), -std::numeric_limits<double>::infinity());
  for (std::int64_t i = 0; i < right.out.size(); ++i) EXPECT_EQ(right.out.get(i), 0);
}

TEST(Reference, ChosenRowsOnly) {
  const AttentionProblem p({.num_queries = 5, .num_keys = 5, .q_heads = 2, .dk = 4, .dv = 4, .shape = Shape::causal});
  const Forward all = right_forward(p);
  HostTensor out(DType::f64, {1, 5, 2, 4}), lse(DType::f64, {1, 2, 5});
  out.fill(-7);
  const std::vector<std::int64_t> rows = {3, 1};
  reference::attend(p.reference_problem(), out.view(), lse.view(), rows, 2);
  for (std::int64_t i = 0; i < out.size(); ++i) EXPECT_EQ(out.get(i), i / 8 == 3 || i / 8 == 1 ? all.out.get(i) : -7) << i;
}

/// sum(dout * out) in double; the inputs are f64 copies that the caller may nudge.
struct Doubles {
  HostTensor q, k, v, sinks, dout;
};
double loss(const AttentionProblem& p, Doubles& x) {
  HostTensor out(DType::f64, {p.shape.batch, p.shape.num_queries, p.shape.q_heads, p.shape.dv});
  HostTensor lse(DType::f64, {p.shape.batch, p.shape.q_heads, p.shape.num_queries});
  reference::Attention problem = p.reference_problem();
  problem.q = x.q.view(), problem.k = x.k.view(), problem.v = x.v.view();
  if (p.shape.sinks) problem.sinks = x.sinks.view();
  reference::attend(problem, out.view(), lse.view());
  double sum = 0;
  for (std::int64_t i = 0; i < out.size(); ++i) sum += out.get(i) * x.dout.get(i);
  return sum;
}

TEST(Reference, GradientsAreCentralDifferences) {
  for (const bool decorated : {false, true}) {
    const AttentionProblem p({.batch = 2,
                              .num_queries = 7,
                              .num_keys = 9,
                              .q_heads = 4,
                              .kv_heads = 2,
                              .dk = 3,
                              .dv = 5,
                              .shape = Shape::per_batch,
                              .softcap = decorated ? 2.0F : 0.0F,
                              .sinks = decorated,
                              .seed = 21});
    const auto widened = [](const HostTensor& from, std::initializer_list<std::int64_t> shape) {
      HostTensor result(DType::f64, shape);
      for (std::int64_t i = 0; i < from.size(); ++i) result.set(i, from.get(i));
      return result;
    };
    Doubles x{widened(p.q, {2, 7, 4, 3}), widened(p.k, {2, 9, 2, 3}), widened(p.v, {2, 9, 2, 5}), widened(p.sinks, {4}),
              widened(p.dout, {2, 7, 4, 5})};
    HostTensor dq = x.q, dk = x.k, dv = x.v, dsinks = x.sinks;
    reference::Attention problem = p.reference_problem();
    reference::attend_backward(problem, x.dout.view(), dq.view(), dk.view(), dv.view(), dsinks.view(), 2);
    const auto check = [&](HostTensor& input, const HostTensor& gradient, const char* what) {
      for (std::int64_t i = 0; i < input.size(); ++i) {
        const double value = input.get(i), step = 1e-5;
        input.set(i, value + step);
        const double above = loss(p, x);
        input.set(i, value - step);
        const double below = loss(p, x);
        input.set(i, value);
        ASSERT_NEAR(gradient.get(i), (above - below) / (2 * step), 1e-8) << what << " " << i << " decorated " << decorated;
      }
    };
    check(x.q, dq, "dq");
    check(x.k, dk, "dk");
    check(x.v, dv, "dv");
    if (decorated) check(x.sinks, dsinks, "dsinks");
  }
}

TEST(Reference, PlainIsCloseAndThreadsDoNotMatter) {
  const AttentionProblem p(
      {.batch = 2, .num_queries = 40, .num_keys = 50, .q_heads = 4, .kv_heads = 2, .dk = 16, .dv = 8, .shape = Shape::random});
  const Forward right = right_forward(p), plain = plain_forward(p);
  EXPECT_LT(distance(plain.out, right.out).relative_rms, 1e-6);
  EXPECT_GT(distance(plain.out, right.out).relative_rms, 0);  // it really sums in float
  const Forward threads = reference_forward(
      p, DType::f64, [](const auto& problem, TensorView out, TensorView lse) { reference::attend(problem, out, lse, {}, 3); });
  EXPECT_EQ(threads.out.bytes, right.out.bytes);
}

}  // namespace
}  // namespace seqccl::test
