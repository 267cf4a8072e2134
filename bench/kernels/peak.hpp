// peak.hpp - the most floating point work that one core of this machine does in f32, measured beside a kernel.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace seqccl::bench {

/// Runs `rounds` rounds of independent fused multiply-adds that live in registers; returns the floating point operations done.
double multiply_add(std::int64_t rounds);

/// CPU time of this thread: what other work on the machine takes away does not count.
[[nodiscard]] double thread_seconds();

/// Floating point operations a second of one core, over about half a millisecond, now.
[[nodiscard]] double peak_flops();

}  // namespace seqccl::bench
