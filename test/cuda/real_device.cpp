// real_device.cpp - the same tests on a GPU: test/run --gpu.
// SPDX-License-Identifier: Apache-2.0
#include "cuda/device.hpp"

namespace seqccl::test {

void begin(std::uint64_t) {
  int count = 0;
  require(cudaGetDeviceCount(&count), "cudaGetDeviceCount");
  cudaGetLastError();
}
std::string reports() {
  const cudaError_t error = cudaDeviceSynchronize();
  return error == cudaSuccess ? "" : cudaGetErrorString(error);
}

}  // namespace seqccl::test
