// attend_test.cpp - the blocked attention kernel against the double loops: shapes, masks, strides, merging, threads, strange numbers.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <limits>

#include "attention_case.hpp"
#include "seqccl/error.hpp"

namespace seqccl::test {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

Forward run(const AttentionProblem& p, int num_threads = 1) {
  Forward result{p.new_out(), p.new_lse()};
  AttendArguments a = p.arguments();
  a.out = result.out.view(), a.lse = result.lse.view(), a.num_threads = num_threads;
  cpu::attend(a);
  return result;
}

class Attend : public ::testing::TestWithParam<AttentionCase> {};

TEST_P(Attend, AgreesWithTheDoubleLoops) {
  const AttentionProblem p(GetParam());
  const Forward got = run(p), right = right_forward(p), plain = plain_forward(p);
  EXPECT_TRUE(close(got.out, plain.out, right.out));
  EXPECT_TRUE(close(got.lse, plain.lse, right.lse));
}

TEST_P(Attend, IsBitwiseEqualOnAnyNumberOfThreadsAndInDirtyScratch) {
  const AttentionProblem p(GetParam());
  const Forward one = run(p, 1), three = run(p, 3), again = run(p, 1);
  EXPECT_EQ(one.out.bytes, three.out.bytes);
  EXPECT_EQ(one.lse.bytes, three.lse.bytes);
  EXPECT_EQ(one.out.bytes, again.out.bytes);
}

TEST_P(Attend, MergingIsTheMergeOfTwoFreshHalves) {
  AttentionProblem p(GetParam());
  p.shape.sinks = false;
  const std::vector<BandSlice> all = p.slices;
  std::vector<BandSlice> halves[2];  // keys below and from the middle on
  const std::int64_t middle = p.shape.num_keys / 2;
  for (const BandSlice& slice : all) {
    BandSlice low = slice, high = slice;
    low.k_count = std::min(slice.k_count, middle - slice.k_first);
    high.k_first = std::max(slice.k_first, middle);
    high.k_count = slice.k_first + slice.k_count - high.k_first;
    if (low.k_count > 0) halves[0].push_back(low);
    if (high.k_count > 0) halves[1].push_back(high);
  }
  p.slices = halves[0];
  Forward first = run(p), running{first.out, first.lse};
  p.slices = halves[1];
  const Forward second = run(p);
  cpu::merge(second.out.view(), second.lse.view(), first.out.view(), first.lse.view(), 1);
  AttendArguments a = p.arguments();
  a.fresh = false, a.out = running.out.view(), a.lse = running.lse.view();
  cpu::attend(a);
  const Distance out = distance(running.out, first.out), lse = distance(running.lse, first.lse);
  EXPECT_LE(out.max, 2 * epsilon(f32) * out.reference_max);  // the kernel need not round its part before it is merged
  EXPECT_LE(lse.max, 0.0);
  p.slices = all;
  const Forward right = right_forward(p), plain = plain_forward(p);
  EXPECT_TRUE(close(running.out, plain.out, right.out));
  EXPECT_TRUE(close(running.lse, plain.lse, right.lse));
}

INSTANTIATE_TEST_SUITE_P(Odd, Attend, ::testing::ValuesIn(odd_cases()));

/// Copies `from` into memory laid out (H, B, T, D) with gaps, one element off any alignment.
struct Scattered {
  std::vector<std::byte> memory;
  TensorView view;
  explicit Scattered(const HostTensor& from) {
    const auto& s = from.geometry.shape;
    const std::int64_t row = s[3] + 3, tokens = s[1] + 2;
    memory.resize(static_cast<std::size_t>(s[2] * s[0] * tokens * row + 1) * size_bytes(from.dtype), std::byte{0xff});
    view = {memory.data() + size_bytes(from.dtype), from.dtype, from.geometry};
    view.geometry.strides = {tokens * row, row, s[0] * tokens * row, 1};
    cpu::copy(from.view(), view, 1);
  }
};

TEST(AttendLayout, StridesDoNotMatterAndNothingBesideTheViewIsTouched) {
  const AttentionProblem p({.batch = 2,
                            .num_queries = 70,
                            .num_keys = 90,
                            .q_heads = 4,
                            .kv_heads = 2,
                            .dk = 20,
                            .dv = 12,
                            .dtype = bf16,
                            .shape = Shape::random,
                            .seed = 7});
  const Forward want = run(p);
  Scattered q(p.q), k(p.k), v(p.v), out(p.new_out()), lse(p.new_lse());
  const std::vector<std::byte> before = out.memory;
  AttendArguments a = p.arguments();
  a.q = q.view, a.k = k.view, a.v = v.view, a.out = out.view, a.lse = lse.view;
  cpu::attend(a);
  HostTensor got = p.new_out(), got_lse = p.new_lse();
  cpu::copy(out.view, got.view(), 1);
  cpu::copy(lse.view, got_lse.view(), 1);
  EXPECT_EQ(got.bytes, want.out.bytes);
  EXPECT_EQ(got_lse.bytes, want.lse.bytes);
  HostTensor poison = p.new_out();  // NaN bytes
  cpu::copy(poison.view(), out.view, 1);
  EXPECT_EQ(out.memory, before);
}

TEST(AttendLayout, HeadMapsOfAShardOfTheHeads) {
  // Query heads 3..7 of a layer with 2 query heads per key/value head, over key/value heads 1..3.
  AttentionProblem p({.batch = 1, .num_queries = 33, .num_keys = 40, .q_heads = 5, .kv_heads = 3, .dk = 16, .dv = 16, .seed = 3});
  Forward got{p.new_out(), p.new_lse()};
  AttendArguments a = p.arguments();
  a.heads = {3, 1, 2}, a.out = got.out.view(), a.lse = got.lse.view();
  cpu::attend(a);
  for (std::int64_t h = 0; h < 5; ++h) {
    AttendArguments one = p.arguments();
    const auto head = [](ConstTensorView view, std::int64_t index) {
      view.data = view.as<float>() + index * view.stride(2);
      view.geometry.shape[2] = 1;
      return view;
    };
    one.q = head(p.q.view(), h), one.k = head(p.k.view(), (3 + h) / 2 - 1), one.v = head(p.v.view(), (3 + h) / 2 - 1), one.heads = {};
    HostTensor out(f32, {1, 33, 1, 16}), lse(f32, {1, 33, 1, 1}), want(f32, {1, 33, 1, 16});
    one.out = out.view(), one.lse = lse.view();
    cpu::attend(one);
    cpu::copy(head(got.out.view(), h), want.view(), 1);
    EXPECT_EQ(out.bytes, want.bytes) << h;
  }
  a.heads = {3, 2, 2};
  EXPECT_THROW(cpu::attend(a), Error);
}

TEST(AttendLayout, EmptyTensors) {
  for (const auto& [queries, keys] : {std::pair{0, 5}, std::pair{5, 0}, std::pair{0, 0}}) {
    AttentionProblem p({.batch = 2, .num_queries = queries, .num_keys = keys, .q_heads = 2});
    const Forward got = run(p);
    for (std::int64_t i = 0; i < got.lse.size(); ++i) EXPECT_EQ(got.lse.get(i), -infinity);
    for (std::int64_t i = 0; i < got.out.size(); ++i) EXPECT_EQ(got.out.get(i), 0);
  }
}

TEST(AttendStates, RowsThatSeeNothingLeaveARunningStateAlone) {
  AttentionProblem p({.num_queries = 70, .num_keys = 70, .shape = Shape::none});
  Forward state{p.new_out(), p.new_lse()};  // NaN bytes
  const Forward before = state;
  AttendArguments a = p.arguments();
  a.fresh = false, a.out = state.out.view(), a.lse = state.lse.view();
  cpu::attend(a);
  EXPECT_EQ(state.out.bytes, before.out.bytes);
  EXPECT_EQ(state.lse.bytes, before.lse.bytes);
  a.sinks = p.sinks.view();
  EXPECT_THROW(cpu::attend(a), Error);
}

TEST(AttendNumbers, NanReachesExactlyTheRowsThatSeeIt) {
  for (const bool in_values : {false, true}) {
    AttentionProblem p({.num_queries = 200, .num_keys = 200, .dk = 16, .dv = 16, .shape = Shape::causal, .seed = 5});
    (in_values ? p.v : p.k).set(150 * 16 + 3, std::numeric_limits<double>::quiet_NaN());  // key 150
    const Forward got = run(p);
    for (std::int64_t i = 0; i < 200; ++i) {
      EXPECT_EQ(std::isnan(got.out.get(i * 16 + 3)), i >= 150) << i;
      EXPECT_EQ(std::isnan(got.lse.get(i)), !in_values && i >= 150) << i;
    }
  }
}

TEST(AttendNumbers, InfinitiesAndHugeScores) {
  AttentionProblem p({.num_queries = 3, .num_keys = 4, .dk = 1, .dv = 1});
  for (std::int64_t i = 0; i < 3; ++i) p.q.set(i, 1);
  const auto lse_with = [&](double a, double b, double c, double d) {
    p.k.set(0, a), p.k.set(1, b), p.k.set(2, c), p.k.set(3, d);
    return run(p).lse.get(0);
  };
  EXPECT_EQ(lse_with(1e4, -1e4, 0, -1e4), 1e4);
  EXPECT_EQ(lse_with(-1e4, -1e4, -1e4, -1e4), static_cast<float>(-1e4 + std::log(4)));
  EXPECT_EQ(lse_with(-infinity, 2, -infinity, -infinity), 2);
  EXPECT_EQ(lse_with(-infinity, -infinity, -infinity, -infinity), -infinity);
  EXPECT_TRUE(std::isnan(lse_with(infinity, 0, 0, 0)));
}

TEST(AttendNumbers, LargeInputs) {
  AttentionProblem p({.num_queries = 65, .num_keys = 200, .q_heads = 2, .dk = 64, .dv = 32, .shape = Shape::causal, .seed = 11});
  p.q = random_tensor(f32, {1, 65, 2, 64}, 1, 40);
  p.k = random_tensor(f32, {1, 200, 1, 64}, 2, 40);
  const Forward got = run(p), right = right_forward(p), plain = plain_forward(p);  // scores of 1e4
  EXPECT_TRUE(close(got.out, plain.out, right.out, 1e-2));
  EXPECT_TRUE(close(got.lse, plain.lse, right.lse));
}

TEST(AttendMask, ThousandsOfDocuments) {
  AttentionProblem p({.num_queries = 6000, .num_keys = 6000, .dk = 8, .dv = 8, .shape = Shape::none});
  for (std::int64_t first = 0; first < 6000; first += 3) p.slices.push_back({first, 3, first, 3, -unbounded, 0});
  const Forward got = run(p), right = right_forward(p), plain = plain_forward(p);
  EXPECT_TRUE(close(got.out, plain.out, right.out));
}

}  // namespace
}  // namespace seqccl::test
