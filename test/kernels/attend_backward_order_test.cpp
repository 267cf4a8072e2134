// attend_backward_order_test.cpp - gradients over many key tiles: one order of sums on any number of threads, masks that skip tiles.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <limits>

#include "attention_case.hpp"

namespace seqccl::test {
namespace {

struct Gradients {
  HostTensor dq, dk, dv;
};

Gradients run(const AttentionProblem& p, int num_threads, bool fresh = true) {
  const AttentionCase& c = p.shape;
  Forward state{p.new_out(), p.new_lse()};
  HostTensor delta = p.new_lse();
  AttendArguments f = p.arguments();
  f.out = state.out.view(), f.lse = state.lse.view();
  cpu::attend(f);
  cpu::row_dot(p.dout.view(), state.out.view(), delta.view(), 1);
  Gradients result{HostTensor(f32, {c.batch, c.num_queries, c.q_heads, c.dk}), HostTensor(f32, {c.batch, c.num_keys, c.kv_heads, c.dk}),
                   HostTensor(f32, {c.batch, c.num_keys, c.kv_heads, c.dv})};
  if (!fresh) result.dq.fill(1), result.dk.fill(1), result.dv.fill(1);
  cpu::attend_backward({.q = p.q.view(),
                        .k = p.k.view(),
                        .v = p.v.view(),
                        .dout = p.dout.view(),
                        .lse = std::as_const(state.lse).view(),
                        .delta = std::as_const(delta).view(),
                        .dq = result.dq.view(),
                        .dk = result.dk.view(),
                        .dv = result.dv.view(),
                        .slices = p.slices,
                        .heads = p.heads(),
                        .scale = static_cast<float>(p.scale),
                        .softcap = c.softcap,
                        .fresh_dq = fresh,
                        .fresh_dkv = fresh,
                        .num_threads = num_threads});
  return result;
}

void expect_close(const Gradients& got, const AttentionProblem& p) {
  const AttentionCase& c = p.shape;
  const auto gradients = [&](DType type) {
    return Gradients{HostTensor(type, {c.batch, c.num_queries, c.q_heads, c.dk}), HostTensor(type, {c.batch, c.num_keys, c.kv_heads, c.dk}),
                     HostTensor(type, {c.batch, c.num_keys, c.kv_heads, c.dv})};
  };
  Gradients right = gradients(DType::f64), plain = gradients(f32);
  reference::attend_backward(p.reference_problem(), p.dout.view(), right.dq.view(), right.dk.view(), right.dv.view());
  reference::attend_backward_plain(p.reference_problem(), p.dout.view(), plain.dq.view(), plain.dk.view(), plain.dv.view());
  EXPECT_TRUE(close(got.dq, plain.dq, right.dq, 6e-6));
  EXPECT_TRUE(close(got.dk, plain.dk, right.dk, 6e-6));
  EXPECT_TRUE(close(got.dv, plain.dv, right.dv, 6e-6));
}

/// One key/value head: all key tiles add to the same dq.
TEST(AttendBackwardOrder, KeyTilesOfOneHeadAddInOneOrder) {
  for (const Shape shape : {Shape::full, Shape::causal, Shape::window, Shape::documents, Shape::random}) {
    const AttentionProblem p(
        {.num_queries = 523, .num_keys = 641, .q_heads = 2, .kv_heads = 1, .dk = 24, .dv = 40, .shape = shape, .seed = 21});
    const Gradients one = run(p, 1), added = run(p, 1, false);
    expect_close(one, p);
    for (const int threads : {2, 3, 5, 8, 16}) {
      for (const bool fresh : {true, false}) {
        const Gradients many = run(p, threads, fresh);
        EXPECT_EQ(many.dq.bytes, (fresh ? one : added).dq.bytes) << threads << " threads, shape " << static_cast<int>(shape);
        EXPECT_EQ(many.dk.bytes, (fresh ? one : added).dk.bytes) << threads << " threads";
        EXPECT_EQ(many.dv.bytes, (fresh ? one : added).dv.bytes) << threads << " threads";
      }
    }
  }
}

/// Head sizes of real models, unequal ones, and large ones, whose key tiles are smaller.
TEST(AttendBackwardOrder, HeadSizes) {
  constexpr std::int64_t sizes[][2] = {{32, 32}, {64, 64}, {80, 80}, {96, 96}, {192, 128}, {128, 192}, {256, 256}, {7, 1}};
  std::uint64_t seed = 40;
  for (const auto& size : sizes) {
    const AttentionProblem p({.num_queries = 67,
                              .num_keys = 205,
                              .q_heads = 2,
                              .kv_heads = 1,
                              .dk = size[0],
                              .dv = size[1],
                              .shape = Shape::causal,
                              .softcap = seed % 2 == 0 ? 0.0F : 20.0F,
                              .seed = seed++});
    SCOPED_TRACE(p.shape);
    expect_close(run(p, 2), p);
  }
}

TEST(AttendBackwardOrder, NanReachesExactlyTheKeysThatItsQuerySees) {
  AttentionProblem p({.num_queries = 300, .num_keys = 300, .dk = 16, .dv = 16, .shape = Shape::causal, .seed = 8});
  p.dout.set(170 * 16, std::numeric_limits<double>::quiet_NaN());
  const Gradients got = run(p, 2);
  for (std::int64_t i = 0; i < 300; ++i) {
    EXPECT_EQ(std::isnan(got.dv.get(i * 16)), i <= 170) << i;
    EXPECT_EQ(std::isnan(got.dk.get(i * 16)), i <= 170) << i;
    EXPECT_EQ(std::isnan(got.dq.get(i * 16)), i == 170) << i;
  }
}

}  // namespace
}  // namespace seqccl::test
