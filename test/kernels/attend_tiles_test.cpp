// attend_tiles_test.cpp - the attend kernel over many tiles: head sizes, edges of tiles, keys split into parts, strange numbers far away.
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

void expect_close(const AttentionProblem& p) {
  SCOPED_TRACE(p.shape);
  const Forward got = run(p), right = right_forward(p), plain = plain_forward(p);
  EXPECT_TRUE(close(got.out, plain.out, right.out));
  EXPECT_TRUE(close(got.lse, plain.lse, right.lse));
}

TEST(AttendTiles, HeadSizes) {
  constexpr std::int64_t sizes[][2] = {{32, 32},   {64, 64},  {80, 80},   {96, 96}, {128, 128},
                                       {192, 128}, {64, 192}, {256, 256}, {7, 1},   {1, 7}};
  constexpr DType types[] = {f32, bf16, f16};
  std::uint64_t seed = 60;
  for (const auto& size : sizes) {
    for (const Shape shape : {Shape::full, Shape::causal, Shape::window}) {
      expect_close(AttentionProblem({.num_queries = 101,
                                     .num_keys = 267,
                                     .q_heads = 2,
                                     .kv_heads = 1,
                                     .dk = size[0],
                                     .dv = size[1],
                                     .dtype = types[seed % 3],
                                     .shape = shape,
                                     .seed = seed}));
      ++seed;
    }
  }
}

/// Lengths around register blocks (6), vectors (8, 16), tiles of rows (24) and of keys (256), and whole items (480).
TEST(AttendTiles, EdgesOfBlocksTilesAndItems) {
  std::uint64_t seed = 100;
  for (const std::int64_t rows : {5, 6, 7, 23, 24, 25, 95, 479, 480, 481}) {
    for (const std::int64_t keys : {1, 7, 8, 9, 129, 255, 256, 257, 700}) {
      expect_close(AttentionProblem({.num_queries = rows,
                                     .num_keys = keys,
                                     .q_heads = 1 + static_cast<std::int64_t>(seed % 2),
                                     .dk = 8,
                                     .dv = 8,
                                     .shape = seed % 3 == 0   ? Shape::full
                                              : seed % 3 == 1 ? Shape::causal
                                                              : Shape::random,
                                     .seed = seed}));
      ++seed;
    }
  }
}

/// Few rows over many keys: the keys are cut into parts.
TEST(AttendTiles, KeysInPartsAreMergedInOneOrder) {
  for (const Shape shape : {Shape::full, Shape::causal, Shape::window, Shape::random, Shape::none}) {
    for (const std::int64_t num_queries : {1, 2, 19}) {
      const AttentionProblem p({.batch = 2,
                                .num_queries = num_queries,
                                .num_keys = 5000,
                                .q_heads = 4,
                                .kv_heads = 2,
                                .dk = 16,
                                .dv = 24,
                                .dtype = bf16,
                                .shape = shape,
                                .sinks = num_queries == 2,
                                .seed = 5});
      expect_close(p);
      const Forward one = run(p, 1);
      for (const int threads : {2, 3, 8}) {
        const Forward many = run(p, threads);
        EXPECT_EQ(many.out.bytes, one.out.bytes) << threads;
        EXPECT_EQ(many.lse.bytes, one.lse.bytes) << threads;
      }
    }
  }
}

TEST(AttendTiles, PartsJoinARunningState) {
  AttentionProblem p({.num_queries = 2, .num_keys = 4096, .q_heads = 2, .dk = 16, .dv = 16, .seed = 12});
  const std::vector<BandSlice> all = p.slices;
  p.slices = {{0, 2, 0, 1500}};
  Forward state = run(p);
  p.slices = {{0, 1, 1500, 2596}, {1, 1, 1500, 2596}};
  AttendArguments a = p.arguments();
  a.fresh = false, a.out = state.out.view(), a.lse = state.lse.view();
  cpu::attend(a);
  p.slices = all;
  const Forward right = right_forward(p), plain = plain_forward(p);
  EXPECT_TRUE(close(state.out, plain.out, right.out));
  EXPECT_TRUE(close(state.lse, plain.lse, right.lse));
  const Forward before = state;
  p.slices = {{1, 1, 0, 4096}};  // row 0 sees nothing
  a.slices = p.slices;
  cpu::attend(a);
  for (std::int64_t d = 0; d < 32; ++d) EXPECT_EQ(state.out.get(d), before.out.get(d));
  EXPECT_EQ(state.lse.get(0), before.lse.get(0));
  EXPECT_GT(state.lse.get(2), before.lse.get(2));
}

/// The largest score sits in the last tile, in the first, or moves up with every tile.
TEST(AttendTiles, ScoresThatRiseAndFallByTenThousand) {
  for (const int order : {0, 1, 2}) {
    AttentionProblem p({.num_queries = 50, .num_keys = 700, .dk = 1, .dv = 8, .seed = 31});
    p.scale = 1;
    for (std::int64_t i = 0; i < 50; ++i) p.q.set(i, 1);
    for (std::int64_t j = 0; j < 700; ++j)
      p.k.set(j, order == 0   ? -1e4 + 28.5 * static_cast<double>(j)
                 : order == 1 ? 1e4 - 28.5 * static_cast<double>(j)
                 : j % 2 == 0 ? 1e4
                              : -1e4);
    expect_close(p);
  }
}

/// A row whose scores are -inf in all tiles but one; and one with a NaN among nothing but -inf.
TEST(AttendTiles, RowsOfMinusInfinity) {
  AttentionProblem p({.num_queries = 8, .num_keys = 400, .dk = 1, .dv = 2, .seed = 2});
  p.scale = 1;
  for (std::int64_t i = 0; i < 8; ++i) p.q.set(i, 1);
  for (std::int64_t j = 0; j < 400; ++j) p.k.set(j, -infinity);
  Forward got = run(p);
  for (std::int64_t i = 0; i < 8; ++i) {
    EXPECT_EQ(got.lse.get(i), -infinity);
    EXPECT_EQ(got.out.get(2 * i), 0);
  }
  p.k.set(300, 3);
  got = run(p);
  for (std::int64_t i = 0; i < 8; ++i) {
    EXPECT_EQ(got.lse.get(i), 3);
    EXPECT_EQ(got.out.get(2 * i), p.v.get(600));
  }
  for (const std::int64_t key : {3, 300, 399}) {
    for (std::int64_t j = 0; j < 400; ++j) p.k.set(j, -infinity);
    p.k.set(key, std::numeric_limits<double>::quiet_NaN());
    got = run(p);
    for (std::int64_t i = 0; i < 8; ++i) EXPECT_TRUE(std::isnan(got.lse.get(i)) && std::isnan(got.out.get(2 * i))) << key;
  }
}

TEST(AttendTiles, NanInPartsReachesTheRowsThatSeeIt) {
  for (const std::int64_t key : {0, 1500, 4095}) {
    AttentionProblem p({.num_queries = 3, .num_keys = 4096, .dk = 4, .dv = 4, .seed = 6});
    p.slices = {{0, 1, 0, 4096}, {1, 1, 0, key}, {1, 1, key + 1, 4095 - key}, {2, 1, 0, 4096}};
    std::erase_if(p.slices, [](const BandSlice& slice) { return slice.k_count == 0; });
    p.k.set(key * 4 + 2, std::numeric_limits<double>::quiet_NaN());
    const Forward got = run(p);
    for (std::int64_t i = 0; i < 3; ++i) {
      EXPECT_EQ(std::isnan(got.lse.get(i)), i != 1) << key;
      EXPECT_EQ(std::isnan(got.out.get(4 * i)), i != 1) << key;
    }
  }
}

TEST(AttendTiles, RefusesDoubles) {
  AttentionProblem p({.num_queries = 2, .num_keys = 2});
  p.k = HostTensor(DType::f64, {1, 2, 1, 8});
  EXPECT_THROW(run(p), Error);
}

}  // namespace
}  // namespace seqccl::test
