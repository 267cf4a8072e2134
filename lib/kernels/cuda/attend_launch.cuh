// attend_launch.cuh - starts an attend kernel: a block per tile of rows and part of the keys.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "attend_problem.hpp"

SEQCCL_BEGIN
namespace cuda {

template <class Problem>
int launch_attend(void (*kernel)(Problem), const Problem& problem, int num_threads, int shared_bytes, Stream stream) {
  const std::int64_t num_blocks = std::int64_t{problem.batch} * problem.num_runs * problem.num_tiles * problem.num_parts;
  if (const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes)) return error;
  kernel<<<static_cast<unsigned>(num_blocks), num_threads, shared_bytes, stream>>>(problem);
  return cudaGetLastError();
}

}  // namespace cuda
SEQCCL_END
