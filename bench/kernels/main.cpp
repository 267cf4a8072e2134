// main.cpp - `seqccl_kernels_bench`: the CPU kernels as fractions of the FMA peak of a core, in Google Benchmark.
// SPDX-License-Identifier: Apache-2.0
#include <benchmark/benchmark.h>

#include "kernels/rows.hpp"
#include "seqccl/kernels.hpp"

namespace seqccl::bench {
namespace {

void run(benchmark::State& state, const KernelRow& row) {
  const Prepared kernel = row.prepare();
  kernel.run();  // pages and scratch
  std::vector<double> fractions, rates;
  for (auto iteration : state) {
    (void)iteration;
    const KernelRun one = measure(kernel, row.num_threads);
    benchmark::ClobberMemory();
    state.SetIterationTime(one.seconds);
    fractions.push_back(one.peak_fraction());
    rates.push_back(one.flops_per_s);
  }
  state.counters["of_peak"] = median(fractions);
  state.counters["GFLOP/s"] = median(rates) / 1e9;
}

}  // namespace
}  // namespace seqccl::bench

int main(int argc, char** argv) {
  for (const seqccl::bench::KernelRow& row : seqccl::bench::kernel_rows()) {
    benchmark::RegisterBenchmark(row.name.c_str(), [row](benchmark::State& state) { seqccl::bench::run(state, row); })
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond);
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::AddCustomContext("instruction_set", seqccl::cpu::instruction_set());
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
