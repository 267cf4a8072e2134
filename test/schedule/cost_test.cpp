// cost_test.cpp - flops and bytes of the linear ops, counted here by hand from their products.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/cost.hpp"

#include <gtest/gtest.h>

#include "seqccl/recorder.hpp"

namespace seqccl::test {
namespace {

constexpr std::int64_t batch = 2, tokens = 10, heads = 3, key_dim = 8, value_dim = 5;
constexpr double rows = 2.0 * batch * tokens * heads;  // a multiply and an add for each token and head
constexpr double state = key_dim * value_dim, square = key_dim * key_dim, seen = 32;

struct Blocks {
  Recorder plan{"cost", 0, 1};
  Block q = tokens_of(key_dim), k = tokens_of(key_dim), v = tokens_of(value_dim), out = tokens_of(value_dim), beta = tokens_of(1);
  Block dq = tokens_of(key_dim), dk = tokens_of(key_dim), dv = tokens_of(value_dim), dbeta = tokens_of(1);
  Block bonus = plan.scratch(DType::f32, {1, 1, heads, key_dim}), dbonus = plan.scratch(DType::f32, {1, 1, heads, key_dim});
  Block entering = states(key_dim * value_dim), leaving = states(key_dim * value_dim), transition = states(key_dim * key_dim);
  Block columns = states(key_dim * 2);

  Block tokens_of(std::int64_t dim) { return plan.scratch(DType::f32, {batch, tokens, heads, dim}); }
  Block states(std::int64_t size) { return plan.scratch(DType::f32, {batch, 1, heads, size}); }
  OpCost cost(const Op& op) && { return cost_of(std::move(plan).finish("cost"), op); }
};
/// The cost of the op that `make` builds from blocks.
template <class Make>
OpCost cost(Make&& make) {
  Blocks blocks;
  const Op op = make(blocks);
  return std::move(blocks).cost(op);
}

TEST(Cost, OutputsOfARun) {
  const auto local = [](bool delta, bool bonus) {
    return cost([&](Blocks& b) {
      return LinearLocal{.q = b.q, .k = b.k, .v = b.v, .out = b.out, .beta = delta ? b.beta : Block{}, .bonus = bonus ? b.bonus : Block{}};
    });
  };
  // q S, k^T v; q k^T, A v
  EXPECT_EQ(local(false, false).flops, rows * (2 * state + seen * (key_dim + value_dim)));
  // and the weight of a token on itself
  EXPECT_EQ(local(false, true).flops - local(false, false).flops, rows * (key_dim + value_dim));
  // q S, k S, k^T U; q k^T, k k^T, A U, and the triangle of the keys
  EXPECT_EQ(local(true, false).flops, rows * (3 * state + seen * (2 * key_dim + 2 * value_dim)));
  const OpCost enter = cost([](Blocks& b) { return LinearEnter{.q = b.q, .state = b.entering, .out = b.out}; });
  EXPECT_EQ(enter.flops, rows * state);
}

TEST(Cost, SummariesOfARun) {
  const auto forward = [](bool delta, bool dense) {
    return cost([&](Blocks& b) {
      return LinearSummary{
          .k = b.k, .v = b.v, .state = b.leaving, .beta = delta ? b.beta : Block{}, .transition = dense ? b.transition : Block{}};
    });
  };
  EXPECT_EQ(forward(false, false).flops, rows * state);
  // k S, k^T U; k k^T and its triangle. The transition is Dk more columns of the state
  EXPECT_EQ(forward(true, false).flops, rows * (2 * state + seen * (key_dim + value_dim)));
  EXPECT_EQ(forward(true, true).flops - forward(true, false).flops, rows * (2 * square + seen * key_dim));
  EXPECT_EQ(forward(true, true).bytes - forward(true, false).bytes, 4 * batch * heads * square);

  const auto backward = [](bool delta, bool dense) {
    return cost([&](Blocks& b) {
      return LinearSummaryBackward{.q = b.q,
                                   .dout = b.out,
                                   .dstate = b.leaving,
                                   .k = delta ? b.k : Block{},
                                   .beta = delta ? b.beta : Block{},
                                   .transition = dense ? b.transition : Block{}};
    });
  };
  EXPECT_EQ(backward(false, false).flops, rows * state);
  // k dS, q^T dO, k^T dR; q k^T, k k^T, A^T dO and the triangle
  EXPECT_EQ(backward(true, false).flops, rows * (3 * state + seen * (2 * key_dim + 2 * value_dim)));
  EXPECT_EQ(backward(true, true).flops - backward(true, false).flops, rows * (2 * square + seen * key_dim));
}

TEST(Cost, GradientsOfARun) {
  const auto backward = [](bool delta, bool bonus) {
    return cost([&](Blocks& b) {
      return LinearBackward{.q = b.q,
                            .k = b.k,
                            .v = b.v,
                            .dout = b.out,
                            .state = b.entering,
                            .dq = b.dq,
                            .dk = b.dk,
                            .dv = b.dv,
                            .beta = delta ? b.beta : Block{},
                            .bonus = bonus ? b.bonus : Block{},
                            .dbeta = delta ? b.dbeta : Block{},
                            .dbonus = bonus ? b.dbonus : Block{}};
    });
  };
  // the state again; k dS, dO S^T, v dS^T, q^T dO; q k^T, A^T dO, dO v^T, dA k, dA^T q
  EXPECT_EQ(backward(false, false).flops, rows * (5 * state + seen * (3 * key_dim + 2 * value_dim)));
  // v dO^T, the weight, dv; dq, dk, dbonus
  EXPECT_EQ(backward(false, true).flops - backward(false, false).flops, rows * (4 * key_dim + 2 * value_dim));
  // the state again: k S, k^T U, k k^T, triangle; then k S, k dS, q^T dO, k^T dR, dO S^T, dR S^T, U dS^T;
  // k k^T, q k^T, triangle, A^T dO, triangle, Z U^T, dO U^T, dA k, dG k, dA^T q, dG^T k
  EXPECT_EQ(backward(true, false).flops, rows * (9 * state + seen * (7 * key_dim + 6 * value_dim)));
}

TEST(Cost, StepsAndColumns) {
  const OpCost dense = cost([](Blocks& b) { return StateStep{.update = b.leaving, .state = b.entering, .transition = b.transition}; });
  const double states = batch * heads * state, transitions = batch * heads * square;
  EXPECT_EQ(dense.bytes, 4 * (3 * states + transitions));
  EXPECT_EQ(dense.flops, 2.0 * batch * heads * square * value_dim + 3 * states + transitions);
  const OpCost composed = cost([](Blocks& b) { return StateStep{.state = b.states(key_dim * key_dim), .transition = b.transition}; });
  EXPECT_EQ(composed.flops, 2.0 * batch * heads * square * key_dim + 3 * transitions);
  // only the columns move, not the state around them
  const OpCost take =
      cost([](Blocks& b) { return TakeColumns{.state = b.entering, .columns = b.columns, .key_dim = key_dim, .first = 1}; });
  const OpCost put = cost([](Blocks& b) { return PutColumns{.columns = b.columns, .state = b.entering, .key_dim = key_dim, .first = 1}; });
  EXPECT_EQ(take.bytes, 2 * 4 * batch * heads * key_dim * 2);
  EXPECT_EQ(put.bytes, take.bytes);
}

TEST(Cost, EveryOpHasItsName) {
  EXPECT_STREQ(name(Op(StateStep{})), "state step");
  EXPECT_STREQ(name(Op(TakeColumns{})), "take columns");
  EXPECT_STREQ(name(Op(PutColumns{})), "put columns");
  EXPECT_STREQ(name(Op(LinearLocal{})), "linear local");
  EXPECT_STREQ(name(Op(Custom{})), "custom");
}

}  // namespace
}  // namespace seqccl::test
