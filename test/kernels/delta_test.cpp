// delta_test.cpp - CPU kernels of the delta kinds against the double reference: shapes, types, runs, layouts, threads, keys, NaN.
// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <utility>
#include <vector>

#include "delta_problem.hpp"
#include "seqccl/error.hpp"

namespace seqccl::test {
namespace {

constexpr std::array<std::array<std::int64_t, 2>, 7> head_dims{{{24, 40}, {40, 24}, {8, 1}, {33, 64}, {64, 33}, {64, 64}, {7, 5}}};
constexpr std::array<DType, 3> dtypes{DType::f32, DType::f16, DType::bf16};

TEST(Delta, EqualsTheReferenceForEveryDecayLengthAndHeadSize) {
  std::size_t turn = 0;
  for (const Decay decay : delta_decays) {
    for (const std::int64_t tokens : {0, 1, 2, 5, 16, 17, 63, 64, 65, 130, 200}) {
      for (int repeat = 0; repeat < 3; ++repeat, ++turn) {
        const auto [key_dim, value_dim] = head_dims[turn % head_dims.size()];
        const LinearInputs in = delta_inputs({1 + static_cast<std::int64_t>(turn % 2), tokens, 2, key_dim, value_dim}, decay,
                                             dtypes[turn / head_dims.size() % 3], turn);
        expect_delta_close(kernel_results(in), in);
      }
    }
  }
}

TEST(Delta, EqualsTheReferenceInEveryType) {
  for (const Decay decay : delta_decays) {
    for (const DType dtype : dtypes) {
      const LinearInputs in = delta_inputs({1, 130, 1, 40, 64}, decay, dtype, 100);
      expect_delta_close(kernel_results(in), in);
    }
  }
}

// Summaries of runs compose to that of the whole: states cross by E and T, gradients by G and the transpose of T.
TEST(Delta, ARunCutAtAnyTokenGivesTheWhole) {
  for (const Decay decay : delta_decays) {
    const LinearInputs in = delta_inputs({2, 70, 2, 5, 3}, decay, DType::f32, 200);
    for (std::int64_t cut = 0; cut <= in.shape.tokens; cut += cut < 60 ? 7 : 1)
      expect_delta_close(kernel_results(in, {.cuts = {cut}}), in, fmt::format(", cut before {}", cut));
    expect_delta_close(kernel_results(in, {.cuts = {3, 3, 20, 69}}), in, ", five runs, one of them empty");
  }
}

TEST(Delta, ALongRunKeepsFewStatesAndStaysRight) {  // three groups of chunks
  const LinearInputs in = delta_inputs({1, 64 * 131 + 7, 1, 3, 2}, Decay::vector, DType::f32, 300);
  expect_delta_close(kernel_results(in), in);
}

TEST(Delta, StridesThreadsAndUsedScratchDoNotChangeABit) {
  for (const Decay decay : delta_decays) {
    for (const DType dtype : dtypes) {
      const LinearInputs in = delta_inputs({2, 137, 3, 9, 7}, decay, dtype, 400);
      const LinearResults want = kernel_results(in);
      expect_same_bits(kernel_results(in, {.strided = true}), want, describe(in) + ", strided");
      for (const int num_threads : {2, 3, 8})
        expect_same_bits(kernel_results(in, {.num_threads = num_threads}), want, fmt::format("{}, {} threads", describe(in), num_threads));
      LinearInputs dirt = delta_inputs({1, 150, 1, 40, 40}, Decay::vector, DType::f32, 401);
      for (HostTensor* tensor : {&dirt.q, &dirt.k, &dirt.v, &dirt.dout, &dirt.log_decay, &dirt.beta}) tensor->fill(std::nan(""));
      kernel_results(dirt);
      expect_same_bits(kernel_results(in), want, describe(in) + ", used scratch");
    }
  }
}

// Products of powers of the chunk's matrix would be wrong by many orders of magnitude here; substitution is not.
TEST(Delta, SixtyFourEqualKeys) {
  for (const Decay decay : delta_decays) {
    for (const double beta : {0.0, 0.5, 1.0, 1.9}) {
      for (const std::int64_t dim : {16, 64}) {
        LinearInputs in = delta_inputs({2, 128, 1, dim, dim}, decay, DType::f32, 500);
        repeat_first_key(in);
        in.beta.fill(beta);
        expect_delta_close(kernel_results(in), in, fmt::format(", beta {}", beta), 16);
      }
    }
  }
}

// beta |k|^2 = 2 reflects: no state shrinks, and nothing is forgotten. Keys of one number are all parallel.
TEST(Delta, TheLargestBeta) {
  for (const Decay decay : delta_decays) {
    LinearInputs in = delta_inputs({1, 200, 2, 24, 16}, decay, DType::f32, 550);
    in.beta.fill(2);
    expect_delta_close(kernel_results(in), in, ", beta 2", 16);
    const LinearInputs parallel = delta_inputs({1, 130, 2, 1, 8}, decay, DType::f32, 551);
    expect_delta_close(kernel_results(parallel), parallel, "", 16);
  }
}

/// One batch and head; log_decay (T, W), W = 0, 1 or Dk.
struct OneHead {
  explicit OneHead(LinearInputs& in) : tokens(in.shape.tokens), key_dim(in.shape.key_dim), q(in.q, false), k(in.k, false), v(in.v, false) {
    HostTensor betas = in.beta, logs = in.log_decay;
    betas.geometry = contiguous({1, tokens, 1, 1});
    beta = Box(betas, false);
    if (in.decay == Decay::none) return;
    width = in.decay == Decay::vector ? key_dim : 1;
    logs.geometry = contiguous({1, tokens, 1, width});
    log_decay = Box(logs, false);
  }
  [[nodiscard]] TensorView decay_view() { return width == 0 ? TensorView{} : log_decay.view(); }
  std::int64_t tokens, key_dim, width = 0;
  Box q, k, v, beta, log_decay;
};

TEST(Delta, TransitionIsTheProductOfTheTokensAndItsTranspose) {
  constexpr std::int64_t dim = 12, value_dim = 5, tokens = 100;
  for (const Decay decay : delta_decays) {
    LinearInputs in = delta_inputs({1, tokens, 1, dim, value_dim}, decay, DType::f32, 600);
    OneHead head(in);
    std::vector<double> want(dim * dim, 0.0);  // (I - beta k k^T) diag(alpha) ... to I
    for (std::int64_t d = 0; d < dim; ++d) want[static_cast<std::size_t>(d * dim + d)] = 1;
    for (std::int64_t t = 0; t < tokens; ++t) {
      for (std::int64_t column = 0; column < dim; ++column) {
        double along = 0;
        for (std::int64_t d = 0; d < dim; ++d) {
          double& one = want[static_cast<std::size_t>(d * dim + column)];
          if (head.width > 0) one *= std::exp(in.log_decay.get(t * head.width + (head.width == 1 ? 0 : d)));
          along += in.k.get(t * dim + d) * one;
        }
        for (std::int64_t d = 0; d < dim; ++d)
          want[static_cast<std::size_t>(d * dim + column)] -= in.beta.get(t) * in.k.get(t * dim + d) * along;
      }
    }
    Box state(DType::f32, 1, 1, dim, value_dim, false), alone = state, gradient = state;
    Box forward(DType::f32, 1, 1, dim, dim, false), backward = forward;
    cpu::linear_summary({.k = head.k.view(),
                         .v = head.v.view(),
                         .log_decay = head.decay_view(),
                         .state = state.view(),
                         .beta = head.beta.view(),
                         .transition = forward.view()});
    cpu::linear_summary(
        {.k = head.k.view(), .v = head.v.view(), .log_decay = head.decay_view(), .state = alone.view(), .beta = head.beta.view()});
    EXPECT_EQ(state.storage.bytes, alone.storage.bytes) << "a transition beside it changes the state";
    cpu::linear_summary_backward({.q = head.q.view(),
                                  .dout = head.v.view(),
                                  .log_decay = head.decay_view(),
                                  .dstate = gradient.view(),
                                  .k = head.k.view(),
                                  .beta = head.beta.view(),
                                  .transition = backward.view()});
    double largest = 0;
    for (const double one : want) largest = std::max(largest, std::abs(one));
    EXPECT_GT(largest, 1e-6);  // something is left of the identity
    for (std::int64_t row = 0; row < dim; ++row) {
      for (std::int64_t column = 0; column < dim; ++column) {
        EXPECT_NEAR(forward.storage.get(row * dim + column), want[static_cast<std::size_t>(row * dim + column)], 1e-6) << name(decay);
        EXPECT_NEAR(backward.storage.get(column * dim + row), want[static_cast<std::size_t>(row * dim + column)], 1e-6) << name(decay);
      }
    }
  }
}

TEST(Delta, WhatIsAbsentIsZeroOrNotWritten) {
  for (const Decay decay : delta_decays) {
    LinearInputs in = delta_inputs({1, 70, 1, 8, 5}, decay, DType::f32, 700);
    in.state.fill(0);
    in.dleaving.fill(0);
    const LinearResults want = kernel_results(in);
    OneHead head(in);
    LinearResults got = want;
    for (HostTensor* tensor : {&got.out, &got.dq, &got.dk, &got.dv}) tensor->fill(7);
    const auto scale = static_cast<float>(in.scale);
    cpu::linear_local({.q = head.q.view(),
                       .k = head.k.view(),
                       .v = head.v.view(),
                       .log_decay = head.decay_view(),
                       .out = got.out.view(),
                       .scale = scale,
                       .beta = head.beta.view()});
    cpu::linear_backward({.q = head.q.view(),
                          .k = head.k.view(),
                          .v = head.v.view(),
                          .log_decay = head.decay_view(),
                          .dout = in.dout.view(),
                          .dq = got.dq.view(),
                          .dk = got.dk.view(),
                          .dv = got.dv.view(),
                          .scale = scale,
                          .beta = head.beta.view()});
    expect_same_bits(got, want, describe(in));
  }
}

TEST(Delta, AConstantDecayIsAScalarGateAndItsSharesAreAdded) {
  const LinearInputs in = linear_inputs({2, 130, 2, 24, 16}, Decay::constant, DType::f32, 800, DType::f32, Kind::delta);
  expect_delta_close(kernel_results(in), in);
  expect_delta_close(kernel_results(in, {.cuts = {10, 90}}), in, ", three runs");
}

TEST(Delta, NoTokensChangeNothing) {
  Box empty(DType::f32, 1, 0, 2, 4, false), one(DType::f32, 1, 0, 2, 1, false);
  Box state(DType::f32, 1, 2, 4, 4, false), transition = state;
  const auto expect_identity = [&] {
    for (std::int64_t i = 0; i < 32; ++i) {
      EXPECT_EQ(state.storage.get(i), 0);
      EXPECT_EQ(transition.storage.get(i), i % 16 % 5 == 0 ? 1 : 0);
    }
  };
  cpu::linear_summary({.k = empty.view(), .v = empty.view(), .state = state.view(), .beta = one.view(), .transition = transition.view()});
  expect_identity();
  state.storage.fill(3), transition.storage.fill(3);
  cpu::linear_summary_backward({.q = empty.view(),
                                .dout = empty.view(),
                                .dstate = state.view(),
                                .k = empty.view(),
                                .beta = one.view(),
                                .transition = transition.view()});
  expect_identity();
}

TEST(Delta, NanShowsInEveryTokenThatSeesItAndInNoFarEarlierOne) {
  constexpr std::int64_t tokens = 100, at = 40, dim = 4;
  for (const Decay decay : delta_decays) {
    for (const char which : {'q', 'k', 'v', 'b', 's'}) {
      LinearInputs in = delta_inputs({1, tokens, 1, dim, dim}, decay, DType::f32, 900);
      HostTensor& tensor = which == 'q' ? in.q : which == 'k' ? in.k : which == 'v' ? in.v : which == 'b' ? in.beta : in.state;
      tensor.set(which == 's' ? 0 : which == 'b' ? at : at * dim, std::nan(""));
      const LinearResults r = kernel_results(in);
      for (std::int64_t t = 0; t < tokens; ++t) {
        bool nan = false;
        for (std::int64_t d = 0; d < dim; ++d) nan = nan || std::isnan(r.out.get(t * dim + d));
        const bool sees = which == 's' || (which == 'q' ? t == at : t >= at);
        if (!sees && which != 'q' && t > at - 16) continue;  // the same block of 16
        EXPECT_EQ(nan, sees) << which << ' ' << name(decay) << " token " << t;
      }
    }
  }
}

TEST(Delta, WrongArgumentsAreNamed) {
  Box x(DType::f32, 1, 4, 2, 8, false), one(DType::f32, 1, 4, 2, 1, false), wide(DType::f32, 1, 4, 2, 2, false);
  Box state(DType::f32, 1, 2, 8, 8, false), sum(DType::f32, 1, 2, 1, 1, false), wrong(DType::f32, 1, 2, 8, 7, false);
  const auto message = [](auto&& call) -> std::string {
    try {
      call();
    } catch (const Error& error) {
      return error.kind() == ErrorKind::argument ? error.what() : "another kind";
    }
    return "nothing";
  };
  EXPECT_EQ(message([&] { cpu::linear_summary({.k = x.view(), .v = x.view(), .state = state.view(), .beta = wide.view()}); }),
            "linear_summary: beta is (1, 4, 2, 2), want (1, 4, 2, 1)");
  EXPECT_EQ(message([&] {
              cpu::linear_summary({.k = x.view(), .v = x.view(), .state = state.view(), .beta = one.view(), .transition = wrong.view()});
            }),
            "linear_summary: transition is (1, 2, 8, 7), want (1, 2, 8, 8)");
  EXPECT_EQ(message([&] {
              cpu::linear_summary({.k = x.view(), .v = x.view(), .state = state.view(), .log_sum = sum.view(), .beta = one.view()});
            }),
            "linear_summary: log_sum is given with beta, want transition");
  EXPECT_EQ(message([&] {
              cpu::linear_summary_backward(
                  {.q = x.view(), .dout = x.view(), .dstate = state.view(), .before = true, .k = x.view(), .beta = one.view()});
            }),
            "linear_summary_backward: before is true with beta, want false: no delta kind has a bonus");
  EXPECT_EQ(
      message([&] {
        cpu::linear_local({.q = x.view(), .k = x.view(), .v = x.view(), .log_decay = wide.view(), .out = x.view(), .beta = one.view()});
      }),
      "linear_local: log_decay is (1, 4, 2, 2), want (1, 4, 2, 8)");
  EXPECT_EQ(message([&] {
              cpu::linear_backward({.q = x.view(),
                                    .k = x.view(),
                                    .v = x.view(),
                                    .dout = x.view(),
                                    .dq = x.view(),
                                    .dk = x.view(),
                                    .dv = x.view(),
                                    .dlog_decay = one.view(),
                                    .beta = one.view()});
            }),
            "linear_backward: dlog_decay is given and log_decay is not, want both");
}

}  // namespace
}  // namespace seqccl::test
