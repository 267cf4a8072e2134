// device.hpp - what the executor keeps on a device: memory, streams, events; each given back with its owner.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <type_traits>

#include "seqccl/error.hpp"

SEQCCL_BEGIN
namespace cuda {

/// @throws Error(local) in CUDA's words if `error` is one; `what` failed
void require_cuda(cudaError_t error, const char* what);

struct FreeMemory {
  void operator()(std::byte* memory) const noexcept { cudaFree(memory); }
};
struct DestroyStream {
  void operator()(cudaStream_t stream) const noexcept { cudaStreamDestroy(stream); }
};
struct DestroyEvent {
  void operator()(cudaEvent_t event) const noexcept { cudaEventDestroy(event); }
};
using MemoryHandle = std::unique_ptr<std::byte, FreeMemory>;
using StreamHandle = std::unique_ptr<std::remove_pointer_t<cudaStream_t>, DestroyStream>;
using EventHandle = std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, DestroyEvent>;

/// @throws std::bad_alloc if the device has not so much
[[nodiscard]] MemoryHandle allocate_on_device(std::size_t num_bytes);
/// Of the highest priority, not ordered with the default stream.
[[nodiscard]] StreamHandle make_stream();
[[nodiscard]] EventHandle make_event();

/// Makes a device current for this thread as long as it lives.
class CurrentDevice {
 public:
  explicit CurrentDevice(int device);
  ~CurrentDevice();
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

 private:
  int before_ = 0, device_;
};
/// The one that is current.
[[nodiscard]] int current_device();

}  // namespace cuda
SEQCCL_END
