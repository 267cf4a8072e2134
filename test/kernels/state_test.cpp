// state_test.cpp - one step of a scan over states: diagonal and dense transitions, composition, and blocks of columns.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "linear_layer.hpp"
#include "seqccl/error.hpp"
#include "seqccl/kernels.hpp"
#include "support/ranks.hpp"

namespace seqccl::test {
namespace {

TEST(State, AStepOfTheStateRepeatsALogDecay) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  float state[2] = {3, 5};
  const float update[2] = {10, 20};
  float log_sum[2] = {-0.25f, -infinity};  // two heads, Dk = Dv = 1
  const TensorView states = view(state, f32, {1, 2, 1, 1}), sums = view(log_sum, f32, {1, 2, 1, 1});
  cpu::state_step({.log_sum = sums, .state = states, .repeat = 0});
  EXPECT_EQ(state[0], 3);
  EXPECT_EQ(state[1], 5);
  cpu::state_step({.log_sum = sums, .update = view(update, f32, {1, 2, 1, 1}), .state = states, .repeat = 8});
  EXPECT_FLOAT_EQ(state[0], 3 * std::exp(-2.0f) + 10);
  EXPECT_EQ(state[1], 20);
  cpu::state_step({.update = view(update, f32, {1, 2, 1, 1}), .state = states});
  EXPECT_EQ(state[1], 40);
}

/// T S + E for states (B, H, Dk, n), in double.
HostTensor product(const HostTensor& transition, const HostTensor& state, const HostTensor& update) {
  const std::int64_t dim = state.geometry.shape[2], width = state.geometry.shape[3];
  HostTensor result(DType::f64, {state.geometry.shape[0], state.geometry.shape[1], dim, width});
  for (std::int64_t i = 0; i < result.size(); ++i) {
    const std::int64_t matrix = i / width / dim, row = i / width % dim, column = i % width;
    double sum = update.get(i);
    for (std::int64_t x = 0; x < dim; ++x) {
      sum += transition.get((matrix * dim + row) * dim + x) * state.get((matrix * dim + x) * width + column);
    }
    result.set(i, sum);
  }
  return result;
}

TEST(State, ADenseStepEqualsTheProduct) {
  for (const std::int64_t dim : up_to_if_sanitized(130, {1, 7, 40, 64, 130, 300})) {
    for (const std::int64_t width : {std::int64_t{1}, std::int64_t{9}, std::int64_t{64}, std::int64_t{200}, dim}) {
      const double size = 1 / std::sqrt(static_cast<double>(dim));
      const HostTensor transition = random_tensor(DType::f32, {2, 3, dim, dim}, 1, size);
      const HostTensor update = random_tensor(DType::f32, {2, 3, dim, width}, 2),
                       entering = random_tensor(DType::f32, {2, 3, dim, width}, 3);
      const HostTensor want = product(transition, entering, update);
      HostTensor first;
      for (const bool strided : {false, true}) {
        for (const int num_threads : {1, 3}) {
          Box t(transition, strided), e(update, strided), s(entering, strided);
          cpu::state_step({.update = e.view(), .state = s.view(), .num_threads = num_threads, .transition = t.view()});
          const HostTensor got = s.dense();
          EXPECT_LE(distance(got, want).relative_rms, 1e-6) << dim << " x " << width;
          if (first.bytes.empty()) first = got;
          EXPECT_EQ(got.bytes, first.bytes) << "strides and threads must not show, " << dim << " x " << width;
        }
      }
    }
  }
}

TEST(State, TransitionsComposeAndAgreeWithTwoSteps) {
  constexpr std::int64_t dim = 40, width = 33;
  const HostTensor one = random_tensor(DType::f32, {1, 2, dim, dim}, 1, 0.15), two = random_tensor(DType::f32, {1, 2, dim, dim}, 2, 0.15);
  const HostTensor e1 = random_tensor(DType::f32, {1, 2, dim, width}, 3), e2 = random_tensor(DType::f32, {1, 2, dim, width}, 4);
  const HostTensor entering = random_tensor(DType::f32, {1, 2, dim, width}, 5);
  HostTensor steps = entering;
  cpu::state_step({.update = e1.view(), .state = steps.view(), .transition = one.view()});
  cpu::state_step({.update = e2.view(), .state = steps.view(), .transition = two.view()});
  // (T2, E2) after (T1, E1) = (T2 T1, T2 E1 + E2)
  HostTensor transition = one, update = e1, at_once = entering;
  cpu::state_step({.state = transition.view(), .transition = two.view()});
  cpu::state_step({.update = e2.view(), .state = update.view(), .transition = two.view()});
  cpu::state_step({.update = update.view(), .state = at_once.view(), .transition = transition.view()});
  EXPECT_LE(distance(at_once, steps).relative_rms, 1e-6);
}

TEST(State, AnIdentityLeavesTheBits) {
  constexpr std::int64_t dim = 70;
  HostTensor identity(DType::f32, {1, 1, dim, dim});
  for (std::int64_t i = 0; i < dim * dim; ++i) identity.set(i, i / dim == i % dim ? 1 : 0);
  const HostTensor before = random_tensor(DType::f32, {1, 1, dim, 65}, 1);
  HostTensor state = before;
  cpu::state_step({.state = state.view(), .transition = identity.view()});
  EXPECT_EQ(state.bytes, before.bytes);
}

TEST(State, NanShowsInItsColumnOrInEveryColumnOfItsRow) {
  constexpr std::int64_t dim = 20, width = 70;
  const HostTensor clean = random_tensor(DType::f32, {1, 1, dim, width}, 1);
  HostTensor state = clean, transition = random_tensor(DType::f32, {1, 1, dim, dim}, 2);
  state.set(3 * width + 66, std::nan(""));
  cpu::state_step({.state = state.view(), .transition = transition.view()});
  for (std::int64_t i = 0; i < state.size(); ++i) ASSERT_EQ(std::isnan(state.get(i)), i % width == 66) << i;
  state = clean;
  transition.set(3 * dim + 5, std::nan(""));
  cpu::state_step({.state = state.view(), .transition = transition.view()});
  for (std::int64_t i = 0; i < state.size(); ++i) ASSERT_EQ(std::isnan(state.get(i)), i / width == 3) << i;
}

TEST(State, ColumnsAreTakenAndPutBack) {
  constexpr std::int64_t dim = 5, width = 9;
  const HostTensor numbers = random_tensor(DType::f32, {2, 3, dim, width}, 1);
  for (const bool strided : {false, true}) {
    Box state(numbers, strided), into(DType::f32, 2, 3, dim, width, strided);
    into.storage.fill(-7);
    for (const auto& [first, count] : {std::pair<std::int64_t, std::int64_t>{0, 4}, {4, 1}, {5, 0}, {6, 3}}) {
      Box columns(DType::f32, 2, 3, dim, count, strided);
      cpu::take_columns(state.view(), columns.view(), first, 2);
      const HostTensor got = columns.dense();
      for (std::int64_t i = 0; i < got.size(); ++i) ASSERT_EQ(got.get(i), numbers.get(i / count * width + first + i % count));
      cpu::put_columns(columns.view(), into.view(), first, 2);
    }
    const HostTensor all = into.dense();
    for (std::int64_t i = 0; i < all.size(); ++i) ASSERT_EQ(all.get(i), i % width == 5 ? -7 : numbers.get(i)) << i;
  }
}

TEST(State, WhatDoesNotFitIsNamed) {
  Box state(DType::f32, 1, 2, 5, 9, false), columns(DType::f32, 1, 2, 5, 4, false), square(DType::f32, 1, 2, 5, 5, false);
  Box sums(DType::f32, 1, 2, 5, 1, false), wrong(DType::f32, 1, 2, 4, 4, false);
  const auto message = [](auto&& call) -> std::string {
    try {
      call();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::argument);
      return error.what();
    }
    return "nothing";
  };
  EXPECT_EQ(message([&] { cpu::take_columns(state.view(), columns.view(), 6, 1); }),
            "take_columns: columns [6, 10) of a state with 9, want them inside");
  EXPECT_EQ(message([&] { cpu::put_columns(columns.view(), state.view(), -1, 1); }),
            "put_columns: columns [-1, 3) of a state with 9, want them inside");
  EXPECT_EQ(message([&] { cpu::take_columns(state.view(), wrong.view(), 0, 1); }),
            "take_columns: state is (1, 2, 5, 9), want (1, 2, 4, 9)");
  EXPECT_EQ(message([&] { cpu::state_step({.state = state.view(), .transition = wrong.view()}); }),
            "state_step: transition is (1, 2, 4, 4), want (1, 2, 5, 5)");
  EXPECT_EQ(message([&] { cpu::state_step({.log_sum = sums.view(), .state = state.view(), .transition = square.view()}); }),
            "state_step: log_sum and transition are both given, want at most one");
}

}  // namespace
}  // namespace seqccl::test
