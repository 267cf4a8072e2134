// linear_recurrence.hpp - what forward and backward of the linear attention reference share: reading tensors of any type, one step.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>

#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <vector>

#include "seqccl/error.hpp"
#include "seqccl/kernels.hpp"

SEQCCL_BEGIN
namespace reference::linear_detail {

/// Elements that lie along the last axis, from the index (first, ...) of the other axes.
struct Row {
  std::int64_t offset = 0, stride = 1, count = 0;
};
inline Row row_of(const Geometry& geometry, std::initializer_list<std::int64_t> index) {
  Row row;
  int axis = 0;
  for (const std::int64_t at : index) row.offset += at * geometry.strides[axis++];
  if (axis < geometry.num_axes) row.stride = geometry.strides[axis];
  row.count = axis < geometry.num_axes ? geometry.shape[axis] : 1;
  return row;
}

template <class Real>
void read(const ConstTensorView& x, std::initializer_list<std::int64_t> index, Real* to) {
  const Row row = row_of(x.geometry, index);
  const auto all = [&]<class Element>(const Element* from) {
    for (std::int64_t i = 0; i < row.count; ++i) {
      if constexpr (sizeof(Element) == 2)
        to[i] = static_cast<float>(from[row.offset + i * row.stride]);
      else
        to[i] = static_cast<Real>(from[row.offset + i * row.stride]);
    }
  };
  switch (x.dtype) {
    case DType::f32:
      return all(x.as<float>());
    case DType::f64:
      return all(x.as<double>());
    case DType::f16:
      return all(x.as<Float16>());
    case DType::bf16:
      return all(x.as<BFloat16>());
  }
}

template <class Real>
void write(const Real* from, const TensorView& x, std::initializer_list<std::int64_t> index) {
  const Row row = row_of(x.geometry, index);
  const auto all = [&]<class Element>(Element* to) {
    for (std::int64_t i = 0; i < row.count; ++i) {
      if constexpr (sizeof(Element) == 2)
        to[row.offset + i * row.stride] = Element(static_cast<float>(from[i]));
      else
        to[row.offset + i * row.stride] = static_cast<Element>(from[i]);
    }
  };
  switch (x.dtype) {
    case DType::f32:
      return all(x.as<float>());
    case DType::f64:
      return all(x.as<double>());
    case DType::f16:
      return all(x.as<Float16>());
    case DType::bf16:
      return all(x.as<BFloat16>());
  }
}

/// A state (Dk, Dv) of one batch and head.
template <class Real>
void read_state(const ConstTensorView& x, std::int64_t batch, std::int64_t head, Real* to) {
  for (std::int64_t d = 0; d < x.extent(2); ++d) read(x, {batch, head, d}, to + d * x.extent(3));
}
template <class Real>
void write_state(const Real* from, const TensorView& x, std::int64_t batch, std::int64_t head) {
  for (std::int64_t d = 0; d < x.extent(2); ++d) write(from + d * x.extent(3), x, {batch, head, d});
}

/// The tokens of one batch and head of a problem, read as Real one at a time.
///
///     Z = diag(alpha_t) S_(t-1)    u_t = v_t, or beta_t (v_t - Z^T k_t) for the delta kinds    S_t = Z + k_t u_t^T
///
/// Where a document begins (but the first) S_(t-1) is zero and alpha_t is never read.
template <class Real>
struct Head {
  using State = std::vector<Real>;  // (Dk, Dv)

  Head(const Linear& problem_, std::int64_t batch_, std::int64_t head_)
      : problem(problem_),
        batch(batch_),
        head(head_),
        num_tokens(problem.q.extent(1)),
        key_dim(problem.q.extent(3)),
        value_dim(problem.v.extent(3)),
        q(size(key_dim)),
        k(size(key_dim)),
        v(size(value_dim)),
        alpha(size(key_dim)),
        bonus(size(key_dim)),
        starts(size(num_tokens)) {
    if (problem.bonus) read(problem.bonus, {head}, bonus.data());
    std::int64_t first = 0;
    for (const std::int64_t length : problem.documents) {
      if (first > 0 && first < num_tokens) starts[size(first)] = true;
      first += length;
    }
  }

  static std::size_t size(std::int64_t count) { return static_cast<std::size_t>(count); }
  [[nodiscard]] std::size_t state_size() const { return size(key_dim * value_dim); }

  void load(std::int64_t token) {
    read(problem.q, {batch, token, head}, q.data());
    read(problem.k, {batch, token, head}, k.data());
    read(problem.v, {batch, token, head}, v.data());
    if (problem.beta) read(problem.beta, {batch, token, head}, &beta);
    const ConstTensorView& log_decay = problem.log_decay;
    alpha.assign(alpha.size(), Real(0));
    if (log_decay && log_decay.geometry.num_axes == 4) {
      read(log_decay, {batch, token, head}, alpha.data());
    } else if (log_decay) {
      Real one = 0;
      if (log_decay.geometry.num_axes == 1)
        read(log_decay, {head}, &one);
      else
        read(log_decay, {batch, token, head}, &one);
      alpha.assign(alpha.size(), one);
    }
    for (Real& a : alpha) a = starts_at(token) ? Real(0) : std::exp(a);
  }

  /// x <- diag(alpha) x.
  void decay(State& x) const {
    Real* at = x.data();
    for (const Real a : alpha) {
      for (std::size_t e = 0; e < v.size(); ++e) *at++ *= a;
    }
  }
  /// v - x^T k.
  [[nodiscard]] std::vector<Real> missing(const State& x) const {
    std::vector<Real> result = v;
    const Real* at = x.data();
    for (const Real one : k) {
      for (Real& r : result) r -= one * *at++;
    }
    return result;
  }
  /// S <- diag(alpha) S + k u^T for the loaded token.
  void step(State& state) const {
    decay(state);
    std::vector<Real> u = v;
    if (problem.beta) {
      u = missing(state);
      for (Real& one : u) one *= beta;
    }
    Real* at = state.data();
    for (const Real one : k) {
      for (const Real add : u) *at++ += one * add;
    }
  }
  /// sum_d q_d bonus_d k_d.
  [[nodiscard]] Real bonus_weight() const {
    Real sum = 0;
    for (std::size_t d = 0; d < q.size(); ++d) sum += q[d] * bonus[d] * k[d];
    return sum;
  }

  [[nodiscard]] State entering() const {
    State state(state_size(), Real(0));
    if (problem.state_in) read_state(problem.state_in, batch, head, state.data());
    return state;
  }

  /// Does a document begin at this token, and not the first?
  [[nodiscard]] bool starts_at(std::int64_t token) const { return starts[size(token)]; }
  /// First token behind the document that begins at `first`.
  [[nodiscard]] std::int64_t document_end(std::int64_t first) const {
    std::int64_t end = first + 1;
    while (end < num_tokens && !starts_at(end)) ++end;
    return end;
  }
  /// Sum of k v^T over tokens [first, end).
  [[nodiscard]] State document_sum(std::int64_t first, std::int64_t end) {
    State state(state_size(), Real(0));
    for (std::int64_t t = first; t < end; ++t) {
      load(t);
      step(state);
    }
    return state;
  }

  const Linear& problem;
  std::int64_t batch, head, num_tokens, key_dim, value_dim;
  std::vector<Real> q, k, v, alpha, bonus;
  Real beta = 0;
  std::vector<bool> starts;  // (N)
};

inline void check_axes(const char* who, const char* what, const Geometry& got, std::initializer_list<std::int64_t> want) {
  const Geometry expected = contiguous(want);
  if (got.num_axes == expected.num_axes && got.shape == expected.shape) return;
  throw Error(ErrorKind::argument, fmt::format("{}: {} is {}, want {}", who, what, to_string(got), to_string(expected)));
}

inline void check_documents(const char* who, const Linear& p) {
  if (p.documents.empty()) return;
  std::int64_t sum = 0;
  for (const std::int64_t length : p.documents) {
    if (length < 0) throw Error(ErrorKind::argument, fmt::format("{}: a length in documents is {}, want 0 or more", who, length));
    sum += length;
  }
  if (sum == p.q.extent(1)) return;
  throw Error(ErrorKind::argument, fmt::format("{}: documents sum to {}, want N = {}", who, sum, p.q.extent(1)));
}

inline void check_problem(const char* who, const Linear& p) {
  const std::int64_t batch = p.q.extent(0), tokens = p.q.extent(1), heads = p.q.extent(2), key_dim = p.q.extent(3);
  check_axes(who, "q", p.q.geometry, {batch, tokens, heads, key_dim});
  check_axes(who, "k", p.k.geometry, {batch, tokens, heads, key_dim});
  check_axes(who, "v", p.v.geometry, {batch, tokens, heads, p.v.extent(3)});
  if (p.state_in) check_axes(who, "state_in", p.state_in.geometry, {batch, heads, key_dim, p.v.extent(3)});
  if (p.beta) check_axes(who, "beta", p.beta.geometry, {batch, tokens, heads});
  if (p.bonus) check_axes(who, "bonus", p.bonus.geometry, {heads, key_dim});
  if (p.beta && p.bonus) {
    throw Error(ErrorKind::argument, fmt::format("{}: beta and bonus are both given, want one kind: delta or RWKV6", who));
  }
  if (!p.causal && (p.log_decay || p.beta || p.bonus || p.state_in)) {
    const char* what = p.log_decay ? "log_decay" : p.beta ? "beta" : p.bonus ? "bonus" : "state_in";
    throw Error(ErrorKind::argument, fmt::format("{}: {} is given and causal is false, want causal = true or neither", who, what));
  }
  check_documents(who, p);
  if (!p.log_decay) return;
  const int axes = p.log_decay.geometry.num_axes;
  if (axes == 1)
    check_axes(who, "log_decay", p.log_decay.geometry, {heads});
  else if (axes == 3)
    check_axes(who, "log_decay", p.log_decay.geometry, {batch, tokens, heads});
  else
    check_axes(who, "log_decay", p.log_decay.geometry, {batch, tokens, heads, key_dim});
}

}  // namespace reference::linear_detail
SEQCCL_END
