// linear_reference_test.cpp - the linear attention reference against its closed sum, and its gradients against finite differences.
// SPDX-License-Identifier: Apache-2.0
#include <tuple>

#include "linear_problem.hpp"
#include "seqccl/error.hpp"

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
  reference::linear(problem_of(in), out.view(), state_out.view());
  double sum = 0;
  for (std::int64_t i = 0; i < out.size(); ++i) sum += out.get(i) * in.dout.get(i);
  for (std::int64_t i = 0; i < state_out.size(); ++i) sum += state_out.get(i) * in.dleaving.get(i);
  return sum;
}

void expect_gradients_of_the_loss(LinearInputs in, const std::string& what) {
  const LinearResults r = reference_results(in);
  const std::vector<std::tuple<const char*, HostTensor*, const HostTensor*>> pairs{{"q", &in.q, &r.dq},
                                                                                   {"k", &in.k, &r.dk},
                                                                                   {"v", &in.v, &r.dv},
                                                                                   {"state", &in.state, &r.dstate_in},
                                                                                   {"log_decay", &in.log_decay, &r.dlog_decay},
                                                                                   {"beta", &in.beta, &r.dbeta},
                                                                                   {"bonus", &in.bonus, &r.dbonus}};
  for (const auto& [which, input, gradient] : pairs) {
    if (input->bytes.empty() || (input == &in.state && !in.causal)) continue;
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
    EXPECT_LE(distance(*gradient, want).relative_rms, 1e-8) << what << ", gradient of " << which;
  }
}

const std::vector<std::vector<std::int64_t>> packings{{}, {6}, {2, 4}, {1, 1, 3, 0, 1}, {5, 1}};

TEST(LinearReference, GradientsEqualFiniteDifferencesForEveryKindDecayAndPacking) {
  for (const Kind kind : all_kinds) {
    for (const Decay decay : all_decays) {
      for (const auto& documents : packings) {
        LinearInputs in = linear_inputs({2, 6, 2, 3, 2}, decay, DType::f64, 40, DType::f64, kind);
        in.documents = documents;
        expect_gradients_of_the_loss(in, fmt::format("{}, decay {}, {} documents", name(kind), name(decay), documents.size()));
      }
    }
  }
}

TEST(LinearReference, BidirectionalGradientsEqualFiniteDifferences) {
  for (const auto& documents : packings) {
    LinearInputs in = linear_inputs({2, 6, 2, 3, 2}, Decay::none, DType::f64, 41, DType::f64);
    in.documents = documents, in.causal = false;
    expect_gradients_of_the_loss(in, fmt::format("{} documents", documents.size()));
  }
}

/// Tokens [first, first + count) of a problem of one batch row and one head, as a problem of their own.
LinearInputs part_of(const LinearInputs& whole, std::int64_t first, std::int64_t count) {
  LinearInputs in = whole;
  in.shape.tokens = count;
  in.documents.clear();
  for (HostTensor* tensor : {&in.q, &in.k, &in.v, &in.dout, &in.log_decay, &in.beta}) {
    if (tensor->bytes.empty()) continue;
    const HostTensor all = *tensor;
    const std::int64_t dim = all.size() / whole.shape.tokens;
    tensor->geometry = all.geometry.num_axes == 4 ? contiguous({1, count, 1, dim}) : contiguous({1, count, 1});
    tensor->bytes.resize(static_cast<std::size_t>(count * dim) * size_bytes(all.dtype));
    for (std::int64_t i = 0; i < tensor->size(); ++i) tensor->set(i, all.get(first * dim + i));
  }
  return in;
}

void expect_rows(const HostTensor& part, const HostTensor& whole, std::int64_t first, std::int64_t tokens, const std::string& what) {
  const std::int64_t dim = whole.size() / tokens;
  for (std::int64_t i = 0; i < part.size(); ++i) ASSERT_EQ(part.get(i), whole.get(first * dim + i)) << what << ' ' << i;
}

TEST(LinearReference, DocumentsAreProblemsOfTheirOwn) {
  constexpr std::int64_t tokens = 150;
  const std::vector<std::int64_t> documents{3, 77, 1, 69};
  for (const Kind kind : all_kinds) {
    for (const bool causal : {true, false}) {
      if (!causal && kind != Kind::plain) continue;
      LinearInputs whole = linear_inputs({1, tokens, 1, 3, 4}, causal ? Decay::vector : Decay::none, DType::f64, 50, DType::f64, kind);
      whole.documents = documents, whole.causal = causal;
      // the decay of a token where a document begins is not read, be it what it may
      if (causal) whole.log_decay.set(80 * 3, std::nan("")), whole.log_decay.set(81 * 3 + 1, -INFINITY);
      const LinearResults all = reference_results(whole);
      std::int64_t first = 0;
      for (const std::int64_t length : documents) {
        LinearInputs in = part_of(whole, first, length);
        if (first > 0 && causal) {
          in.state.fill(0);
          for (std::int64_t d = 0; d < 3; ++d) in.log_decay.set(d, -1);
        }
        if (first + length < tokens) in.dleaving.fill(0);
        const LinearResults own = reference_results(in);
        const std::string what = fmt::format("{}, document at {}", name(kind), first);
        for (const auto& [part, of] : {std::pair{&own.out, &all.out}, {&own.dq, &all.dq}, {&own.dk, &all.dk}, {&own.dv, &all.dv}})
          expect_rows(*part, *of, first, tokens, what);
        if (causal) expect_rows(own.dlog_decay, all.dlog_decay, first, tokens, what + ", dlog_decay");
        if (kind == Kind::delta) expect_rows(own.dbeta, all.dbeta, first, tokens, what + ", dbeta");
        if (first == 0 && causal) {
          EXPECT_EQ(own.dstate_in.bytes, all.dstate_in.bytes) << what;
        }
        if (first + length == tokens) {
          EXPECT_EQ(own.state_out.bytes, all.state_out.bytes) << what;
        }
        first += length;
      }
    }
  }
}

TEST(LinearReference, ADeltaWithBetaZeroOnlyDecays) {
  for (const Decay decay : all_decays) {
    LinearInputs in = linear_inputs({1, 9, 2, 3, 4}, decay, DType::f64, 51, DType::f64, Kind::delta);
    in.beta.fill(0);
    LinearInputs plain = in;  // the same without anything written
    plain.kind = Kind::plain;
    plain.v.fill(0);
    const LinearResults got = reference_results(in), want = reference_results(plain);
    EXPECT_EQ(distance(got.out, want.out).max, 0) << name(decay);
    EXPECT_EQ(distance(got.state_out, want.state_out).max, 0) << name(decay);
    EXPECT_EQ(distance(got.dstate_in, want.dstate_in).max, 0) << name(decay);
    for (std::int64_t i = 0; i < got.dv.size(); ++i) ASSERT_EQ(got.dv.get(i), 0);
  }
}

TEST(LinearReference, ADeltaWithBetaOneStoresAValueUnderItsKey) {
  // S^T k = v after the token, whatever was there: read back by q = k
  LinearInputs in = linear_inputs({1, 9, 1, 4, 3}, Decay::vector, DType::f64, 52, DType::f64, Kind::delta);
  in.beta.fill(1);
  in.q = in.k;
  in.scale = 1;
  EXPECT_LE(distance(reference_results(in).out, in.v).relative_rms, 1e-14);
}

TEST(LinearReference, ABonusOfOneWithoutDecayReadsTheTokenAfterItsUpdate) {
  LinearInputs in = linear_inputs({2, 9, 2, 4, 3}, Decay::none, DType::f64, 53, DType::f64, Kind::bonus);
  in.bonus.fill(1);
  LinearInputs plain = in;
  plain.kind = Kind::plain;
  const LinearResults got = reference_results(in), want = reference_results(plain);
  EXPECT_LE(distance(got.out, want.out).relative_rms, 1e-14);
  EXPECT_LE(distance(got.dq, want.dq).relative_rms, 1e-14);
  EXPECT_LE(distance(got.dk, want.dk).relative_rms, 1e-14);
  EXPECT_LE(distance(got.dv, want.dv).relative_rms, 1e-14);
  EXPECT_LE(distance(got.dstate_in, want.dstate_in).relative_rms, 1e-14);
}

TEST(LinearReference, BidirectionalTokensReadTheStateThatTheirDocumentLeaves) {
  LinearInputs in = linear_inputs({2, 9, 2, 4, 3}, Decay::none, DType::f64, 54, DType::f64);
  in.causal = false;
  LinearInputs causal = in;
  causal.causal = true;
  causal.state.fill(0);
  const LinearResults got = reference_results(in), want = reference_results(causal);
  EXPECT_EQ(got.state_out.bytes, want.state_out.bytes);
  // the last token of a causal run has seen them all
  for (std::int64_t b = 0; b < 2; ++b) {
    for (std::int64_t i = 0; i < 2 * 3; ++i) EXPECT_NEAR(got.out.get((b * 9 + 8) * 6 + i), want.out.get((b * 9 + 8) * 6 + i), 1e-13);
  }
  // and outputs do not depend on the order of the tokens
  LinearInputs turned = in;
  for (auto [to, from] : {std::pair{&turned.q, &in.q}, {&turned.k, &in.k}, {&turned.v, &in.v}}) {
    const std::int64_t row = to->size() / 18;
    for (std::int64_t t = 0; t < 18; ++t) {
      for (std::int64_t i = 0; i < row; ++i) to->set(t * row + i, from->get((t / 9 * 9 + 8 - t % 9) * row + i));
    }
  }
  const LinearResults back = reference_results(turned);
  for (std::int64_t t = 0; t < 18; ++t) {
    for (std::int64_t i = 0; i < 6; ++i) ASSERT_NEAR(back.out.get(t * 6 + i), got.out.get((t / 9 * 9 + 8 - t % 9) * 6 + i), 1e-12);
  }
}

TEST(LinearReference, ATotalDecayIsADocumentBoundaryOfTheState) {
  constexpr std::int64_t tokens = 10, cut = 4;
  for (const Kind kind : all_kinds) {
    for (const Decay decay : {Decay::scalar, Decay::vector}) {
      LinearInputs in = linear_inputs({1, tokens, 1, 3, 2}, decay, DType::f64, 55, DType::f64, kind);
      LinearInputs packed = in;
      const std::int64_t width = decay == Decay::vector ? 3 : 1;
      for (std::int64_t d = 0; d < width; ++d) in.log_decay.set(cut * width + d, -INFINITY);
      packed.documents = {cut, tokens - cut};
      const LinearResults got = reference_results(in), want = reference_results(packed);
      EXPECT_FALSE(std::isnan(distance(got.dlog_decay, got.dlog_decay).max));
      EXPECT_EQ(got.state_out.bytes, want.state_out.bytes) << name(kind);
      if (kind == Kind::bonus) continue;  // the token at the cut still reads what was before it
      EXPECT_EQ(distance(got.dstate_in, want.dstate_in).max, 0) << name(kind);
      EXPECT_EQ(distance(got.out, want.out).max, 0) << name(kind);
      EXPECT_EQ(distance(got.dk, want.dk).max, 0) << name(kind);
      EXPECT_EQ(distance(got.dlog_decay, want.dlog_decay).max, 0) << name(kind);
    }
  }
}

TEST(LinearReference, WhatDoesNotFitIsNamed) {
  LinearInputs in = linear_inputs({1, 4, 2, 3, 2}, Decay::scalar, DType::f32, 56);
  HostTensor out(DType::f64, {1, 4, 2, 2}), beta(DType::f32, {1, 4, 1}), bonus(DType::f32, {2, 3});
  const auto message = [&](const reference::Linear& problem) -> std::string {
    try {
      reference::linear(problem, out.view(), {});
    } catch (const Error& error) {
      return error.what();
    }
    return "nothing";
  };
  reference::Linear problem = problem_of(in);
  problem.beta = beta.view();
  EXPECT_EQ(message(problem), "reference::linear: beta is (1, 4, 1), want (1, 4, 2)");
  beta.geometry = contiguous({1, 4, 2});
  problem.beta = beta.view(), problem.bonus = bonus.view();
  EXPECT_EQ(message(problem), "reference::linear: beta and bonus are both given, want one kind: delta or RWKV6");
  problem = problem_of(in);
  problem.causal = false;
  EXPECT_EQ(message(problem), "reference::linear: log_decay is given and causal is false, want causal = true or neither");
  problem = problem_of(in);
  const std::vector<std::int64_t> documents{3, 2}, negative{5, -1};
  problem.documents = documents;
  EXPECT_EQ(message(problem), "reference::linear: documents sum to 5, want N = 4");
  problem.documents = negative;
  EXPECT_EQ(message(problem), "reference::linear: a length in documents is -1, want 0 or more");
}

TEST(LinearReference, CheckpointsDoNotChangeTheGradients) {
  // 150 tokens take three checkpoints; a chain of two problems makes its states elsewhere.
  const LinearInputs whole = linear_inputs({1, 150, 1, 3, 4}, Decay::vector, DType::f64, 50, DType::f64);
  const LinearResults want = reference_results(whole);
  constexpr std::int64_t cut = 77;
  LinearInputs first = part_of(whole, 0, cut), second = part_of(whole, cut, 150 - cut);
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
  for (const Kind kind : all_kinds) {
    for (const Decay decay : all_decays) {
      const LinearInputs in = linear_inputs({1, 70, 2, 8, 8}, decay, DType::f32, 60, DType::f32, kind);
      const LinearResults plain = reference_results(in, true), want = reference_results(in);
      EXPECT_LE(distance(plain.out, want.out).relative_rms, 2e-6);
      EXPECT_GT(distance(plain.out, want.out).relative_rms, 0);
      EXPECT_LE(distance(plain.dq, want.dq).relative_rms, 2e-6);
      if (kind == Kind::delta) {
        EXPECT_LE(distance(plain.dbeta, want.dbeta).relative_rms, 4e-6);
      }
    }
  }
}

}  // namespace
}  // namespace seqccl::test
