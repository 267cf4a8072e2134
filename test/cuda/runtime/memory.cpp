// memory.cpp - device memory, pinned host memory and copies.
// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>
#include <cstring>

#include "runtime.hpp"
#include "seqccl/error.hpp"

namespace standin {
namespace {

u64 address(const void* pointer) { return reinterpret_cast<u64>(pointer); }
bool is_device(const void* pointer) { return runtime().memory->near(address(pointer)) != nullptr; }
bool is_pinned(const void* pointer, size_t num_bytes) {
  const auto after = runtime().pinned.upper_bound(pointer);
  if (after == runtime().pinned.begin()) return false;
  const auto& [first, size] = *std::prev(after);
  return address(pointer) + num_bytes <= address(first) + size;
}

/// A range of device memory that is not there is an error of the call.
cudaError_t try_to(const std::function<void()>& access) {
  try {
    access();
  } catch (const std::exception&) {
    return cudaErrorInvalidValue;
  }
  return cudaSuccess;
}

bool has(const void* pointer, size_t num_bytes) {
  return try_to([&] { (void)runtime().memory->range(address(pointer), num_bytes, "copy"); }) == cudaSuccess;
}

cudaError_t copy(void* to, const void* from, size_t num_bytes, cudaMemcpyKind kind, cudaStream_t handle, bool wait) {
  Runtime& r = runtime();
  const std::lock_guard lock(r.mutex);
  if (r.sticky_error != cudaSuccess) return r.sticky_error;
  Stream* stream = r.stream(handle);
  if (stream == nullptr) return r.fail(cudaErrorInvalidResourceHandle);
  const bool to_device = is_device(to), from_device = is_device(from);
  const cudaMemcpyKind real = to_device ? (from_device ? cudaMemcpyDeviceToDevice : cudaMemcpyHostToDevice)
                                        : (from_device ? cudaMemcpyDeviceToHost : cudaMemcpyHostToHost);
  if (kind != cudaMemcpyDefault && kind != real) return r.fail(cudaErrorInvalidValue);
  if (num_bytes == 0) return cudaSuccess;
  ptx::DeviceMemory& memory = *r.memory;
  std::function<void()> move;
  bool pageable_target = false;
  if (to_device && from_device) {
    if (!has(to, num_bytes) || !has(from, num_bytes)) return r.fail(cudaErrorInvalidValue);
    move = [=, &memory] { memory.copy(address(to), address(from), num_bytes); };
  } else if (to_device) {
    if (!has(to, num_bytes)) return r.fail(cudaErrorInvalidValue);
    if (is_pinned(from, num_bytes)) {
      move = [=, &memory] { memory.write(address(to), from, num_bytes); };
    } else {  // staged before the call returns
      std::vector<u8> staged(static_cast<const u8*>(from), static_cast<const u8*>(from) + num_bytes);
      move = [=, &memory] { memory.write(address(to), staged.data(), num_bytes); };
    }
  } else if (from_device) {
    if (!has(from, num_bytes)) return r.fail(cudaErrorInvalidValue);
    pageable_target = !is_pinned(to, num_bytes);  // "the function will return only once the copy has completed"
    move = [=, &memory] { memory.read(to, address(from), num_bytes); };
  } else {
    move = [=] { std::memmove(to, from, num_bytes); };
  }
  const bool waits = wait || pageable_target;
  if (waits && stream->capture) {
    stream->capture->broken = true;
    return r.fail(cudaErrorStreamCaptureUnsupported);
  }
  const u64 task = r.enqueue(*stream, "copy", [move] { return try_to(move); });
  if (!waits) return cudaSuccess;
  ++r.num_host_waits;
  return r.run_until(task);
}

cudaError_t fill(void* to, int value, size_t num_bytes, cudaStream_t handle, bool wait) {
  Runtime& r = runtime();
  const std::lock_guard lock(r.mutex);
  if (r.sticky_error != cudaSuccess) return r.sticky_error;
  Stream* stream = r.stream(handle);
  if (stream == nullptr) return r.fail(cudaErrorInvalidResourceHandle);
  if (num_bytes == 0) return cudaSuccess;
  ptx::DeviceMemory& memory = *r.memory;
  if (!has(to, num_bytes)) return r.fail(cudaErrorInvalidValue);
  const u64 task =
      r.enqueue(*stream, "memset", [=, &memory] { return try_to([&] { memory.fill(address(to), static_cast<u8>(value), num_bytes); }); });
  return wait ? r.run_until(task) : cudaSuccess;
}

}  // namespace
}  // namespace standin

using standin::runtime;

extern "C" {
cudaError_t cudaMalloc(void** pointer, size_t num_bytes) {
  const std::lock_guard lock(runtime().mutex);
  if (runtime().sticky_error != cudaSuccess) return runtime().sticky_error;
  *pointer = reinterpret_cast<void*>(runtime().memory->allocate(num_bytes, "cudaMalloc"));
  return cudaSuccess;
}
cudaError_t cudaFree(void* pointer) {  // waits for the device, as CUDA's does
  const std::lock_guard lock(runtime().mutex);
  if (pointer == nullptr) return cudaSuccess;
  ++runtime().num_host_waits;
  if (const cudaError_t error = runtime().run_device(standin::current_device())) return error;
  return runtime().fail(standin::try_to([&] { runtime().memory->free(reinterpret_cast<standin::u64>(pointer)); }));
}
cudaError_t cudaMallocHost(void** pointer, size_t num_bytes) {
  const std::lock_guard lock(runtime().mutex);
  *pointer = std::malloc(std::max<size_t>(1, num_bytes));
  runtime().pinned[*pointer] = num_bytes;
  return *pointer == nullptr ? runtime().fail(cudaErrorMemoryAllocation) : cudaSuccess;
}
cudaError_t cudaFreeHost(void* pointer) {
  const std::lock_guard lock(runtime().mutex);
  if (runtime().pinned.erase(pointer) == 0) return runtime().fail(cudaErrorInvalidValue);
  std::free(pointer);
  return cudaSuccess;
}
cudaError_t cudaHostRegister(void* pointer, size_t num_bytes, unsigned) {
  const std::lock_guard lock(runtime().mutex);
  return runtime().pinned.emplace(pointer, num_bytes).second ? cudaSuccess : runtime().fail(cudaErrorHostMemoryAlreadyRegistered);
}
cudaError_t cudaHostUnregister(void* pointer) {
  const std::lock_guard lock(runtime().mutex);
  return runtime().pinned.erase(pointer) == 1 ? cudaSuccess : runtime().fail(cudaErrorHostMemoryNotRegistered);
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t num_bytes, cudaMemcpyKind kind) {
  return standin::copy(to, from, num_bytes, kind, nullptr, true);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t num_bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  return standin::copy(to, from, num_bytes, kind, stream, false);
}
cudaError_t cudaMemset(void* to, int value, size_t num_bytes) { return standin::fill(to, value, num_bytes, nullptr, true); }
cudaError_t cudaMemsetAsync(void* to, int value, size_t num_bytes, cudaStream_t stream) {
  return standin::fill(to, value, num_bytes, stream, false);
}
}
