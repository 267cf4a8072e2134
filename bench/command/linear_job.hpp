// linear_job.hpp - one linear attention problem on whole tensors, computed by ranks as threads.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "command/measure.hpp"
#include "command/tensor.hpp"
#include "seqccl/linear_attention.hpp"

namespace seqccl::command {

/// Whole tensors: q, k (B, N, H, Dk), v (B, N, H, Dv); log_decay absent, (H), (B, N, H) or (B, N, H, Dk); optional state_in and
/// dstate_out (B, H, Dk, Dv), dout (B, N, H, Dv).
struct LinearTensors {
  HostTensor q, k, v, log_decay, state_in, dout, dstate_out;
};

/// The kind that the shape of log_decay means. @throws Error(argument) if it means none
[[nodiscard]] LinearKind kind_of(const LinearTensors& tensors);

/// Checks the tensors against each other and the kind, and fills in the spec's sizes. @throws Error(argument) naming the tensor
void describe_shapes(const LinearTensors& tensors, LinearSpec& spec);

[[nodiscard]] LinearTensors random_linear(const LinearSpec& spec, bool backward, std::uint64_t seed);

struct LinearResult {
  HostTensor out, state_out;
  HostTensor dq, dk, dv, dlog_decay, dstate_in;  // absent without backward (or without log_decay, state_in)
  Measurement forward, backward;
};
[[nodiscard]] LinearResult run_linear(const LinearTensors& tensors, const LinearSpec& spec, const RunSettings& settings, bool backward);

/// Why this spec is refused; empty if it is not.
[[nodiscard]] std::string refusal(const LinearSpec& spec);

}  // namespace seqccl::command
