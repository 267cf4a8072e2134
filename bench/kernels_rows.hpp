// kernels_rows.hpp - a row of the kernel benchmark: a kernel and the FMA peak of a core in turns.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels_peak.hpp"

namespace seqccl::bench {

void add_attend_rows();
void add_linear_rows();

/// Numbers between -1.5 and 1.5 that look like none of each other.
inline std::vector<float> numbers(std::int64_t count, unsigned seed) {
  std::vector<float> result(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < result.size(); ++i) result[i] = std::sin(static_cast<float>((i + seed) % 9973)) * 1.5F;
  return result;
}

inline double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

/// Peak and kernel in turns; counters are medians: fraction of the peak of one core, and operations a second.
template <class Run>
void against_peak(benchmark::State& state, double flops, bool one_thread, Run&& run) {
  run();  // pages and scratch
  std::vector<double> fractions, rates;
  for (auto iteration : state) {
    (void)iteration;
    const double before = peak_flops();
    const auto wall = std::chrono::steady_clock::now();
    const double begin = thread_seconds();
    run();
    const double cpu_s = thread_seconds() - begin;
    const double wall_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - wall).count();
    benchmark::ClobberMemory();
    const double seconds = one_thread ? cpu_s : wall_s;
    state.SetIterationTime(seconds);
    fractions.push_back(flops / seconds / (0.5 * (before + peak_flops())));
    rates.push_back(flops / seconds);
  }
  state.counters["of_peak"] = median(fractions);
  state.counters["GFLOP/s"] = median(rates) / 1e9;
}

}  // namespace seqccl::bench
