// linear_job.hpp - one linear attention problem on whole tensors, computed by ranks.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "command/measure.hpp"
#include "command/tensor.hpp"
#include "seqccl/linear_attention.hpp"

namespace seqccl::command {

/// Whole tensors: q, k (B, N, H, Dk), v (B, N, H, Dv); log_decay absent, (H), (B, N, H) or (B, N, H, Dk); beta (B, N, H) of the delta
/// kinds, bonus (H, Dk) of rwkv6; optional state_in and dstate_out (B, H, Dk, Dv), dout (B, N, H, Dv).
struct LinearTensors {
  HostTensor q, k, v, log_decay, state_in, dout, dstate_out, beta, bonus;
};

/// The kind that bonus, beta and the shape of log_decay mean. @throws Error(argument) if they mean none
[[nodiscard]] LinearKind kind_of(const LinearTensors& tensors);

/// Checks the tensors against each other and the kind, and fills in the spec's sizes. @throws Error(argument) naming the tensor
void describe_shapes(const LinearTensors& tensors, LinearSpec& spec);

/// Random tensors of the spec's sizes, as `bench` uses them: gates mostly near 1, keys of delta kinds of norm 1, beta in (0, 1).
[[nodiscard]] LinearTensors random_linear(const LinearSpec& spec, bool backward, std::uint64_t seed);

struct LinearResult {
  HostTensor out, state_out;
  HostTensor dq, dk, dv, dlog_decay, dstate_in, dbeta, dbonus;  // absent without backward (or without log_decay, state_in, beta, bonus)
  Measurement forward, backward;
};
[[nodiscard]] LinearResult run_linear(const LinearTensors& tensors, const LinearSpec& spec, const RunSettings& settings, bool backward);

}  // namespace seqccl::command
