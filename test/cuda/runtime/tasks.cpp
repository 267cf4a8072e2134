// tasks.cpp - the order of work: a task runs when somebody waits for it, after all that it must follow, otherwise in any order.
// SPDX-License-Identifier: Apache-2.0
#include "runtime.hpp"

namespace standin {

Runtime& runtime() {
  static auto* const the_runtime = new Runtime;  // never destroyed: objects register their kernels and leave at unknown times
  return *the_runtime;
}

void Runtime::reset(u64 new_seed) {
  const std::lock_guard lock(mutex);
  pending.clear();
  streams.clear();
  events.clear();
  pinned.clear();
  launches.clear();
  default_streams.clear();
  num_devices = 1;
  last_error() = sticky_error = cudaSuccess;
  num_host_waits = 0;
  drops_wait = nullptr;
  for (const auto& binary : binaries) binary->module.reset();
  for (auto& [host, function] : functions) function.max_dynamic_shared_bytes = 48 << 10;
  memory = std::make_unique<ptx::DeviceMemory>();
  seed = new_seed;
  random.seed(new_seed);
}

std::string Runtime::reports() const {
  std::string all;
  for (const LaunchRecord& launch : launches) {
    if (!launch.result.clean()) all += launch.kernel + ":\n" + launch.result.text();
  }
  return all;
}

Stream* Runtime::stream(cudaStream_t handle) {
  if (handle == nullptr || handle == cudaStreamLegacy) {
    Stream& stream = default_streams[current_device()];
    stream.device = current_device(), stream.is_default = true;
    return &stream;
  }
  const auto found = streams.find(handle);
  return found == streams.end() ? nullptr : found->second.get();
}

cudaError_t Runtime::fail(cudaError_t error) {
  if (error != cudaSuccess) last_error() = error;
  return error;
}

/// After the stream's last task. The default stream is ordered with every blocking stream, both ways (CUDA programming guide, default
/// stream: "an operation in the legacy default stream waits for all work in blocking streams, and they wait for it").
u64 Runtime::enqueue(Stream& stream, std::string name, std::function<cudaError_t()> run) {
  if (stream.capture) {
    Graph& graph = stream.capture->graph;
    graph.nodes.push_back({std::move(name), stream.capture_last, std::move(run), stream.device});
    stream.capture_last = {graph.nodes.size() - 1};
    return 0;
  }
  Task task{std::move(name), std::move(stream.also_after), std::move(run), stream.device};
  stream.also_after.clear();
  task.after.push_back(stream.last);
  if (stream.is_default) {
    for (const auto& [handle, other] : streams)
      if (other->blocking && other->device == stream.device) task.after.push_back(other->last);
  } else if (stream.blocking) {
    task.after.push_back(default_streams[stream.device].last);
  }
  pending.emplace(++num_tasks, std::move(task));
  stream.last = num_tasks;
  news.notify_all();
  return num_tasks;
}

std::set<u64> Runtime::ancestors(u64 task) const {
  std::set<u64> found;
  std::vector<u64> left{task};
  while (!left.empty()) {
    const u64 next = left.back();
    left.pop_back();
    const auto at = pending.find(next);
    if (at == pending.end() || !found.insert(next).second) continue;
    left.insert(left.end(), at->second.after.begin(), at->second.after.end());
  }
  return found;
}

std::set<u64> Runtime::all_pending() const {
  std::set<u64> all;
  for (const auto& [id, task] : pending) all.insert(id);
  return all;
}

/// Runs one task of `among` that may run, the first or a random one; the next, if it waits for tasks of other streams.
bool Runtime::run_one(const std::set<u64>& among) {
  std::vector<u64> ready;
  for (const u64 id : among) {
    const auto at = pending.find(id);
    if (at == pending.end()) continue;
    bool free = true;
    for (const u64 before : at->second.after) free = free && is_done(before);
    if (free) ready.push_back(id);
  }
  while (!ready.empty()) {
    const auto chosen = ready.begin() + static_cast<std::ptrdiff_t>(seed == 0 ? 0 : random() % ready.size());
    const u64 id = *chosen;
    ready.erase(chosen);
    const cudaError_t error = sticky_error != cudaSuccess ? sticky_error : pending.at(id).run();
    if (error == cudaErrorNotReady) continue;
    pending.erase(id);
    if (error != cudaSuccess) sticky_error = error;  // what a device does wrong ends its context
    return true;
  }
  return false;
}

/// Half of the time other streams go on too, as they would; and where that is what it waits for. If nothing can run, others must enqueue.
cudaError_t Runtime::run_until(u64 task) {
  while (!is_done(task)) {
    const bool others = seed != 0 && random() % 2 == 0;
    if (run_one(others ? all_pending() : ancestors(task)) || run_one(all_pending())) continue;
    news.wait_for(mutex, std::chrono::milliseconds(20));
  }
  return fail(sticky_error);
}

cudaError_t Runtime::run_device(int device) {
  std::vector<u64> all;
  for (const auto& [id, task] : pending)
    if (task.device == device) all.push_back(id);
  for (const u64 id : all) run_until(id);
  return fail(sticky_error);
}

}  // namespace standin
