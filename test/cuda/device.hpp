// device.hpp - host tensors to the device and back, and an attend launch with all that it needs.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <string>

#include "seqccl/cuda_kernels.hpp"
#include "support/tensor.hpp"

namespace seqccl::test {

/// A clean device: the stand-in of runtime/ with an order of things by `seed` (0: as enqueued), or a real one, which has its own order.
void begin(std::uint64_t seed);
/// What the stand-in's interpreter found wrong in all launches since; a real device says less: its last error.
[[nodiscard]] std::string reports();

inline void require(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

/// Device memory of `num_bytes`, freed at the end.
class DeviceBuffer {
 public:
  explicit DeviceBuffer(std::size_t num_bytes) { require(cudaMalloc(&data_, num_bytes), "cudaMalloc"); }
  DeviceBuffer(const void* from, std::size_t num_bytes) : DeviceBuffer(num_bytes) {
    require(cudaMemcpy(data_, from, num_bytes, cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  ~DeviceBuffer() { cudaFree(data_); }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  [[nodiscard]] void* data() const { return data_; }

 private:
  void* data_ = nullptr;
};

/// A host tensor's copy on the device: exactly its bytes, so that an access beyond them is found.
struct DeviceTensor {
  DeviceBuffer buffer;
  TensorView device;

  /// `upload` false: memory that nobody has written.
  explicit DeviceTensor(const HostTensor& host, bool upload = true) : buffer(host.bytes.size()) {
    if (upload) require(cudaMemcpy(buffer.data(), host.bytes.data(), host.bytes.size(), cudaMemcpyHostToDevice), "cudaMemcpy");
    device = {buffer.data(), host.dtype, host.geometry};
  }
  void download(HostTensor& host) const {
    require(cudaMemcpy(host.bytes.data(), buffer.data(), host.bytes.size(), cudaMemcpyDeviceToHost), "cudaMemcpy");
  }
};

/// Plans and launches; `a` has views of device memory, slices on the host. Waits.
inline void attend_on_device(const AttendArguments& a, cudaStream_t stream = nullptr) {
  const cuda::AttendPlan plan = cuda::plan_attend(a);
  const DeviceBuffer slices(plan.slices.data(), plan.slices.size()), workspace(plan.workspace_bytes);
  cuda::attend(a, plan, slices.data(), workspace.data(), stream);
  require(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
}

inline void attend_backward_on_device(const AttendBackwardArguments& a, cudaStream_t stream = nullptr) {
  const cuda::AttendBackwardPlan plan = cuda::plan_attend_backward(a);
  const DeviceBuffer slices(plan.slices.data(), plan.slices.size());
  cuda::attend_backward(a, plan, slices.data(), stream);
  require(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
}

}  // namespace seqccl::test
