// linear_arguments.hpp - what linear ops on a device ask of their arguments.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "attend_arguments.hpp"
#include "linear_segment.hpp"

SEQCCL_BEGIN
namespace cuda {

/// @throws Error(argument) unless x is (e0, e1, e2, e3), its last axis contiguous, of f32, or if `any` of f32, f16 or bf16
void check_linear(const char* who, const char* what, const ConstTensorView& x, std::int64_t e0, std::int64_t e1, std::int64_t e2,
                  std::int64_t e3, bool any = false);
/// Sizes of a run from q or k (B, T, H, Dk) and the width of the values; q, log_decay and beta are checked.
[[nodiscard]] LinearSizes linear_sizes(const char* who, const char* what, const ConstTensorView& q, const ConstTensorView& log_decay,
                                       const ConstTensorView& beta, std::int64_t value_dim);
/// A tensor of values (B, T, H, Dv), of states (B, H, Dk, Dv), of log_sum (B, H, W, 1), of a bonus (B, T, H, Dk).
void check_values(const char* who, const char* what, const ConstTensorView& x, const LinearSizes& sizes);
void check_state(const char* who, const char* what, const ConstTensorView& x, const LinearSizes& sizes);
void check_log_sum(const char* who, const ConstTensorView& log_sum, const LinearSizes& sizes);
void check_bonus(const char* who, const ConstTensorView& bonus, const LinearSizes& sizes);

}  // namespace cuda
SEQCCL_END
