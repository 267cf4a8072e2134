// linear_problem.hpp - inputs of a whole linear attention layer, its results by the reference, and how close results have to be.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "seqccl/kernels.hpp"
#include "support/tensor.hpp"

namespace seqccl::test {

enum class Decay { none, constant, scalar, vector };
inline constexpr Decay all_decays[] = {Decay::none, Decay::constant, Decay::scalar, Decay::vector};
inline const char* name(Decay decay) {
  constexpr const char* names[] = {"none", "constant", "scalar", "vector"};
  return names[static_cast<int>(decay)];
}

enum class Kind { plain, delta, bonus };  // what goes with the decay: nothing, beta, or a bonus
inline constexpr Kind all_kinds[] = {Kind::plain, Kind::delta, Kind::bonus};
inline const char* name(Kind kind) {
  constexpr const char* names[] = {"plain", "delta", "bonus"};
  return names[static_cast<int>(kind)];
}

struct LinearShape {
  std::int64_t batch = 2, tokens = 16, heads = 2, key_dim = 8, value_dim = 8;
};

/// Inputs as the reference takes them.
struct LinearInputs {
  LinearShape shape;
  Decay decay = Decay::none;
  HostTensor q, k, v, dout;    // (B, T, H, D)
  HostTensor log_decay;        // (H), (B, T, H) or (B, T, H, Dk); empty if there is none
  HostTensor state, dleaving;  // (B, H, Dk, Dv)
  double scale = 1;
  Kind kind = Kind::plain;
  HostTensor beta, bonus;               // (B, T, H) of delta, (H, Dk) of bonus, else empty
  std::vector<std::int64_t> documents;  // the reference only
  bool causal = true;                   // the reference only; else no state
};

/// Rows of length 1, as the delta kinds have their keys.
inline void normalize_rows(HostTensor& x) {
  const std::int64_t dim = x.geometry.shape[x.geometry.num_axes - 1];
  for (std::int64_t row = 0; row < x.size(); row += dim) {
    double square = 0;
    for (std::int64_t d = 0; d < dim; ++d) square += std::pow(x.get(row + d), 2);
    for (std::int64_t d = 0; d < dim; ++d) x.set(row + d, x.get(row + d) / std::sqrt(square));
  }
}

inline LinearInputs linear_inputs(const LinearShape& s, Decay decay, DType dtype, std::uint64_t seed, DType side = DType::f32,
                                  Kind kind = Kind::plain) {
  LinearInputs in{.shape = s, .decay = decay, .kind = kind};
  in.q = random_tensor(dtype, {s.batch, s.tokens, s.heads, s.key_dim}, seed + 1);
  in.k = random_tensor(dtype, {s.batch, s.tokens, s.heads, s.key_dim}, seed + 2);
  in.v = random_tensor(dtype, {s.batch, s.tokens, s.heads, s.value_dim}, seed + 3);
  in.dout = random_tensor(dtype, {s.batch, s.tokens, s.heads, s.value_dim}, seed + 4);
  in.state = random_tensor(side, {s.batch, s.heads, s.key_dim, s.value_dim}, seed + 5);
  in.dleaving = random_tensor(side, {s.batch, s.heads, s.key_dim, s.value_dim}, seed + 6);
  if (decay == Decay::constant) in.log_decay = random_tensor(side, {s.heads}, seed + 7, 0.1);
  if (decay == Decay::scalar) in.log_decay = random_tensor(side, {s.batch, s.tokens, s.heads}, seed + 7, 0.1);
  if (decay == Decay::vector) in.log_decay = random_tensor(side, {s.batch, s.tokens, s.heads, s.key_dim}, seed + 7, 0.1);
  if (decay != Decay::none) {
    for (std::int64_t i = 0; i < in.log_decay.size(); ++i) in.log_decay.set(i, -std::abs(in.log_decay.get(i)));
  }
  if (kind == Kind::delta) {  // beta in (0, 1.5): above 1 a token turns what it finds around
    normalize_rows(in.k);
    in.beta = random_tensor(side, {s.batch, s.tokens, s.heads}, seed + 8);
    for (std::int64_t i = 0; i < in.beta.size(); ++i) in.beta.set(i, 1.5 / (1 + std::exp(-in.beta.get(i))));
  }
  if (kind == Kind::bonus) in.bonus = random_tensor(side, {s.heads, s.key_dim}, seed + 8);
  in.scale = 1 / std::sqrt(static_cast<double>(s.key_dim));
  return in;
}

struct LinearResults {
  HostTensor out, state_out, dq, dk, dv, dlog_decay, dstate_in, dbeta, dbonus;
  [[nodiscard]] std::vector<std::pair<const char*, const HostTensor*>> all() const {
    return {{"out", &out},
            {"state_out", &state_out},
            {"dq", &dq},
            {"dk", &dk},
            {"dv", &dv},
            {"dlog_decay", &dlog_decay},
            {"dstate_in", &dstate_in},
            {"dbeta", &dbeta},
            {"dbonus", &dbonus}};
  }
};

/// An empty tensor like `like`.
inline HostTensor same_shape(const HostTensor& like, DType dtype) {
  HostTensor result;
  result.dtype = dtype;
  result.geometry = like.geometry;
  result.bytes.resize(static_cast<std::size_t>(like.size()) * size_bytes(dtype), std::byte{0xff});
  return result;
}

inline reference::Linear problem_of(const LinearInputs& in) {
  const auto optional = [](const HostTensor& tensor, bool there) { return there ? tensor.view() : ConstTensorView{}; };
  return {.q = in.q.view(),
          .k = in.k.view(),
          .v = in.v.view(),
          .log_decay = optional(in.log_decay, in.decay != Decay::none),
          .state_in = optional(in.state, in.causal),
          .scale = in.scale,
          .beta = optional(in.beta, in.kind == Kind::delta),
          .bonus = optional(in.bonus, in.kind == Kind::bonus),
          .documents = in.documents,
          .causal = in.causal};
}

/// The layer by the reference: in double, or with sums in f32 (`plain`).
inline LinearResults reference_results(const LinearInputs& in, bool plain = false, int num_threads = 1) {
  const DType dtype = DType::f64;
  LinearResults r;
  r.out = same_shape(in.v, dtype), r.state_out = same_shape(in.state, dtype), r.dstate_in = same_shape(in.state, dtype);
  r.dq = same_shape(in.q, dtype), r.dk = same_shape(in.k, dtype), r.dv = same_shape(in.v, dtype);
  if (in.decay != Decay::none) r.dlog_decay = same_shape(in.log_decay, dtype);
  if (in.kind == Kind::delta) r.dbeta = same_shape(in.beta, dtype);
  if (in.kind == Kind::bonus) r.dbonus = same_shape(in.bonus, dtype);
  const reference::Linear problem = problem_of(in);
  const auto optional = [](HostTensor& tensor, bool there) { return there ? tensor.view() : TensorView{}; };
  const reference::LinearGradients gradients{r.dq.view(),
                                             r.dk.view(),
                                             r.dv.view(),
                                             optional(r.dlog_decay, in.decay != Decay::none),
                                             optional(r.dstate_in, in.causal),
                                             optional(r.dbeta, in.kind == Kind::delta),
                                             optional(r.dbonus, in.kind == Kind::bonus)};
  (plain ? reference::linear_plain : reference::linear)(problem, r.out.view(), r.state_out.view(), num_threads);
  (plain ? reference::linear_backward_plain : reference::linear_backward)(problem, in.dout.view(), in.dleaving.view(), gradients,
                                                                          num_threads);
  return r;
}

/// The design's rule: at most twice the error of the plain run and a few roundings, and never above the cap of the type.
inline void expect_close(const LinearResults& got, const LinearResults& want, const LinearResults& plain, const std::string& what) {
  const auto tensors = got.all(), wanted = want.all(), plains = plain.all();
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const HostTensor& tensor = *tensors[i].second;
    if (tensor.size() == 0 || tensor.bytes.empty()) continue;
    const Distance error = distance(tensor, *wanted[i].second), bar = distance(*plains[i].second, *wanted[i].second);
    const bool gradient = tensors[i].first[0] == 'd';
    const double cap = (tensor.dtype == DType::f32 ? 2e-6 : tensor.dtype == DType::f16 ? 2e-3 : 1.2e-2) * (gradient ? 3 : 1);
    const double luck = tensor.size() < 16 ? 2 : 1;  // the plain run may be all but exact on a handful of numbers
    EXPECT_LE(error.max, luck * (2 * bar.max + 4 * epsilon(tensor.dtype) * error.reference_max)) << tensors[i].first << " of " << what;
    EXPECT_LE(error.relative_rms, cap) << tensors[i].first << " of " << what;
  }
}

inline std::string describe(const LinearInputs& in) {
  return fmt::format("{}, decay {}, {}, T {}, Dk {}, Dv {}", name(in.kind), name(in.decay), seqccl::name(in.q.dtype), in.shape.tokens,
                     in.shape.key_dim, in.shape.value_dim);
}

inline void expect_same_bits(const LinearResults& got, const LinearResults& want, const std::string& what) {
  const auto tensors = got.all(), wanted = want.all();
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    EXPECT_EQ(tensors[i].second->bytes, wanted[i].second->bytes) << tensors[i].first << " of " << what;
  }
}

}  // namespace seqccl::test
