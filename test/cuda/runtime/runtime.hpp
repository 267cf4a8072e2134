// runtime.hpp - a CUDA runtime without a device: what the calls in the other files of this folder keep, and what tests ask of it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "ptx/launch.hpp"

namespace standin {

using ptx::u32;
using ptx::u64;
using ptx::u8;

/// Work that was enqueued: it may run once all `after` have run. Nothing runs before somebody waits for it. If `run` returns
/// cudaErrorNotReady it has begun and waits for tasks of other streams: it is run again later.
struct Task {
  std::string name;
  std::vector<u64> after;
  std::function<cudaError_t()> run;
  int device = 0;
};

/// A task of a graph; `after` are indices into the graph's nodes. Every launch runs a copy of `run`.
struct Node {
  std::string name;
  std::vector<u64> after;
  std::function<cudaError_t()> run;
  int device = 0;
};
struct Graph {
  std::vector<Node> nodes;
};

struct Capture {
  Graph graph;
  std::set<const void*> streams;  // that have joined
  const void* origin = nullptr;
  bool broken = false;
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  std::thread::id thread{};  // that began it
};

struct Stream {
  int device = 0;
  bool is_default = false;
  bool blocking = true;         // ordered with the default stream
  u64 last = 0;                 // newest task
  std::vector<u64> also_after;  // what the next task waits for besides
  std::shared_ptr<Capture> capture;
  std::vector<u64> capture_last;  // nodes that the next one comes after
};

struct Event {
  int device = 0;
  u64 task = 0;
  bool recorded = false;
  std::shared_ptr<Capture> capture;
  std::vector<u64> nodes;
};

/// PTX of one compiled object, loaded when a kernel of it is first launched.
struct Binary {
  std::string text;
  std::unique_ptr<ptx::Module> module;
};
struct Function {
  Binary* binary = nullptr;
  std::string name;
  int max_dynamic_shared_bytes = 48 << 10;
};

/// What a launch was, with its counters once it has run.
struct LaunchRecord {
  std::string kernel;
  ptx::Dim grid, block;
  u64 dynamic_shared_bytes = 0;
  ptx::Result result;
};

/// The devices and their one host process. All devices share their memory.
struct Runtime {
  std::recursive_mutex mutex;
  std::condition_variable_any news;  // work was enqueued: who waits for the device may get on
  int num_devices = 1;
  std::unique_ptr<ptx::DeviceMemory> memory = std::make_unique<ptx::DeviceMemory>();
  std::map<const void*, Function> functions;  // outlive reset(), as the program's kernels do
  std::vector<std::unique_ptr<Binary>> binaries;

  std::map<u64, Task> pending;
  u64 num_tasks = 0, num_handles = 0;
  std::map<int, Stream> default_streams;  // by device
  std::map<const void*, std::unique_ptr<Stream>> streams;
  std::map<const void*, std::unique_ptr<Event>> events;
  std::map<const void*, u64> pinned;  // host memory that copies reach at any time: address, bytes

  cudaError_t sticky_error = cudaSuccess;
  std::mt19937_64 random{0};
  u64 seed = 0;

  // What tests look at.
  std::vector<LaunchRecord> launches;
  u64 num_host_waits = 0;                              // calls that made the host wait for the device
  std::function<bool(const void* stream)> drops_wait;  // a mutant: whether this cudaStreamWaitEvent does nothing

  /// A new device: no memory, no streams. `seed` 0: tasks run in the order in which they were enqueued, blocks and warps in order; others:
  /// a random order that streams and events allow, and random orders inside kernels.
  void reset(u64 seed);
  /// All reports of all launches; "" if there are none.
  [[nodiscard]] std::string reports() const;

  // For the calls.
  [[nodiscard]] Stream* stream(cudaStream_t handle);
  u64 enqueue(Stream& stream, std::string name, std::function<cudaError_t()> run);
  cudaError_t run_until(u64 task);
  /// All that has been enqueued on the device so far.
  cudaError_t run_device(int device);
  /// One task if any can run: what happens meanwhile while somebody only asks.
  void run_a_little() { run_one(all_pending()); }
  /// Whether this thread may now make calls that CUDA calls potentially unsafe (cudaThreadExchangeStreamCaptureMode); if not, the captures
  /// that forbid it are broken.
  [[nodiscard]] bool may_be_unsafe();
  [[nodiscard]] bool is_done(u64 task) const { return task == 0 || pending.count(task) == 0; }
  cudaError_t fail(cudaError_t error);  // kept for cudaGetLastError

 private:
  bool run_one(const std::set<u64>& among);  // false if none can
  [[nodiscard]] std::set<u64> ancestors(u64 task) const;
  [[nodiscard]] std::set<u64> all_pending() const;
};

Runtime& runtime();
/// Of the calling thread.
[[nodiscard]] int& current_device();
[[nodiscard]] cudaError_t& last_error();

}  // namespace standin
