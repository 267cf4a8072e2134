// rows.hpp - the CPU kernels that are measured, each in turns with the FMA peak of a core.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace seqccl::bench {

/// A kernel with its operands: what one run computes, and the run.
struct Prepared {
  double flops = 0;
  std::function<void()> run;  // owns the operands
};
struct KernelRow {
  std::string name;  // "forward/causal/S4096/D128"
  int num_threads = 1;
  std::function<Prepared()> prepare;
};

/// All rows. Operations are counted as the library counts them; of attention those of visible pairs only.
[[nodiscard]] std::vector<KernelRow> kernel_rows();
[[nodiscard]] std::vector<KernelRow> attend_rows();
[[nodiscard]] std::vector<KernelRow> linear_rows();

/// One run between two looks at the peak.
struct KernelRun {
  double seconds = 0;  // CPU time where there is one thread, else wall clock
  double flops_per_s = 0;
  double peak_flops_per_s = 0;  // of `num_threads` cores
  [[nodiscard]] double peak_fraction() const { return flops_per_s / peak_flops_per_s; }
};
[[nodiscard]] KernelRun measure(const Prepared& kernel, int num_threads);

[[nodiscard]] double median(std::vector<double> values);

/// Numbers between -1.5 and 1.5 that look like none of each other.
inline std::vector<float> numbers(std::int64_t count, unsigned seed) {
  std::vector<float> result(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < result.size(); ++i) result[i] = std::sin(static_cast<float>((i + seed) % 9973)) * 1.5F;
  return result;
}

}  // namespace seqccl::bench
