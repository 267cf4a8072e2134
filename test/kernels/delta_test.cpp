// delta_test.cpp - CPU kernels of the delta kinds against the double reference: shapes, types, splits, layouts, threads, equal keys.
// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <limits>

#include "linear_layer.hpp"

namespace seqccl::test {
namespace {

constexpr std::array<Decay, 3> delta_decays{Decay::none, Decay::scalar, Decay::vector};  // delta rule, gated delta, KDA
constexpr std::array<std::array<std::int64_t, 2>, 7> head_dims{{{8, 8}, {8, 24}, {24, 40}, {40, 24}, {33, 64}, {64, 64}, {16, 5}}};
constexpr std::array<DType, 3> dtypes{DType::f32, DType::f16, DType::bf16};

/// Solving for 64 tokens at once rounds in other places than one token after the other: the largest error may be three times as large
/// (seen: 1.7 with Dk far below 64, where keys are nearly dependent), the cap on the RMS error stays.
constexpr double slack = 3;

LinearInputs delta_inputs(const LinearShape& shape, Decay decay, DType dtype, std::uint64_t seed) {
  return linear_inputs(shape, decay, dtype, seed, DType::f32, Kind::delta);
}
void expect_right(const LinearInputs& in, const RunOptions& options = {}, const std::string& what = {}) {
  expect_close(kernel_results(in, options), reference_results(in), reference_results(in, true), describe(in) + what, slack);
}

TEST(Delta, EqualsTheReferenceForEveryDecayLengthAndHeadSize) {
  std::size_t turn = 0;
  for (const Decay decay : delta_decays)
    for (const std::int64_t tokens : {0, 1, 2, 5, 16, 17, 63, 64, 65, 130, 200})
      for (int repeat = 0; repeat < 3; ++repeat, ++turn) {
        const auto [key_dim, value_dim] = head_dims[turn % head_dims.size()];
        expect_right(
            delta_inputs({1 + static_cast<std::int64_t>(turn % 2), tokens, 2, key_dim, value_dim}, decay, dtypes[turn / 8 % 3], turn));
      }
}

// Summaries of two runs compose to the summary of the whole: states cross by E and T, gradients by G and the transpose of T.
TEST(Delta, ARunCutAtAnyTokenGivesTheWhole) {
  for (const Decay decay : delta_decays) {
    const LinearInputs in = delta_inputs({2, 70, 2, 5, 3}, decay, DType::f32, 200);
    const LinearResults want = reference_results(in), plain = reference_results(in, true);
    for (std::int64_t cut = 0; cut <= in.shape.tokens; cut += cut < 60 ? 7 : 1)
      expect_close(kernel_results(in, {.cuts = {cut}}), want, plain, fmt::format("{}, cut before {}", describe(in), cut), slack);
    expect_close(kernel_results(in, {.cuts = {3, 3, 20, 69}}), want, plain, describe(in) + ", five runs, one of them empty", slack);
  }
}

TEST(Delta, ALongRunKeepsFewStatesAndStaysRight) { expect_right(delta_inputs({1, 64 * 131 + 7, 1, 3, 2}, Decay::vector, DType::f32, 300)); }

TEST(Delta, AnyStridesAndAnyNumberOfThreadsGiveTheSameBits) {
  for (const Decay decay : delta_decays)
    for (const DType dtype : dtypes) {
      const LinearInputs in = delta_inputs({2, 137, 3, 9, 7}, decay, dtype, 400);
      const LinearResults want = kernel_results(in);
      expect_same_bits(kernel_results(in, {.strided = true}), want, describe(in));
      expect_same_bits(kernel_results(in, {.num_threads = 3}), want, describe(in));
    }
}

// Products of powers of the chunk's matrix would be wrong by many orders of magnitude here; substitution is not.
TEST(Delta, EqualKeysAndABetaNearTwo) {
  for (const Decay decay : delta_decays)
    for (const float beta : {0.5F, 1.0F, 1.9F}) {
      LinearInputs in = delta_inputs({1, 128, 1, 16, 16}, decay, DType::f32, 500);
      for (std::int64_t t = 1; t < 128; ++t)
        for (std::int64_t d = 0; d < 16; ++d) in.k.set(t * 16 + d, in.k.get(d));
      in.beta.fill(beta);
      expect_right(in, {}, fmt::format(", beta {}", beta));
    }
}

TEST(Delta, BetaOfZeroIsADecayAlone) {
  for (const Decay decay : delta_decays) {
    LinearInputs in = delta_inputs({1, 90, 2, 8, 8}, decay, DType::f32, 600);
    in.beta.fill(0);
    expect_right(in);
  }
}

// log_decay = -inf forgets everything, exactly; strong bursts beside weak decays lose nothing.
TEST(Delta, DecaysOfEveryStrength) {
  for (const Decay decay : {Decay::scalar, Decay::vector})
    for (const double strength : {0.0, -0.01, -5.0, -20.0, -88.0, -std::numeric_limits<double>::infinity()}) {
      LinearInputs in = delta_inputs({1, 150, 1, 12, 10}, decay, DType::f32, 700);
      for (std::int64_t i = 0; i < in.log_decay.size(); ++i) in.log_decay.set(i, i % 5 == 3 ? strength : -1e-3);
      const LinearResults got = kernel_results(in), want = reference_results(in);
      for (std::int64_t i = 0; i < got.out.size(); ++i) ASSERT_FALSE(std::isnan(got.out.get(i))) << strength;
      const auto close = [&](const HostTensor& a, const HostTensor& b, const char* name) {
        double largest = 0, error = 0;
        for (std::int64_t i = 0; i < a.size(); ++i) {
          largest = std::max(largest, std::abs(b.get(i)));
          error = std::max(error, std::abs(a.get(i) - b.get(i)));
        }
        EXPECT_LE(error, 2e-5 * std::max(1.0, largest)) << name << ", decay " << strength;
      };
      close(got.out, want.out, "out");
      close(got.dq, want.dq, "dq");
      close(got.dk, want.dk, "dk");
      close(got.dv, want.dv, "dv");
      close(got.dbeta, want.dbeta, "dbeta");
      close(got.dlog_decay, want.dlog_decay, "dlog_decay");
      close(got.dstate_in, want.dstate_in, "dstate_in");
    }
}

}  // namespace
}  // namespace seqccl::test
