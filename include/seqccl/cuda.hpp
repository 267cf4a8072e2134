// cuda.hpp - a communicator's operations on a CUDA device: enqueued on streams, data moved between devices.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "seqccl/communicator.hpp"
#include "seqccl/cuda_kernels.hpp"

SEQCCL_BEGIN
namespace cuda {

/// One message of an exchange; `data` is device memory.
struct DeviceMessage {
  Rank peer = 0;
  std::byte* data = nullptr;
  std::size_t num_bytes = 0;
};

/// One rank's end of moving bytes between devices. Calls come from one thread of the rank at a time, except abort().
class DeviceTransport {
 public:
  virtual ~DeviceTransport() = default;
  [[nodiscard]] virtual Rank rank() const noexcept = 0;
  [[nodiscard]] virtual int num_ranks() const noexcept = 0;
  [[nodiscard]] virtual const char* name() const noexcept = 0;
  /// What was asked for, what is known of what became of it.
  [[nodiscard]] virtual std::string describe() const { return name(); }
  /// Before the first step of a plan with exchanges: are these lanes there, can exchanges be captured if the stream is?
  /// @throws Error(argument) if not
  virtual void prepare(std::span<const Lane> lanes, bool is_capturing) = 0;
  /// Enqueues the messages of one exchange step on `stream`. The i-th send from A to B on a lane meets B's i-th receive from A on it.
  /// No device is waited for; other ranks' threads may be.
  virtual void exchange(Lane lane, std::span<const DeviceMessage> sends, std::span<const DeviceMessage> receives, Stream stream) = 0;
  /// Throws what ended the group; does not wait.
  virtual void check() = 0;
  virtual void abort(const Error& error) noexcept = 0;
};

/// Ranks as threads of this process that share one device: for development. A message is a copy on the receiver's stream, ordered by
/// events; the threads of two ranks meet while they enqueue it, so all ranks must come to their operations within `timeout`.
[[nodiscard]] std::vector<std::unique_ptr<DeviceTransport>> shared_device_transports(
    int num_ranks, std::chrono::nanoseconds timeout = std::chrono::minutes(10));

/// Operations on a device
/// ======================
///
///     run_ranks(4, [&](Communicator& comm) {
///       cudaStream_t stream = ...;                                             // of the device that is current
///       cuda::use_device(comm, std::move(ends[comm.rank()]), {.stream = stream});
///       Attention attention(comm, spec);
///       attention.forward(q, k, v, out, lse);                                  // device memory; enqueued, the host goes on
///     });
///
/// From then on the operations of `comm` are enqueued in order with `stream`, which computes; each communication lane of a plan has a
/// stream of its own with a higher priority, and events order them where the plan's clocks do. Tensors are in device memory and belong to
/// the operation until the stream has come past it. Nothing waits for the device, but the first run of a plan, which copies its tables
/// there and grows the workspace. After that a run allocates nothing and can be captured into a CUDA graph; a captured graph is good as
/// long as the communicator lives. What a custom step (ring, token_ring, kernels of the caller's own) is given are views of device memory:
/// it must enqueue on `stream`.
/// After the call a watchdog, one thread per communicator, looks after what is on its way: it notices that another rank has died or
/// failed, that NCCL has, or that an operation is longer on the device than the communicator's timeout, ends the group for all ranks, and
/// ends NCCL's kernels, so that a stream that was waited for comes to its end (with outputs that are not to be used). The error, which
/// names who is to blame, comes with the next operation, with comm.check(), and to `on_error`. Replays of a graph are watched for failures
/// of ranks and of NCCL, not for their time. Decode and SEQCCL_FAULT are for the host only so far.
struct DeviceOptions {
  Stream stream = nullptr;
  std::size_t op_workspace_bytes = std::size_t{256} << 20;                   // linear ops are cut to need no more, if they can
  std::chrono::nanoseconds watch_interval = std::chrono::milliseconds(100);  // 0: no watchdog
  std::function<void(const Error&)> on_error{};  // called once, on the watchdog's thread: must neither use the communicator nor throw
};
/// @throws Error(argument) if `data` is of another rank or size, or `comm` is on a device already; Error(local) in CUDA's words
void use_device(Communicator& comm, std::unique_ptr<DeviceTransport> data, const DeviceOptions& options = {});
/// Operations that follow are ordered with this stream instead, and with each other. @throws Error(argument) if `comm` is not on a device
void set_stream(Communicator& comm, Stream stream);

/// What the last operation enqueued.
struct DeviceCounts {
  std::uint64_t event_records = 0, event_waits = 0, exchanges = 0, ops = 0;
};
[[nodiscard]] DeviceCounts last_counts(Communicator& comm);

}  // namespace cuda
SEQCCL_END
