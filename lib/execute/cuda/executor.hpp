// executor.hpp - runs plans on a device: a stream per lane, an event where a lane waits for another.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "plan.hpp"
#include "seqccl/cuda.hpp"
#include "watchdog.hpp"

SEQCCL_BEGIN
namespace cuda {

class CudaExecutor final : public Executor {
 public:
  /// `control`: the rank's end on the host; what a run says of itself goes there.
  CudaExecutor(Transport& control, std::unique_ptr<DeviceTransport> data, const DeviceOptions& options);

  /// Data first: with a device that waits for ever for a message, no memory could be given back.
  ~CudaExecutor() override {
    watchdog_.reset();
    data_.reset();
  }
  CudaExecutor(const CudaExecutor&) = delete;
  CudaExecutor& operator=(const CudaExecutor&) = delete;

  void run(const Schedule& schedule, const Bindings& memory, const RunOptions& options) override;
  /// Workspace of plans: grows, the old one is kept for graphs that were captured with it.
  [[nodiscard]] std::byte* arena(std::size_t num_bytes) {
    const CurrentDevice current(device_);
    return arena_.at_least(num_bytes);
  }
  [[nodiscard]] int device() const noexcept { return device_; }
  void set_stream(Stream stream) noexcept { stream_ = stream; }
  [[nodiscard]] const DeviceCounts& counts() const noexcept { return counts_; }
  [[nodiscard]] DeviceTransport& data() noexcept { return *data_; }
  [[nodiscard]] std::vector<std::uint64_t> received_bytes() const { return {received_bytes_.begin(), received_bytes_.end()}; }
  [[nodiscard]] std::vector<std::uint64_t> received_messages() const { return {received_messages_.begin(), received_messages_.end()}; }
  /// Held by whoever calls the rank's end on the host or that of data: the caller's thread or the watchdog.
  [[nodiscard]] std::mutex& calls() noexcept { return calls_; }
  /// Nothing looks after what is on its way any more.
  void stop_watching() { watchdog_.reset(); }

 private:
  class Memory {
   public:
    [[nodiscard]] std::byte* at_least(std::size_t num_bytes);
    [[nodiscard]] std::size_t num_bytes() const noexcept { return num_bytes_; }

   private:
    std::vector<MemoryHandle> all_;  // the last one is in use
    std::size_t num_bytes_ = 0;
  };

  /// The plan's, made if this is its first run.
  const DevicePlan& plan_of(const Schedule& schedule, const Bindings& memory, const RunOptions& options);
  [[noreturn]] void end_group(const Error& error);
  void begin_operation(const Schedule& schedule, const RunOptions& options);
  void enqueue(const Schedule& schedule, const Bindings& memory, const RunOptions& options, const DevicePlan& plan);
  void enqueue_watched(const Schedule& schedule, const Bindings& memory, const RunOptions& options, const DevicePlan& plan);
  [[nodiscard]] bool is_capturing() const;
  void exchange(const Schedule& schedule, const Bindings& memory, const Step& step);
  [[nodiscard]] cudaStream_t stream_of(Lane lane);
  [[nodiscard]] cudaEvent_t event(std::size_t index);
  void record(cudaEvent_t event, cudaStream_t stream);
  void wait(cudaStream_t stream, cudaEvent_t event);

  Transport& control_;
  std::unique_ptr<DeviceTransport> data_;
  int device_ = current_device();  // whatever thread the operations come from
  Stream stream_;
  std::size_t op_workspace_bytes_;
  Memory arena_, workspace_;
  std::array<StreamHandle, num_lanes> streams_;  // of lane 0: none, the caller's
  std::vector<EventHandle> events_;              // fork, a join per lane, then those of steps
  std::map<const Schedule*, DevicePlan> plans_;
  std::vector<DeviceMessage> sends_, receives_;  // of the exchange in hand
  std::vector<std::atomic<std::uint64_t>> received_bytes_, received_messages_;
  DeviceCounts counts_;
  std::mutex calls_;
  std::unique_ptr<Watchdog> watchdog_;  // last: its thread uses the others
};

}  // namespace cuda
SEQCCL_END
