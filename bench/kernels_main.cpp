// kernels_main.cpp - `seqccl_kernels_bench`: the CPU kernels as fractions of the FMA peak of a core.
// SPDX-License-Identifier: Apache-2.0
#include "kernels_rows.hpp"
#include "seqccl/kernels.hpp"

int main(int argc, char** argv) {
  seqccl::bench::add_attend_rows();
  seqccl::bench::add_linear_rows();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::AddCustomContext("instruction_set", seqccl::cpu::instruction_set());
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
