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
template <class Real>
struct Head {
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
        alpha(size(key_dim)) {}

  static std::size_t size(std::int64_t count) { return static_cast<std::size_t>(count); }
  [[nodiscard]] std::size_t state_size() const { return size(key_dim * value_dim); }

  void load(std::int64_t token) {
    read(problem.q, {batch, token, head}, q.data());
    read(problem.k, {batch, token, head}, k.data());
    read(problem.v, {batch, token, head}, v.data());
    const ConstTensorView& log_decay = problem.log_decay;
    alpha.assign(alpha.size(), Real(0));
    if (log_decay && log_decay.geometry.num_axes == 4) {
      read(log_decay, {batch, token, head}, alpha.data());
    } else if (log_decay) {
      if (log_decay.geometry.num_axes == 1)
        read(log_decay, {head}, alpha.data());
      else
        read(log_decay, {batch, token, head}, alpha.data());
      alpha.assign(alpha.size(), alpha[0]);
    }
    for (Real& a : alpha) a = std::exp(a);
  }

  /// S <- diag(alpha) S + k v^T for the loaded token.
  void step(std::vector<Real>& state) const {
    Real* s = state.data();
    for (std::int64_t d = 0; d < key_dim; ++d) {
      for (std::int64_t e = 0; e < value_dim; ++e, ++s) *s = alpha[size(d)] * *s + k[size(d)] * v[size(e)];
    }
  }

  [[nodiscard]] std::vector<Real> entering() const {
    std::vector<Real> state(state_size(), Real(0));
    if (problem.state_in) read_state(problem.state_in, batch, head, state.data());
    return state;
  }

  const Linear& problem;
  std::int64_t batch, head, num_tokens, key_dim, value_dim;
  std::vector<Real> q, k, v, alpha;
};

inline void check_axes(const char* who, const char* what, const Geometry& got, std::initializer_list<std::int64_t> want) {
  const Geometry expected = contiguous(want);
  if (got.num_axes == expected.num_axes && got.shape == expected.shape) return;
  throw Error(ErrorKind::argument, fmt::format("{}: {} is {}, want {}", who, what, to_string(got), to_string(expected)));
}

inline void check_problem(const char* who, const Linear& p) {
  const std::int64_t batch = p.q.extent(0), tokens = p.q.extent(1), heads = p.q.extent(2), key_dim = p.q.extent(3);
  check_axes(who, "q", p.q.geometry, {batch, tokens, heads, key_dim});
  check_axes(who, "k", p.k.geometry, {batch, tokens, heads, key_dim});
  check_axes(who, "v", p.v.geometry, {batch, tokens, heads, p.v.extent(3)});
  if (p.state_in) check_axes(who, "state_in", p.state_in.geometry, {batch, heads, key_dim, p.v.extent(3)});
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
