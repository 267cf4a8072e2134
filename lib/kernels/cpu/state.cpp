// state.cpp - one step of a scan over states, with diagonal or dense transitions, and blocks of their columns.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "../parallel.hpp"
#include "linear_arguments.hpp"
#include "linear_chunk.hpp"
#include "seqccl/error.hpp"
#include "seqccl/kernels.hpp"
#include "tile.hpp"

SEQCCL_BEGIN
namespace cpu {
namespace {

using namespace linear;

constexpr std::int64_t step_columns = 64;  // of a state, one item of work: columns do not meet in T S

const float* at(const ConstTensorView& x, std::int64_t batch, std::int64_t head, std::int64_t row, std::int64_t column = 0) {
  return x.as<float>() + batch * x.stride(0) + head * x.stride(1) + row * x.stride(2) + column;
}
float* at(const TensorView& x, std::int64_t batch, std::int64_t head, std::int64_t row, std::int64_t column = 0) {
  return x.as<float>() + batch * x.stride(0) + head * x.stride(1) + row * x.stride(2) + column;
}

/// Columns [first, first + count) of T state, over themselves.
void apply_transition(const StateStepArguments& a, std::int64_t b, std::int64_t h, std::int64_t first, std::int64_t count) {
  const std::int64_t key_dim = a.state.extent(2);
  Workspace workspace;
  float* product = workspace.take(key_dim * count);  // (Dk, count)
  tile().gemm(key_dim, count, key_dim, at(a.transition, b, h, 0), a.transition.stride(2), 1, at(a.state, b, h, 0, first), a.state.stride(2),
              product, count, false);
  for (std::int64_t d = 0; d < key_dim; ++d) std::copy_n(product + d * count, count, at(a.state, b, h, d, first));
}

/// Columns [first, first + count) of a (B, H, Dk, Dv) view.
template <class View>
View columns_of(View state, std::int64_t first, std::int64_t count) {
  state.data = state.template as<float>() + first;
  state.geometry.shape[3] = count;
  return state;
}

void check_columns(const char* who, const ConstTensorView& state, const ConstTensorView& columns, std::int64_t first) {
  check_view(who, "state", state, columns.extent(0), columns.extent(1), columns.extent(2), state.extent(3), true);
  check_view(who, "columns", columns, state.extent(0), state.extent(1), state.extent(2), columns.extent(3), true);
  const std::int64_t end = first + columns.extent(3);
  if (first >= 0 && end <= state.extent(3)) return;
  throw Error(ErrorKind::argument,
              fmt::format("{}: columns [{}, {}) of a state with {}, want them inside", who, first, end, state.extent(3)));
}

}  // namespace

// state <- T state + update, T = transition or diag(exp(repeat log_sum)).
void state_step(const StateStepArguments& a) {
  const char* who = "state_step";
  const std::int64_t batch = a.state.extent(0), heads = a.state.extent(1), key_dim = a.state.extent(2), width = a.state.extent(3);
  check_view(who, "state", a.state, batch, heads, key_dim, width, true);
  if (a.update) check_view(who, "update", a.update, batch, heads, key_dim, width, true);
  if (a.log_sum) check_view(who, "log_sum", a.log_sum, batch, heads, a.log_sum.extent(2) == 1 ? 1 : key_dim, 1, true);
  if (a.transition) check_view(who, "transition", a.transition, batch, heads, key_dim, key_dim, true);
  if (a.log_sum && a.transition) throw Error(ErrorKind::argument, "state_step: log_sum and transition are both given, want at most one");

  const std::int64_t num_parts = (width + step_columns - 1) / step_columns;
  parallel_for(batch * heads * num_parts, a.num_threads, [&](std::int64_t item) {
    const std::int64_t b = item / num_parts / heads, h = item / num_parts % heads;
    const std::int64_t first = item % num_parts * step_columns, count = std::min(step_columns, width - first);
    if (a.transition) apply_transition(a, b, h, first, count);
    for (std::int64_t d = 0; d < key_dim; ++d) {
      float* row = at(a.state, b, h, d, first);
      if (a.log_sum && a.repeat != 0) {  // NOTE: 0 times -inf would be NaN
        const double log_sum = *at(a.log_sum, b, h, a.log_sum.extent(2) == 1 ? 0 : d);
        tile().scale(static_cast<float>(std::exp(a.repeat * log_sum)), row, count);
      }
      if (a.update) tile().axpy(1, at(a.update, b, h, d, first), row, count);
    }
  });
}

void take_columns(ConstTensorView state, TensorView columns, std::int64_t first, ThreadBudget num_threads) {
  check_columns("take_columns", state, columns, first);
  copy(columns_of(state, first, columns.extent(3)), columns, num_threads);
}

void put_columns(ConstTensorView columns, TensorView state, std::int64_t first, ThreadBudget num_threads) {
  check_columns("put_columns", state, columns, first);
  copy(columns, columns_of(state, first, columns.extent(3)), num_threads);
}

}  // namespace cpu
SEQCCL_END
