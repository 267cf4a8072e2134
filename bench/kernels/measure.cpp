// measure.cpp - a kernel and the peak of a core in turns, so that what slows the machine slows both.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>

#include "kernels/peak.hpp"
#include "kernels/rows.hpp"

namespace seqccl::bench {

std::vector<KernelRow> kernel_rows() {
  std::vector<KernelRow> all = attend_rows();
  for (KernelRow& row : linear_rows()) all.push_back(std::move(row));
  return all;
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

KernelRun measure(const Prepared& kernel, int num_threads) {
  const double before = peak_flops();
  const auto wall = std::chrono::steady_clock::now();
  const double begin = thread_seconds();
  kernel.run();
  const double cpu_s = thread_seconds() - begin;
  const double wall_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - wall).count();
  const double peak = 0.5 * (before + peak_flops()) * num_threads, seconds = num_threads == 1 ? cpu_s : wall_s;
  return {seconds, kernel.flops / seconds, peak};
}

}  // namespace seqccl::bench
