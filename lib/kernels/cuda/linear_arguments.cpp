// linear_arguments.cpp - what linear ops on a device ask of their arguments.
// SPDX-License-Identifier: Apache-2.0
#include "linear_arguments.hpp"

#include <fmt/format.h>

SEQCCL_BEGIN
namespace cuda {

namespace {
constexpr std::int64_t max_linear_head = 256;
}

void check_linear(const char* who, const char* what, const ConstTensorView& x, std::int64_t e0, std::int64_t e1, std::int64_t e2,
                  std::int64_t e3, bool any) {
  check_shape(who, what, x, e0, e1, e2, e3);
  if (!any) check_f32(who, what, x);
  if (x.dtype == DType::f64) refuse(who, fmt::format("{} is f64, want f32, f16 or bf16", what));
}

LinearSizes linear_sizes(const char* who, const char* what, const ConstTensorView& q, const ConstTensorView& log_decay,
                         const ConstTensorView& beta, std::int64_t value_dim) {
  if (q.geometry.num_axes != 4) refuse(who, fmt::format("{} is {}, want four axes (B, T, H, Dk)", what, to_string(q.geometry)));
  LinearSizes s{q.extent(0), q.extent(1), q.extent(2), q.extent(3), value_dim, log_decay ? 1 : 0};
  check_linear(who, what, q, s.batch, s.tokens, s.heads, s.key_dim, true);
  if (s.key_dim < 1 || value_dim < 1 || s.key_dim > max_linear_head || value_dim > max_linear_head)
    refuse(who, fmt::format("heads have Dk = {}, Dv = {} elements, want 1 to {} on a CUDA device", s.key_dim, value_dim, max_linear_head));
  if (s.tokens >= max_rows) refuse(who, fmt::format("{} tokens, want fewer than {}", s.tokens, max_rows));
  if (log_decay) {
    const bool scalar = log_decay.geometry.num_axes == 4 && log_decay.extent(3) == 1;
    s.width = scalar ? 1 : s.key_dim;
    check_linear(who, "log_decay", log_decay, s.batch, s.tokens, s.heads, s.width);
  }
  if (beta) check_linear(who, "beta", beta, s.batch, s.tokens, s.heads, 1);
  return s;
}

void check_values(const char* who, const char* what, const ConstTensorView& x, const LinearSizes& s) {
  check_linear(who, what, x, s.batch, s.tokens, s.heads, s.value_dim, true);
}
void check_state(const char* who, const char* what, const ConstTensorView& x, const LinearSizes& s) {
  check_linear(who, what, x, s.batch, s.heads, s.key_dim, s.value_dim);
}
void check_log_sum(const char* who, const ConstTensorView& log_sum, const LinearSizes& s) {
  if (!log_sum) return;
  const bool fits = log_sum.geometry.num_axes == 4 && (s.width > 0 || log_sum.extent(2) == 1 || log_sum.extent(2) == s.key_dim);
  check_linear(who, "log_sum", log_sum, s.batch, s.heads, fits && s.width == 0 ? log_sum.extent(2) : s.width, 1);
}
void check_bonus(const char* who, const ConstTensorView& bonus, const LinearSizes& s) {
  if (!bonus) return;
  check_linear(who, "bonus", bonus, s.batch, s.tokens, s.heads, s.key_dim);
  if ((s.batch > 1 && bonus.stride(0) != 0) || (s.tokens > 1 && bonus.stride(1) != 0))
    refuse(who,
           fmt::format("bonus has strides {} and {} over batch and tokens, want 0: it is one per head", bonus.stride(0), bonus.stride(1)));
}

}  // namespace cuda
SEQCCL_END
