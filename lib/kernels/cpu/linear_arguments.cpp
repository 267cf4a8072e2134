// linear_arguments.cpp - what the linear kernels ask of their arguments.
// SPDX-License-Identifier: Apache-2.0
#include "linear_arguments.hpp"

#include <fmt/format.h>

#include "seqccl/error.hpp"

SEQCCL_BEGIN
namespace cpu::linear {

void check_view(const char* who, const char* what, const ConstTensorView& x, std::int64_t e0, std::int64_t e1, std::int64_t e2,
                std::int64_t e3, bool f32_only) {
  const bool fits = x.geometry.num_axes == 4 && x.extent(0) == e0 && x.extent(1) == e1 && x.extent(2) == e2 && x.extent(3) == e3;
  if (!fits) {
    throw Error(ErrorKind::argument, fmt::format("{}: {} is {}, want ({}, {}, {}, {})", who, what, to_string(x.geometry), e0, e1, e2, e3));
  }
  if (x.dtype == DType::f64 || (f32_only && x.dtype != DType::f32)) {
    throw Error(ErrorKind::argument, fmt::format("{}: {} is {}, want {}", who, what, name(x.dtype), f32_only ? "f32" : "f32, f16 or bf16"));
  }
  if (e3 > 1 && x.stride(3) != 1) {
    throw Error(ErrorKind::argument, fmt::format("{}: the last axis of {} has stride {}, want 1", who, what, x.stride(3)));
  }
}

void check_bonus(const char* who, const ConstTensorView& bonus, std::int64_t batch, std::int64_t tokens, std::int64_t heads,
                 std::int64_t key_dim) {
  if (!bonus) return;
  check_view(who, "bonus", bonus, batch, tokens, heads, key_dim, true);
  if ((batch > 1 && bonus.stride(0) != 0) || (tokens > 1 && bonus.stride(1) != 0)) {
    throw Error(ErrorKind::argument, fmt::format("{}: bonus has strides {} and {} over batch and tokens, want 0: it is one per head", who,
                                                 bonus.stride(0), bonus.stride(1)));
  }
}

void check_log_decay(const char* who, const ConstTensorView& log_decay, std::int64_t batch, std::int64_t tokens, std::int64_t heads,
                     std::int64_t key_dim) {
  if (!log_decay) return;
  const bool scalar = log_decay.geometry.num_axes == 4 && log_decay.extent(3) == 1;
  check_view(who, "log_decay", log_decay, batch, tokens, heads, scalar ? 1 : key_dim, true);
}

bool is_constant(const ConstTensorView& log_decay, const ConstTensorView& dlog_decay, std::int64_t batch, std::int64_t tokens) {
  if (dlog_decay.extent(0) != 1 || dlog_decay.extent(1) != 1 || dlog_decay.extent(3) != 1) return false;
  return batch != 1 || tokens != 1 || (log_decay && log_decay.stride(0) == 0 && log_decay.stride(1) == 0);
}

}  // namespace cpu::linear
SEQCCL_END
