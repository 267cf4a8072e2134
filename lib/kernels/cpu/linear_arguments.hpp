// linear_arguments.hpp - what the linear kernels ask of their arguments.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "seqccl/tensor.hpp"

SEQCCL_BEGIN
namespace cpu::linear {

/// @throws Error(argument) unless the view has four axes of these extents and elements of a head lie side by side.
void check_view(const char* who, const char* what, const ConstTensorView& x, std::int64_t e0, std::int64_t e1, std::int64_t e2,
                std::int64_t e3, bool f32_only);
/// The same for a bonus, (B, T, H, Dk) f32 with strides 0 on B, T, or absent.
void check_bonus(const char* who, const ConstTensorView& bonus, std::int64_t batch, std::int64_t tokens, std::int64_t heads,
                 std::int64_t key_dim);
/// The same for log_decay, (B, T, H, 1 or Dk) f32 or absent.
void check_log_decay(const char* who, const ConstTensorView& log_decay, std::int64_t batch, std::int64_t tokens, std::int64_t heads,
                     std::int64_t key_dim);

/// Is dlog_decay one number per head, summed over batch and tokens? One token of one batch has the same extents: there strides of 0 tell
/// a constant decay, whose share may be added to others, from a gate, which has one run.
[[nodiscard]] bool is_constant(const ConstTensorView& log_decay, const ConstTensorView& dlog_decay, std::int64_t batch,
                               std::int64_t tokens);

}  // namespace cpu::linear
SEQCCL_END
