// device.cpp - memory, streams and events of a device.
// SPDX-License-Identifier: Apache-2.0
#include "device.hpp"

#include <fmt/format.h>

#include <new>

SEQCCL_BEGIN
namespace cuda {

void require_cuda(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  (void)cudaGetLastError();
  throw Error(ErrorKind::local, fmt::format("{}: {} ({})", what, cudaGetErrorString(error), cudaGetErrorName(error)));
}

MemoryHandle allocate_on_device(std::size_t num_bytes) {
  void* data = nullptr;
  const cudaError_t error = cudaMalloc(&data, num_bytes);
  if (error == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    throw std::bad_alloc();
  }
  require_cuda(error, "cudaMalloc");
  return MemoryHandle(static_cast<std::byte*>(data));
}

StreamHandle make_stream() {
  int least = 0, greatest = 0;
  require_cuda(cudaDeviceGetStreamPriorityRange(&least, &greatest), "cudaDeviceGetStreamPriorityRange");
  cudaStream_t stream = nullptr;
  require_cuda(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, greatest), "cudaStreamCreateWithPriority");
  return StreamHandle(stream);
}

EventHandle make_event() {
  cudaEvent_t event = nullptr;
  require_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  return EventHandle(event);
}

int current_device() {
  int device = 0;
  require_cuda(cudaGetDevice(&device), "cudaGetDevice");
  return device;
}

CurrentDevice::CurrentDevice(int device) : before_(current_device()), device_(device) {
  if (before_ != device_) require_cuda(cudaSetDevice(device_), "cudaSetDevice");
}
CurrentDevice::~CurrentDevice() {
  if (before_ != device_) cudaSetDevice(before_);
}

}  // namespace cuda
SEQCCL_END
