// kernels.cpp - kernels of objects that nvcc compiled: found in their fat binaries as PTX, launched in the interpreter.
// SPDX-License-Identifier: Apache-2.0
#include <cstring>
#include <stdexcept>

#include "runtime.hpp"

namespace standin {
namespace {

constexpr int max_shared_bytes = 163 << 10;  // a block's share on sm_80
struct Configuration {
  dim3 grid, block;
  size_t shared_bytes = 0;
  cudaStream_t stream = nullptr;
};
thread_local std::vector<Configuration> configurations;  // of <<<>>> calls under way

/// The text of the PTX entries: a header of 16 bytes with the size of what follows, then entries {kind, header bytes, bytes}.
std::string ptx_text(const unsigned char* fat_binary) {
  const auto read = [&]<class T>(const unsigned char* at, T value) {
    std::memcpy(&value, at, sizeof value);
    return value;
  };
  std::string text;
  const unsigned char *entry = fat_binary + 16, *const end = entry + read(fat_binary + 8, u64{});
  while (entry < end) {
    const auto kind = read(entry, ptx::u16{});
    const auto header_bytes = read(entry + 4, u32{});
    const auto num_bytes = read(entry + 8, u64{});
    if (kind == 1) text.assign(reinterpret_cast<const char*>(entry + header_bytes), num_bytes);
    entry += header_bytes + num_bytes;
  }
  text.resize(std::strlen(text.c_str()));
  return text;
}

const ptx::Kernel& kernel_of(Function& function) {
  Runtime& r = runtime();
  Binary& binary = *function.binary;
  if (binary.text.find(".version") == std::string::npos)
    throw std::runtime_error("the object of kernel " + function.name +
                             " has no PTX in plain text: compile it with code=compute_80 and "
                             "-Xfatbin=--compress=false");
  if (!binary.module) binary.module = std::make_unique<ptx::Module>(*r.memory, binary.text, "device.ptx");
  return binary.module->kernel(function.name);
}

/// What a device refuses (programming guide, table of compute capabilities; __launch_bounds__: "the launch fails" above it).
cudaError_t check_launch(const Function& function, const ptx::Kernel& kernel, dim3 grid, dim3 block, size_t shared_bytes) {
  const u64 threads = u64{block.x} * block.y * block.z;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || threads == 0 || threads > 1024 || block.z > 64) return cudaErrorInvalidConfiguration;
  if (grid.x > 0x7fffffffU || grid.y > 65535 || grid.z > 65535) return cudaErrorInvalidConfiguration;
  const u64 most = kernel.max_threads[0] == 0
                       ? 1024
                       : u64{kernel.max_threads[0]} * std::max(1U, kernel.max_threads[1]) * std::max(1U, kernel.max_threads[2]);
  if (threads > most) return cudaErrorLaunchOutOfResources;
  if (shared_bytes > static_cast<size_t>(function.max_dynamic_shared_bytes)) return cudaErrorInvalidValue;
  if (shared_bytes + kernel.static_shared_bytes > max_shared_bytes) return cudaErrorInvalidValue;
  return cudaSuccess;
}

cudaError_t launch(const void* host, dim3 grid, dim3 block, void** arguments, size_t shared_bytes, cudaStream_t handle) {
  Runtime& r = runtime();
  const std::lock_guard lock(r.mutex);
  if (r.sticky_error != cudaSuccess) return r.sticky_error;
  const auto found = r.functions.find(host);
  if (found == r.functions.end()) return r.fail(cudaErrorInvalidDeviceFunction);
  Stream* stream = r.stream(handle);
  if (stream == nullptr) return r.fail(cudaErrorInvalidResourceHandle);
  if (stream->device != current_device())  // "a kernel launch will fail if the stream is not of the current device"
    return r.fail(cudaErrorInvalidResourceHandle);
  Function& function = found->second;
  const ptx::Kernel& kernel = kernel_of(function);
  if (const cudaError_t error = check_launch(function, kernel, grid, block, shared_bytes)) return r.fail(error);
  std::vector<u8> bytes(kernel.parameter_bytes);
  for (std::size_t n = 0; n < kernel.parameters.size(); ++n)
    std::memcpy(bytes.data() + kernel.parameters[n].offset, arguments[n], kernel.parameters[n].size_bytes);
  const ptx::Dim blocks{grid.x, grid.y, grid.z}, threads{block.x, block.y, block.z};
  r.enqueue(*stream, function.name, [&r, &kernel, name = function.name, blocks, threads, shared_bytes, bytes] {
    LaunchRecord record{name, blocks, threads, shared_bytes, {}};
    record.result = ptx::run(
        kernel, *r.memory,
        {.grid = blocks, .block = threads, .dynamic_shared_bytes = shared_bytes, .arguments = bytes, .seed = r.seed == 0 ? 0 : r.random()});
    const bool completed = record.result.completed;
    r.launches.push_back(std::move(record));
    return completed ? cudaSuccess : cudaErrorLaunchFailure;
  });
  return cudaSuccess;
}

}  // namespace
}  // namespace standin

using standin::runtime;

// What nvcc makes of kernels and <<<>>>. Not documented by NVIDIA; as crt/host_runtime.h declares it.
extern "C" {
void** __cudaRegisterFatBinary(void* wrapper) {
  const unsigned char* data = nullptr;
  std::memcpy(&data, static_cast<char*>(wrapper) + 8, sizeof data);  // after {int magic, version}
  auto binary = std::make_unique<standin::Binary>();
  binary->text = standin::ptx_text(data);
  runtime().binaries.push_back(std::move(binary));
  return reinterpret_cast<void**>(runtime().binaries.back().get());
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void** binary, const char* host, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*, int*) {
  runtime().functions[host] = {reinterpret_cast<standin::Binary*>(binary), name};
}
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream) {
  standin::configurations.push_back({grid, block, shared_bytes, stream});
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared_bytes, void* stream) {
  const standin::Configuration c = standin::configurations.back();
  standin::configurations.pop_back();
  *grid = c.grid, *block = c.block, *shared_bytes = c.shared_bytes, *static_cast<cudaStream_t*>(stream) = c.stream;
  return cudaSuccess;
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* host) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(host));
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t shared_bytes, cudaStream_t stream) {
  return standin::launch(kernel, grid, block, arguments, shared_bytes, stream);
}
cudaError_t cudaLaunchKernel(const void* host, dim3 grid, dim3 block, void** arguments, size_t shared_bytes, cudaStream_t stream) {
  return standin::launch(host, grid, block, arguments, shared_bytes, stream);
}
cudaError_t cudaFuncSetAttribute(const void* host, cudaFuncAttribute attribute, int value) {
  const std::lock_guard lock(runtime().mutex);
  const auto found = runtime().functions.find(host);
  if (found == runtime().functions.end()) return runtime().fail(cudaErrorInvalidDeviceFunction);
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return runtime().fail(cudaErrorInvalidValue);
  const auto static_bytes = static_cast<int>(standin::kernel_of(found->second).static_shared_bytes);
  if (value < 0 || value + static_bytes > standin::max_shared_bytes) return runtime().fail(cudaErrorInvalidValue);
  found->second.max_dynamic_shared_bytes = value;
  return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* host) {
  const std::lock_guard lock(runtime().mutex);
  const auto found = runtime().functions.find(host);
  if (found == runtime().functions.end()) return runtime().fail(cudaErrorInvalidDeviceFunction);
  const ptx::Kernel& kernel = standin::kernel_of(found->second);
  *attributes = {};
  attributes->sharedSizeBytes = kernel.static_shared_bytes;
  attributes->maxThreadsPerBlock = kernel.max_threads[0] == 0 ? 1024 : static_cast<int>(kernel.max_threads[0]);
  attributes->maxDynamicSharedSizeBytes = found->second.max_dynamic_shared_bytes;
  return cudaSuccess;
}
}
