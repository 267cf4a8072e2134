// delta_decay_test.cpp - gated delta and KDA from no decay to total decay: every row keeps its precision, and alpha = 0 is exact.
// SPDX-License-Identifier: Apache-2.0
#include <functional>
#include <limits>
#include <random>
#include <vector>

#include "delta_problem.hpp"

namespace seqccl::test {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

struct Pattern {
  const char* name;
  std::function<double(std::int64_t token, double uniform)> log_decay;
};
const Pattern patterns[] = {
    {"0", [](std::int64_t, double) { return 0.0; }},
    {"-0.01", [](std::int64_t, double u) { return -0.02 * u; }},
    {"-1", [](std::int64_t, double u) { return -2 * u; }},
    {"-5", [](std::int64_t, double u) { return -10 * u; }},
    {"-20", [](std::int64_t, double u) { return -40 * u; }},
    {"20 % of -60, rest -1e-3", [](std::int64_t, double u) { return u < 0.2 ? -60 : -1e-3; }},
    {"16 tokens of -88, then -1e-3", [](std::int64_t t, double) { return t % 48 < 16 ? -88 : -1e-3; }},
    {"20 % of -inf, rest -0.1", [](std::int64_t, double u) { return u < 0.2 ? -infinity : -0.1; }},
    {"-inf at one token, rest -1e-3", [](std::int64_t t, double) { return t == 70 ? -infinity : -1e-3; }},
    {"all -inf", [](std::int64_t, double) { return -infinity; }},
};

TEST(DeltaDecay, EveryRowKeepsItsPrecision) {
  for (const Decay decay : {Decay::scalar, Decay::vector}) {
    const LinearResults mild = reference_results(delta_inputs({1, 130, 2, 24, 16}, decay, DType::f32, 9));
    const double largest = distance(mild.dlog_decay, mild.dlog_decay).reference_max;
    for (const Pattern& pattern : patterns) {
      LinearInputs in = delta_inputs({1, 130, 2, 24, 16}, decay, DType::f32, 10);
      std::mt19937_64 generator(10);
      std::uniform_real_distribution<double> uniform(0, 1);
      for (std::int64_t i = 0; i < in.log_decay.size(); ++i)
        in.log_decay.set(i, pattern.log_decay(i / (in.log_decay.size() / in.shape.tokens), uniform(generator)));
      const LinearResults want = reference_results(in);
      for (const std::vector<std::int64_t>& cuts : {std::vector<std::int64_t>{}, {50, 71}}) {
        const LinearResults got = kernel_results(in, {.cuts = cuts});
        const std::string what = fmt::format("{} gate, {}, {} runs", name(decay), pattern.name, cuts.size() + 1);
        EXPECT_LE(largest_row_error(got.out, want.out), 1e-5) << what;
        EXPECT_LE(largest_row_error(got.dq, want.dq), 1e-5) << what;
        EXPECT_LE(largest_row_error(got.dk, want.dk), 1e-5) << what;
        EXPECT_LE(largest_row_error(got.dv, want.dv), 1e-5) << what;
        EXPECT_LE(largest_row_error(got.state_out, want.state_out), 1e-5) << what;
        EXPECT_LE(largest_row_error(got.dstate_in, want.dstate_in), 1e-5) << what;
        EXPECT_LE(distance(got.dbeta, want.dbeta).max, 3e-6 * distance(want.dbeta, want.dbeta).reference_max) << what;
        EXPECT_LE(distance(got.dlog_decay, want.dlog_decay).max, 1e-5 * largest) << what;
      }
    }
  }
}

TEST(DeltaDecay, ATotalDecayCutsTheRun) {
  constexpr std::int64_t cut = 70, tokens = 130, dim = 8;
  for (const Decay decay : {Decay::scalar, Decay::vector}) {
    LinearInputs in = delta_inputs({1, tokens, 1, dim, dim}, decay, DType::f32, 30);
    const std::int64_t width = decay == Decay::vector ? dim : 1;
    for (std::int64_t d = 0; d < width; ++d) in.log_decay.set(cut * width + d, -infinity);
    // what was before the cut must not matter behind it, to the last bit
    LinearInputs other = in;
    const LinearInputs fresh = delta_inputs({1, tokens, 1, dim, dim}, decay, DType::f32, 31);
    for (std::int64_t i = 0; i < cut * dim; ++i) other.k.set(i, fresh.k.get(i)), other.v.set(i, -1000);
    other.state.fill(1e30);
    const LinearResults a = kernel_results(in), b = kernel_results(other);
    for (std::int64_t i = cut * dim; i < tokens * dim; ++i) ASSERT_EQ(a.out.get(i), b.out.get(i)) << name(decay) << ' ' << i / dim;
    EXPECT_EQ(a.state_out.bytes, b.state_out.bytes);
    for (std::int64_t d = 0; d < width; ++d) EXPECT_EQ(a.dlog_decay.get(cut * width + d), 0) << name(decay);
    // and no gradient of what is behind it reaches what is in front
    LinearInputs behind = in;
    for (std::int64_t i = cut * dim; i < tokens * dim; ++i) behind.dout.set(i, 1000);
    behind.dleaving.fill(1e20);
    const LinearResults c = kernel_results(behind);
    EXPECT_EQ(c.dstate_in.bytes, a.dstate_in.bytes) << name(decay);
    for (std::int64_t i = 0; i < cut * dim; ++i) ASSERT_EQ(a.dv.get(i), c.dv.get(i)) << name(decay) << ' ' << i / dim;
  }
}

TEST(DeltaDecay, ALogDecayOfZeroIsTheDeltaRule) {
  for (const Decay decay : {Decay::scalar, Decay::vector}) {
    LinearInputs in = delta_inputs({1, 130, 1, 24, 16}, decay, DType::f32, 40);
    in.log_decay.fill(0);
    LinearInputs none = in;
    none.decay = Decay::none;
    const LinearResults got = kernel_results(in), want = kernel_results(none);
    EXPECT_LE(distance(got.out, want.out).relative_rms, 1e-6) << name(decay);
    EXPECT_LE(distance(got.dk, want.dk).relative_rms, 1e-6) << name(decay);
    EXPECT_LE(distance(got.state_out, want.state_out).relative_rms, 1e-6) << name(decay);
  }
}

// With beta = 0 nothing is written: the state only decays, and comes out as it went in where nothing decays.
TEST(DeltaDecay, ABetaOfZeroIsADecayAlone) {
  for (const Decay decay : delta_decays) {
    LinearInputs in = delta_inputs({1, 90, 2, 8, 8}, decay, DType::f32, 50);
    in.beta.fill(0);
    const LinearResults got = kernel_results(in);
    expect_delta_close(got, in, ", beta 0");
    if (decay == Decay::none) {
      EXPECT_EQ(got.state_out.bytes, in.state.bytes);
    }
  }
}

}  // namespace
}  // namespace seqccl::test
