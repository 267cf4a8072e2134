// linear_test.cpp - CPU kernels of linear attention against the double reference: shapes, types, splits, layouts, threads, NaN.
// SPDX-License-Identifier: Apache-2.0
#include <array>

#include "linear_layer.hpp"
#include "seqccl/error.hpp"

namespace seqccl::test {
namespace {

constexpr std::array<std::array<std::int64_t, 2>, 8> head_dims{{{1, 8}, {8, 1}, {8, 33}, {33, 8}, {33, 64}, {64, 33}, {64, 64}, {1, 1}}};
constexpr std::array<DType, 3> dtypes{DType::f32, DType::f16, DType::bf16};
constexpr std::array<Kind, 2> diagonal_kinds{Kind::plain, Kind::bonus};  // the delta kinds have tests of their own

TEST(Linear, EqualsTheReferenceForEveryDecayLengthAndHeadSize) {
  std::size_t turn = 0;
  for (const Kind kind : diagonal_kinds) {
    for (const Decay decay : all_decays) {
      for (const std::int64_t tokens : {0, 1, 2, 5, 16, 63, 64, 65, 130, 200}) {
        for (int repeat = 0; repeat < 3; ++repeat, ++turn) {
          const auto [key_dim, value_dim] = head_dims[turn % head_dims.size()];
          const LinearShape shape{1 + static_cast<std::int64_t>(turn % 2), tokens, 2, key_dim, value_dim};
          const LinearInputs in = linear_inputs(shape, decay, dtypes[turn / 8 % 3], turn, DType::f32, kind);
          expect_close(kernel_results(in, {.local_has_state = turn % 3 == 0}), reference_results(in), reference_results(in, true),
                       describe(in));
        }
      }
    }
  }
}

TEST(Linear, EqualsTheReferenceInEveryType) {
  for (const Kind kind : diagonal_kinds) {
    for (const Decay decay : all_decays) {
      for (const DType dtype : dtypes) {
        const LinearInputs in = linear_inputs({1, 130, 1, 40, 64}, decay, dtype, 100, DType::f32, kind);
        const LinearResults want = reference_results(in), plain = reference_results(in, true);
        expect_close(kernel_results(in), want, plain, describe(in));
        expect_close(kernel_results(in, {.local_has_state = true}), want, plain, describe(in) + ", local is given the state");
      }
    }
  }
}

TEST(Linear, ARunCutAtAnyTokenGivesTheWhole) {
  for (const Kind kind : diagonal_kinds) {
    for (const Decay decay : all_decays) {
      const LinearInputs in = linear_inputs({2, 70, 2, 5, 3}, decay, DType::f32, 200, DType::f32, kind);
      const LinearResults want = reference_results(in), plain = reference_results(in, true);
      for (std::int64_t cut = 0; cut <= in.shape.tokens; ++cut) {
        expect_close(kernel_results(in, {.cuts = {cut}, .local_has_state = cut % 2 == 0}), want, plain,
                     fmt::format("{}, cut before {}", describe(in), cut));
      }
      expect_close(kernel_results(in, {.cuts = {3, 3, 20, 69}}), want, plain, describe(in) + ", five runs, one of them empty");
      // runs of one token of one batch, which look like one number per head
      const LinearInputs one = linear_inputs({1, 5, 2, 5, 3}, decay, DType::f32, 201, DType::f32, kind);
      expect_close(kernel_results(one, {.cuts = {1, 2, 3, 4}}), reference_results(one), reference_results(one, true),
                   describe(one) + ", token by token");
    }
  }
}

TEST(Linear, ALongRunKeepsFewStatesAndStaysRight) {
  for (const Kind kind : diagonal_kinds) {  // three groups of chunks
    const LinearInputs in = linear_inputs({1, 64 * 131 + 7, 1, 3, 2}, Decay::vector, DType::f32, 300, DType::f32, kind);
    expect_close(kernel_results(in), reference_results(in), reference_results(in, true), describe(in));
  }
}

TEST(Linear, AbsentStatesAreZero) {
  for (const Decay decay : all_decays) {
    LinearInputs in = linear_inputs({1, 70, 2, 8, 5}, decay, DType::f32, 350);
    in.state.fill(0);
    in.dleaving.fill(0);
    const LinearResults want = kernel_results(in);
    LinearResults got = want;
    for (HostTensor* tensor : {&got.dq, &got.dk, &got.dv}) tensor->fill(7);
    TensorView log_decay;
    if (decay == Decay::scalar || decay == Decay::vector) {
      log_decay = in.log_decay.view();
      log_decay.geometry = contiguous({1, 70, 2, decay == Decay::vector ? 8 : 1});
    } else if (decay == Decay::constant) {
      log_decay = in.log_decay.view();
      log_decay.geometry = contiguous({1, 70, 2, 1});
      log_decay.geometry.strides = {0, 0, 1, 1};
    }
    cpu::linear_backward({in.q.view(),
                          in.k.view(),
                          in.v.view(),
                          log_decay,
                          in.dout.view(),
                          {},
                          {},
                          got.dq.view(),
                          got.dk.view(),
                          got.dv.view(),
                          {},
                          static_cast<float>(in.scale),
                          false,
                          1});
    expect_same_bits(got, want, describe(in));
  }
}

TEST(Linear, AnyStridesGiveTheSameBits) {
  for (const Kind kind : diagonal_kinds) {
    for (const Decay decay : all_decays) {
      for (const DType dtype : dtypes) {
        const LinearInputs in = linear_inputs({2, 37, 3, 9, 7}, decay, dtype, 400, DType::f32, kind);
        expect_same_bits(kernel_results(in, {.strided = true}), kernel_results(in), describe(in));
      }
    }
  }
}

TEST(Linear, AnyNumberOfThreadsAndUsedScratchGiveTheSameBits) {
  for (const Kind kind : diagonal_kinds) {
    for (const Decay decay : all_decays) {
      const LinearInputs in = linear_inputs({2, 100, 3, 16, 8}, decay, DType::f32, 500, DType::f32, kind);
      const LinearResults want = kernel_results(in);
      expect_same_bits(kernel_results(in, {.num_threads = 3}), want, describe(in) + ", three threads");
      LinearInputs dirt = linear_inputs({1, 150, 1, 40, 40}, Decay::vector, DType::f32, 501, DType::f32, kind);
      for (HostTensor* tensor : {&dirt.q, &dirt.k, &dirt.v, &dirt.dout, &dirt.log_decay}) tensor->fill(std::nan(""));
      kernel_results(dirt);
      expect_same_bits(kernel_results(in), want, describe(in) + ", used scratch");
      expect_same_bits(reference_results(in, false, 3), reference_results(in), describe(in) + ", reference, three threads");
    }
  }
}

void expect_nan_where_seen(Kind kind, Decay decay) {
  constexpr std::int64_t tokens = 100, at = 40, dim = 4;
  const bool before = kind == Kind::bonus;  // a token reads the state that the one before it left
  for (const char which : {'q', 'k', 'v', 'g', 's'}) {
    if (which == 'g' && decay != Decay::vector) continue;
    LinearInputs in = linear_inputs({1, tokens, 1, dim, dim}, decay, DType::f32, 600, DType::f32, kind);
    HostTensor& tensor = which == 'q' ? in.q : which == 'k' ? in.k : which == 'v' ? in.v : which == 'g' ? in.log_decay : in.state;
    const bool state = which == 's';
    tensor.set(state ? 0 : at * dim, std::nan(""));
    const LinearResults r = kernel_results(in);
    for (std::int64_t t = 0; t < tokens; ++t) {
      bool nan = false;
      for (std::int64_t d = 0; d < dim; ++d) nan = nan || std::isnan(r.out.get(t * dim + d));
      const bool sees = state || (which == 'q' ? t == at : t >= at + (which == 'g' && before ? 1 : 0));
      if (!sees && t > at - 16 && which != 'q') continue;
      EXPECT_EQ(nan, sees) << which << ' ' << name(kind) << ' ' << name(decay) << " token " << t;
    }
    EXPECT_EQ(std::isnan(distance(r.state_out, r.state_out).max), which != 'q') << which << ' ' << name(decay);
  }
  LinearInputs in = linear_inputs({1, tokens, 1, dim, dim}, decay, DType::f32, 601, DType::f32, kind);
  in.dout.set(at * dim, std::nan(""));
  const LinearResults r = kernel_results(in);
  EXPECT_TRUE(std::isnan(r.dq.get(at * dim)) && std::isnan(r.dk.get(0)) && std::isnan(r.dstate_in.get(0))) << name(decay);
  if (before) {
    EXPECT_TRUE(std::isnan(r.dbonus.get(0)));
  }
  EXPECT_FALSE(std::isnan(r.dk.get(99 * dim)));
}

TEST(Linear, NanShowsInEveryTokenThatSeesItAndInNoFarEarlierOne) {
  for (const Kind kind : diagonal_kinds) {
    for (const Decay decay : all_decays) expect_nan_where_seen(kind, decay);
  }
}

TEST(Linear, NoTokensChangeNothing) {
  Box empty(DType::f32, 1, 0, 2, 4, false), gate(DType::f32, 1, 0, 2, 1, false);
  Box state(DType::f32, 1, 2, 4, 4, false), log_sum(DType::f32, 1, 2, 1, 1, false), dconstant(DType::f32, 1, 1, 2, 1, false);
  cpu::linear_summary({empty.view(), empty.view(), gate.view(), state.view(), log_sum.view()});
  for (std::int64_t i = 0; i < state.storage.size(); ++i) EXPECT_EQ(state.storage.get(i), 0);
  for (std::int64_t i = 0; i < log_sum.storage.size(); ++i) EXPECT_EQ(log_sum.storage.get(i), 0);
  LinearBackwardArguments backward{.q = empty.view(),
                                   .k = empty.view(),
                                   .v = empty.view(),
                                   .log_decay = gate.view(),
                                   .dout = empty.view(),
                                   .state = state.view(),
                                   .dleaving = state.view(),
                                   .dq = empty.view(),
                                   .dk = empty.view(),
                                   .dv = empty.view(),
                                   .dlog_decay = dconstant.view()};
  cpu::linear_backward(backward);
  EXPECT_EQ(dconstant.storage.get(1), 0);
  dconstant.storage.fill(3);
  backward.add_constant = true;
  cpu::linear_backward(backward);
  EXPECT_EQ(dconstant.storage.get(1), 3);
}

TEST(Linear, EveryHalfPrecisionNumberIsReadExactly) {
  // one token with q = k = 1: the output is v
  for (const DType dtype : {DType::f16, DType::bf16}) {
    constexpr std::int64_t num_values = 65536;
    Box one(dtype, 1, 1, 1, 1, false), v(dtype, 1, 1, 1, num_values, false), out(DType::f32, 1, 1, 1, num_values, false);
    one.storage.set(0, 1);
    for (std::uint32_t bits = 0; bits < num_values; ++bits) {
      const auto word = static_cast<std::uint16_t>(bits);
      std::memcpy(v.storage.bytes.data() + 2 * bits, &word, sizeof word);
    }
    cpu::linear_local({one.view(), one.view(), v.view(), {}, out.view()});
    for (std::int64_t i = 0; i < num_values; ++i) {
      const double got = out.storage.get(i), want = v.storage.get(i);
      ASSERT_TRUE(got == want || (std::isnan(got) && std::isnan(want))) << seqccl::name(dtype) << " bits " << i << ": " << got;
    }
  }
}

TEST(Linear, AWrongShapeIsNamed) {
  Box k(DType::f32, 1, 4, 2, 8, false), v(DType::f32, 1, 4, 2, 8, false), state(DType::f32, 1, 2, 7, 8, false);
  try {
    cpu::linear_summary({k.view(), v.view(), {}, state.view(), {}});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::argument);
    EXPECT_STREQ(error.what(), "linear_summary: state is (1, 2, 7, 8), want (1, 2, 8, 8)");
  }
}

TEST(Linear, SharesOfABonusAreAddedOverRuns) {
  const LinearInputs in = linear_inputs({2, 70, 2, 5, 3}, Decay::constant, DType::f32, 700, DType::f32, Kind::bonus);
  const LinearResults whole = kernel_results(in), parts = kernel_results(in, {.cuts = {10, 40}});
  EXPECT_LE(distance(parts.dbonus, whole.dbonus).relative_rms, 1e-6);
  EXPECT_LE(distance(parts.dlog_decay, whole.dlog_decay).relative_rms, 1e-5);
}

TEST(Linear, ATransposedStateIsReadByValues) {
  // out_t += scale S q_t with S (Dv, Dk): rows of k from rows of v, as the bidirectional backward wants them
  for (const bool strided : {false, true}) {
    constexpr std::int64_t batch = 2, tokens = 70, heads = 3, key_dim = 9, value_dim = 7;
    const HostTensor rows = random_tensor(DType::bf16, {batch, tokens, heads, value_dim}, 1);
    const HostTensor states = random_tensor(DType::f32, {batch, heads, key_dim, value_dim}, 2);
    Box v(rows, strided), state(states, strided), out(DType::f32, batch, tokens, heads, key_dim, strided);
    out.storage.fill(1);
    cpu::linear_enter({.q = v.view(), .state = state.view(), .out = out.view(), .scale = 0.5f, .num_threads = 2, .transposed = true});
    const HostTensor got = out.dense();
    for (std::int64_t i = 0; i < got.size(); ++i) {
      const std::int64_t d = i % key_dim, row = i / key_dim, state_at = row / heads / tokens * heads + row % heads;
      double want = 1;
      for (std::int64_t e = 0; e < value_dim; ++e)
        want += 0.5 * rows.get(row * value_dim + e) * states.get((state_at * key_dim + d) * value_dim + e);
      ASSERT_NEAR(got.get(i), want, 1e-5);
    }
  }
}

TEST(Linear, KindsThatDoNotGoTogetherAreRefused) {
  Box x(DType::f32, 1, 4, 2, 8, false), one(DType::f32, 1, 4, 2, 1, false), state(DType::f32, 1, 2, 8, 8, false);
  const auto message = [](auto&& call) -> std::string {
    try {
      call();
    } catch (const Error& error) {
      return error.what();
    }
    return "nothing";
  };
  EXPECT_EQ(message([&] {
              cpu::linear_local({.q = x.view(), .k = x.view(), .v = x.view(), .out = x.view(), .beta = one.view(), .bonus = x.view()});
            }),
            "linear_local: beta and bonus are both given, want one kind: delta or RWKV6");
  EXPECT_EQ(message([&] { cpu::linear_local({.q = x.view(), .k = x.view(), .v = x.view(), .out = x.view(), .bonus = x.view()}); }),
            "linear_local: bonus has strides 64 and 16 over batch and tokens, want 0: it is one per head");
  EXPECT_EQ(message([&] {
              cpu::linear_enter({.q = x.view(), .log_decay = one.view(), .state = state.view(), .out = x.view(), .transposed = true});
            }),
            "linear_enter: log_decay is given and transposed is true, want one of them");
  EXPECT_EQ(message([&] {
              cpu::linear_backward({.q = x.view(),
                                    .k = x.view(),
                                    .v = x.view(),
                                    .dout = x.view(),
                                    .dq = x.view(),
                                    .dk = x.view(),
                                    .dv = x.view(),
                                    .dlog_decay = one.view()});
            }),
            "linear_backward: dlog_decay is given and log_decay is not, want both");
}

}  // namespace
}  // namespace seqccl::test
