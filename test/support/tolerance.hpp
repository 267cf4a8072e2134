// tolerance.hpp - the numerics rule: as good as plain loops in f32 on the same rounded inputs, and never beyond hard caps.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include "support/tensor.hpp"

namespace seqccl::test {

/// Expects got ~ want (double reference): max error <= 2 x the plain run's + 4 eps(dtype) max|want|, relative RMS below the hard cap
/// of dtype (three times for gradients); `leniency` times that where products have fewer digits than f32.
inline void expect_accurate(const HostTensor& got, const HostTensor& want, const HostTensor& plain, DType dtype, bool gradient,
                            const char* name, double leniency = 1) {
  const Distance ours = distance(got, want), bar = distance(plain, want);
  const double factor = (gradient ? 3 : 1) * leniency;
  const double cap = dtype == f32 ? 2e-6 : dtype == f16 ? 2e-3 : 1.2e-2;
  EXPECT_LE(ours.max, factor * (2 * bar.max + 4 * epsilon(dtype) * ours.reference_max)) << name << ": largest error";
  EXPECT_LE(ours.relative_rms, factor * (2 * bar.relative_rms + 4 * epsilon(dtype))) << name << ": relative RMS against the plain run";
  EXPECT_LE(ours.relative_rms, factor * cap) << name << ": relative RMS against the hard cap";
}

}  // namespace seqccl::test
