// executor.hpp - runs plans on a device: a stream per lane, an event where a lane waits for another.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "plan.hpp"
#include "seqccl/cuda.hpp"

SEQCCL_BEGIN
namespace cuda {

class CudaExecutor final : public Executor {
 public:
  /// `control`: the rank's end on the host; what a run says of itself goes there.
  CudaExecutor(Transport& control, std::unique_ptr<DeviceTransport> data, const DeviceOptions& options);

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
  [[nodiscard]] const std::vector<std::uint64_t>& received_bytes() const noexcept { return received_bytes_; }
  [[nodiscard]] const std::vector<std::uint64_t>& received_messages() const noexcept { return received_messages_; }

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
  void enqueue(const Schedule& schedule, const Bindings& memory, const RunOptions& options, const DevicePlan& plan);
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
  std::vector<std::uint64_t> received_bytes_, received_messages_;
  DeviceCounts counts_;
};

}  // namespace cuda
SEQCCL_END
