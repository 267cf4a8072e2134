// linear_reference_test.cpp - the linear attention reference against its closed sum, and its gradients against finite differences.
// SPDX-License-Identifier: Apache-2.0
#include "linear_problem.hpp"

namespace seqccl::test {
namespace {

/// log_decay of one number, whatever its shape.
double log_decay_at(const LinearInputs& in, std::int64_t b, std::int64_t t, std::int64_t h, std::int64_t d) {
  const std::int64_t row = (b * in.shape.tokens + t) * in.shape.heads + h;
  switch (in.decay) {
    case Decay::none:
      return 0;
    case Decay::constant:
      return in.log_decay.get(h);
    case Decay::scalar:
      return in.log_decay.get(row);
    case Decay::vector:
      return in.log_decay.get(row * in.shape.key_dim + d);
  }
  return 0;
}

// out_t = scale (sum_d q_td exp(sum of log_decay up to t) S_d + sum_(i<=t) sum_d q_td k_id exp(sum over (i, t]) v_i)
TEST(LinearReference, EqualsTheClosedSum) {
  for (const Decay decay : all_decays) {
    const LinearInputs in = linear_inputs({2, 9, 3, 4, 5}, decay, DType::f32, 1);
    const auto [batch, tokens, heads, key_dim, value_dim] = in.shape;
    HostTensor want(DType::f64, {batch, tokens, heads, value_dim});
    for (std::int64_t b = 0; b < batch; ++b) {
      for (std::int64_t h = 0; h < heads; ++h) {
        for (std::int64_t t = 0; t < tokens; ++t) {
          std::vector<double> out(static_cast<std::size_t>(value_dim), 0.0);
          for (std::int64_t d = 0; d < key_dim; ++d) {
            const double q = in.scale * in.q.get(((b * tokens + t) * heads + h) * key_dim + d);
            double exponent = 0;
            for (std::int64_t i = t; i >= 0; --i) {
              const double weight = q * in.k.get(((b * tokens + i) * heads + h) * key_dim + d) * std::exp(exponent);
              for (std::int64_t e = 0; e < value_dim; ++e) {
                out[static_cast<std::size_t>(e)] += weight * in.v.get(((b * tokens + i) * heads + h) * value_dim + e);
              }
              exponent += log_decay_at(in, b, i, h, d);
            }
            for (std::int64_t e = 0; e < value_dim; ++e) {
              out[static_cast<std::size_t>(e)] += q * std::exp(exponent) * in.state.get(((b * heads + h) * key_dim + d) * value_dim + e);
            }
          }
          for (std::int64_t e = 0; e < value_dim; ++e) {
            want.set(((b * tokens + t) * heads + h) * value_dim + e, out[static_cast<std::size_t>(e)]);
          }
        }
      }
    }
    EXPECT_LE(distance(reference_results(in).out, want).relative_rms, 1e-14) << name(decay);
  }
}

double loss(const LinearInputs& in) {
  HostTensor out = same_shape(in.v, DType::f64), state_out = same_shape(in.state, DType::f64);
  const reference::Linear problem{
      in.q.view(), in.k.view(), in.v.view(), in.decay == Decay::none ? ConstTensorView{} : in.log_decay.view(), in.state.view(), in.scale};
  reference::linear(problem, out.view(), state_out.view());
  double sum = 0;
  for (std::int64_t i = 0; i < out.size(); ++i) sum += out.get(i) * in.dout.get(i);
  for (std::int64_t i = 0; i < state_out.size(); ++i) sum += state_out.get(i) * in.dleaving.get(i);
  return sum;
}

TEST(LinearReference, GradientsEqualFiniteDifferences) {
  for (const Decay decay : all_decays) {
    LinearInputs in = linear_inputs({2, 6, 2, 3, 2}, decay, DType::f64, 40, DType::f64);
    const LinearResults r = reference_results(in);
    const std::vector<std::pair<HostTensor*, const HostTensor*>> pairs{
        {&in.q, &r.dq}, {&in.k, &r.dk}, {&in.v, &r.dv}, {&in.state, &r.dstate_in}, {&in.log_decay, &r.dlog_decay}};
    for (const auto& [input, gradient] : pairs) {
      if (input->bytes.empty()) continue;
      HostTensor want = same_shape(*gradient, DType::f64);
      for (std::int64_t i = 0; i < input->size(); ++i) {
        constexpr double step = 1e-5;
        const double value = input->get(i);
        input->set(i, value + step);
        const double above = loss(in);
        input->set(i, value - step);
        const double below = loss(in);
        input->set(i, value);
        want.set(i, (above - below) / (2 * step));
      }
      EXPECT_LE(distance(*gradient, want).relative_rms, 1e-8) << name(decay) << ", input of " << input->size();
    }
  }
}

TEST(LinearReference, CheckpointsDoNotChangeTheGradients) {
  // 150 tokens take three checkpoints; a chain of two problems makes its states elsewhere.
  const LinearInputs whole = linear_inputs({1, 150, 1, 3, 4}, Decay::vector, DType::f64, 50, DType::f64);
  const LinearResults want = reference_results(whole);
  constexpr std::int64_t cut = 77;
  const auto part = [&](std::int64_t first, std::int64_t count) {
    LinearInputs in = linear_inputs({1, count, 1, 3, 4}, Decay::vector, DType::f64, 51, DType::f64);
    for (const auto& [to, from] :
         {std::pair{&in.q, &whole.q}, {&in.k, &whole.k}, {&in.v, &whole.v}, {&in.dout, &whole.dout}, {&in.log_decay, &whole.log_decay}}) {
      const std::int64_t dim = from->geometry.shape[3];
      for (std::int64_t i = 0; i < to->size(); ++i) to->set(i, from->get(first * dim + i));
    }
    in.scale = whole.scale;
    return in;
  };
  LinearInputs first = part(0, cut), second = part(cut, 150 - cut);
  first.state = whole.state;
  second.state = reference_results(first).state_out;
  second.dleaving = whole.dleaving;
  const LinearResults last = reference_results(second);
  first.dleaving = last.dstate_in;
  const LinearResults front = reference_results(first);
  EXPECT_LE(distance(front.dstate_in, want.dstate_in).relative_rms, 1e-13);
  for (std::int64_t i = 0; i < 150 * 3; ++i) {
    const double got = i < cut * 3 ? front.dlog_decay.get(i) : last.dlog_decay.get(i - cut * 3);
    ASSERT_NEAR(got, want.dlog_decay.get(i), 1e-12 * (1 + std::abs(want.dlog_decay.get(i))));
  }
}

TEST(LinearReference, ThePlainRunDiffersByRoundingOnly) {
  for (const Decay decay : all_decays) {
    const LinearInputs in = linear_inputs({1, 70, 2, 8, 8}, decay, DType::f32, 60);
    const LinearResults plain = reference_results(in, true), want = reference_results(in);
    EXPECT_LE(distance(plain.out, want.out).relative_rms, 2e-6);
    EXPECT_GT(distance(plain.out, want.out).relative_rms, 0);
    EXPECT_LE(distance(plain.dq, want.dq).relative_rms, 2e-6);
  }
}

}  // namespace
}  // namespace seqccl::test
