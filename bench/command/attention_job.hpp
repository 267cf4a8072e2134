// attention_job.hpp - one softmax attention problem on whole tensors, computed by ranks.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "command/lanes.hpp"
#include "command/measure.hpp"
#include "command/tensor.hpp"
#include "command/trace.hpp"
#include "seqccl/attention.hpp"

namespace seqccl::command {

/// Whole tensors: q (B, N, Hq, Dk), k (B, N, Hkv, Dk), v (B, N, Hkv, Dv), dout (B, N, Hq, Dv) and sinks (Hq) optional.
struct AttentionTensors {
  HostTensor q, k, v, dout, sinks;
};

/// Checks the tensors against each other and fills in the spec's sizes. @throws Error(argument) naming the tensor
void describe_shapes(const AttentionTensors& tensors, AttentionSpec& spec);

/// Random tensors of the spec's sizes, as `bench` uses them.
[[nodiscard]] AttentionTensors random_attention(const AttentionSpec& spec, bool backward, std::uint64_t seed);

struct AttentionResult {
  AttentionSpec chosen{};         // what ran: its method is never automatic
  HostTensor out, lse;            // (B, N, Hq, Dv), (B, Hq, N) f32
  HostTensor dq, dk, dv, dsinks;  // absent if there was no backward
  Measurement forward, backward;
  LaneTimes forward_lanes, backward_lanes;  // with settings.lanes
  std::vector<TraceStep> trace;
};

/// Shards, runs, unshards. Backward runs if `backward`; it needs dout. Method::automatic is resolved by the library: see `chosen`.
/// @throws Error of any kind
[[nodiscard]] AttentionResult run_attention(const AttentionTensors& tensors, const AttentionSpec& spec, const RunSettings& settings,
                                            bool backward);

/// Floating point operations of the problem itself, whatever the method: 2 pairs Hq (Dk + Dv) forward, 2 pairs Hq (3 Dk + 2 Dv) backward.
[[nodiscard]] double attention_flops(const AttentionSpec& spec, bool backward);

}  // namespace seqccl::command
