// device_cases.hpp - attention problems that meet every kernel, mask and edge on a device.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cuda/device.hpp"
#include "kernels/attention_case.hpp"
#include "support/ranks.hpp"

namespace seqccl::test {

/// Every kernel, mask and edge at least once: sizes around tiles, head sizes around those of kernels, groups, decode with cut keys.
inline std::vector<AttentionCase> device_cases() {
  constexpr std::int64_t lengths[] = {1, 17, 64, 65, 130, 200},
                         sizes[][2] = {{64, 64}, {96, 96}, {128, 128}, {192, 128}, {256, 256}, {40, 72}, {8, 16}, {80, 80}, {33, 7}};
  constexpr std::int64_t heads[][2] = {{2, 2}, {4, 1}, {3, 1}, {6, 3}};
  constexpr DType types[] = {bf16, f16, bf16, f16, f32};
  std::vector<AttentionCase> all;
  for (std::uint64_t n = 0; n < 45; ++n) {
    const auto& size = sizes[n % 9];
    const auto& head = heads[n / 2 % 4];
    const bool is_slow = types[n % 5] == f32;  // the f32 kernels are slow here too
    if (is_sanitized && n % 4 != 0 && !is_slow) continue;
    if (is_sanitized && is_slow && n > 10) continue;
    all.push_back({.batch = is_slow ? 1 : 1 + static_cast<std::int64_t>(n % 2),
                   .num_queries = lengths[n % (is_slow ? 4 : 6)],
                   .num_keys = lengths[(n * 5 + n / 6) % 6],
                   .q_heads = is_slow ? 2 : head[0],
                   .kv_heads = is_slow ? 1 : head[1],
                   .dk = size[0],
                   .dv = size[1],
                   .dtype = types[n % 5],
                   .shape = static_cast<Shape>(n % 7),
                   .softcap = n % 4 == 3 ? 5.0F : 0.0F,
                   .sinks = n % 3 == 1,
                   .seed = n});
  }
  return all;
}

/// The accuracy rule with the eps of the inputs: weights are rounded to their type before they meet the values; `factor` on the caps.
inline ::testing::AssertionResult close_on_device(const HostTensor& got, const HostTensor& plain, const HostTensor& right, DType dtype,
                                                  double factor = 1) {
  const double cap = dtype == f32 ? 2e-6 : dtype == f16 ? 2e-3 : 1.2e-2, eps = epsilon(dtype);
  const Distance error = distance(got, right), bar = distance(plain, right);
  if (error.max <= 2 * bar.max + 4 * factor * eps * error.reference_max && error.relative_rms <= 2 * bar.relative_rms + 4 * factor * eps &&
      error.relative_rms <= factor * cap)
    return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "max " << error.max << " (plain " << bar.max << ", largest " << error.reference_max
                                       << "), relative RMS " << error.relative_rms;
}

}  // namespace seqccl::test
