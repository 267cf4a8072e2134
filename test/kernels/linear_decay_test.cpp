// linear_decay_test.cpp - decays from none to total: every row keeps its precision, and alpha = 0 is exact.
// SPDX-License-Identifier: Apache-2.0
#include <functional>
#include <limits>

#include "linear_layer.hpp"

namespace seqccl::test {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

struct Pattern {
  const char* name;
  std::function<double(std::int64_t token, double uniform)> log_decay;
};
const Pattern patterns[] = {
    {"0", [](std::int64_t, double) { return 0.0; }},
    {"-1e-6", [](std::int64_t, double) { return -1e-6; }},
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

LinearInputs strong_inputs(Kind kind, Decay decay, const Pattern& pattern, std::uint64_t seed) {
  LinearInputs in = linear_inputs({1, 130, 2, 24, 16}, decay, DType::f32, seed, DType::f32, kind);
  std::mt19937_64 generator(seed);
  std::uniform_real_distribution<double> uniform(0, 1);
  const std::int64_t numbers_per_token = in.log_decay.size() / (decay == Decay::constant ? 1 : in.shape.tokens);
  for (std::int64_t i = 0; i < in.log_decay.size(); ++i) in.log_decay.set(i, pattern.log_decay(i / numbers_per_token, uniform(generator)));
  return in;
}

/// Largest error of a row relative to the norm of the row; a row that is small by cancellation counts as a tenth of the mean row.
double row_error(const HostTensor& got, const HostTensor& want) {
  const std::int64_t dim = want.geometry.shape[3];
  double worst = 0, total = 0;
  for (std::int64_t i = 0; i < want.size(); ++i) total += std::pow(want.get(i), 2);
  const double mean = total * static_cast<double>(dim) / static_cast<double>(want.size());
  const double floor = std::max(0.01 * mean, 1e-60);  // f32 has no digits left for rows of 1e-38
  for (std::int64_t row = 0; row < want.size() / dim; ++row) {
    double error = 0, norm = 0;
    for (std::int64_t i = row * dim; i < (row + 1) * dim; ++i) {
      error += std::pow(got.get(i) - want.get(i), 2);
      norm += std::pow(want.get(i), 2);
    }
    if (error == 0) continue;
    const double relative = std::sqrt(error / std::max(norm, floor));
    if (!(relative <= worst)) worst = relative;  // NaN is kept
    if (std::isnan(worst)) return worst;
  }
  return worst;
}

TEST(LinearDecay, EveryRowKeepsItsPrecision) {
  for (const Kind kind : {Kind::plain, Kind::bonus}) {
    for (const Decay decay : {Decay::constant, Decay::scalar, Decay::vector}) {
      const LinearInputs mild = linear_inputs({1, 130, 2, 24, 16}, decay, DType::f32, 9, DType::f32, kind);
      const LinearResults mild_results = reference_results(mild);
      const double largest = distance(mild_results.dlog_decay, mild_results.dlog_decay).reference_max;
      for (const Pattern& pattern : patterns) {
        const LinearInputs in = strong_inputs(kind, decay, pattern, 10);
        const LinearResults want = reference_results(in);
        for (const std::vector<std::int64_t>& cuts : {std::vector<std::int64_t>{}, {50, 71}}) {
          const LinearResults got = kernel_results(in, {.cuts = cuts, .local_has_state = !cuts.empty()});
          const std::string what = fmt::format("{}, {} gate, {}, {} runs", name(kind), name(decay), pattern.name, cuts.size() + 1);
          EXPECT_LE(row_error(got.out, want.out), 1e-5) << what;
          EXPECT_LE(row_error(got.dq, want.dq), 1e-5) << what;
          EXPECT_LE(row_error(got.dk, want.dk), 1e-5) << what;
          EXPECT_LE(row_error(got.dv, want.dv), 1e-5) << what;
          EXPECT_LE(row_error(got.state_out, want.state_out), 1e-5) << what;
          EXPECT_LE(row_error(got.dstate_in, want.dstate_in), 1e-5) << what;
          EXPECT_LE(distance(got.dlog_decay, want.dlog_decay).max, 1e-5 * largest) << what;
          if (kind == Kind::bonus) {
            EXPECT_LE(distance(got.dbonus, want.dbonus).relative_rms, 1e-6) << what;
          }
        }
      }
    }
  }
}

TEST(LinearDecay, ZeroLogDecayGivesTheBitsOfNoDecayUpToSummation) {
  for (const Decay decay : {Decay::constant, Decay::scalar, Decay::vector}) {
    LinearInputs in = linear_inputs({1, 130, 1, 8, 8}, decay, DType::f32, 20);
    in.log_decay.fill(0);
    LinearInputs none = in;
    none.decay = Decay::none;
    const LinearResults got = kernel_results(in), want = kernel_results(none);
    EXPECT_EQ(got.state_out.bytes, want.state_out.bytes) << name(decay);
    EXPECT_EQ(got.dstate_in.bytes, want.dstate_in.bytes) << name(decay);
    EXPECT_LE(distance(got.out, want.out).relative_rms, 1e-6) << name(decay);
  }
}

TEST(LinearDecay, ATotalDecayCutsTheRun) {
  constexpr std::int64_t cut = 70;
  for (const Kind kind : {Kind::plain, Kind::bonus}) {
    for (const Decay decay : {Decay::scalar, Decay::vector}) {
      LinearInputs in = linear_inputs({1, 130, 1, 8, 8}, decay, DType::f32, 30, DType::f32, kind);
      const std::int64_t reads = kind == Kind::bonus ? cut + 1 : cut;  // a bonus token still reads what was before it
      const std::int64_t width = decay == Decay::vector ? 8 : 1;
      for (std::int64_t d = 0; d < width; ++d) in.log_decay.set(cut * width + d, -infinity);
      LinearInputs other = in;  // what was before the cut must not matter behind it, to the last bit
      for (std::int64_t i = 0; i < cut * 8; ++i) other.k.set(i, 1000), other.v.set(i, -1000);
      other.state.fill(1e30);
      const LinearResults a = kernel_results(in), b = kernel_results(other);
      for (std::int64_t i = reads * 8; i < 130 * 8; ++i) ASSERT_EQ(a.out.get(i), b.out.get(i)) << name(decay) << ' ' << i / 8;
      EXPECT_EQ(a.state_out.bytes, b.state_out.bytes);
      for (std::int64_t d = 0; d < width; ++d) EXPECT_EQ(a.dlog_decay.get(cut * width + d), 0) << name(decay);
      // and no gradient of what is behind it reaches the state in front
      LinearInputs behind = in;
      for (std::int64_t i = reads * 8; i < 130 * 8; ++i) behind.dout.set(i, 1000);
      behind.dleaving.fill(1e30);
      EXPECT_EQ(kernel_results(behind).dstate_in.bytes, a.dstate_in.bytes) << name(decay);
    }
  }
}

}  // namespace
}  // namespace seqccl::test
