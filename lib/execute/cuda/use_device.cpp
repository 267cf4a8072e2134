// use_device.cpp - puts a device in the place of the host: memory, and who runs plans.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <cstdlib>
#include <mutex>
#include <new>
#include <string_view>
#include <utility>

#include "executor.hpp"
#include "seqccl/log.hpp"

SEQCCL_BEGIN
namespace cuda {
namespace {

/// The rank's end on the host, for all that is not data: failures, statuses, what is going on. Plans run on the device.
class DeviceEnd final : public Transport {
 public:
  DeviceEnd(std::unique_ptr<Transport> host, std::unique_ptr<DeviceTransport> data, const DeviceOptions& options)
      : host_(std::move(host)), executor_(*host_, std::move(data), options), name_(fmt::format("cuda over {}", executor_.data().name())) {}

  Rank rank() const noexcept override { return host_->rank(); }
  int num_ranks() const noexcept override { return host_->num_ranks(); }
  const char* name() const noexcept override { return name_.c_str(); }
  Executor* executor() noexcept override { return &executor_; }
  [[nodiscard]] CudaExecutor& on_device() noexcept { return executor_; }

  std::byte* arena(std::size_t num_bytes) override { return executor_.arena(num_bytes); }
  Buffer allocate(std::size_t num_bytes) override {
    if (num_bytes == 0) return {};
    const CurrentDevice current(executor_.device());
    return {allocate_on_device(num_bytes).release(), num_bytes, [](std::byte* memory) { cudaFree(memory); }};
  }
  std::uint64_t arm(const Message&) override { refuse(); }
  bool try_send(const Message&) override { refuse(); }
  bool arrived(Rank, Lane, std::uint64_t) override { refuse(); }

  void check() override {
    const std::lock_guard lock(executor_.calls());
    host_->check();
    executor_.data().check();
  }
  /// The new communicator is on the host.
  ShrunkTransport shrink(std::chrono::nanoseconds timeout) override {
    executor_.stop_watching();
    executor_.data().abort(Error(ErrorKind::dead, fmt::format("rank {} of {}: its communicator was shrunk", rank(), num_ranks())));
    try {
      executor_.data().check();
    } catch (const Error&) {  // it has ended now
    }
    return host_->shrink(timeout);
  }
  void idle(int attempt, SteadyClock::time_point deadline) override { host_->idle(attempt, deadline); }
  int inline_spins() const noexcept override { return host_->inline_spins(); }
  void wake() noexcept override { host_->wake(); }
  void abort(const Error& error) noexcept override {
    executor_.data().abort(error);
    host_->abort(error);
  }
  RankStatus& status(Rank rank) noexcept override { return host_->status(rank); }
  SteadyClock::time_point status_time(Rank rank) const noexcept override { return host_->status_time(rank); }
  void ask_for_status(Rank rank) noexcept override { host_->ask_for_status(rank); }
  void describe_operation(std::string_view text) override { host_->describe_operation(text); }
  std::vector<std::uint64_t> received_bytes() const override { return executor_.received_bytes(); }
  std::vector<std::uint64_t> received_messages() const override { return executor_.received_messages(); }

 private:
  [[noreturn]] void refuse() const {
    throw Error(ErrorKind::argument,
                fmt::format("rank {} of {}: run_host on a communicator of a CUDA device, want its operations", rank(), num_ranks()));
  }
  std::unique_ptr<Transport> host_;
  CudaExecutor executor_;
  std::string name_;
};

DeviceEnd& end_of(Communicator& comm, const char* who) {
  if (auto* const end = dynamic_cast<DeviceEnd*>(&comm.transport())) return *end;
  throw Error(ErrorKind::argument,
              fmt::format("{}: the communicator is on the host ({}), want use_device before", who, comm.transport().name()));
}

}  // namespace

void use_device(Communicator& comm, std::unique_ptr<DeviceTransport> data, const DeviceOptions& options) {
  const char* who = "use_device";
  if (comm.transport().executor() != nullptr)
    throw Error(ErrorKind::argument, fmt::format("{}: the communicator is on a device already ({})", who, comm.transport().name()));
  if (!data) throw Error(ErrorKind::argument, fmt::format("{}: data is null, want a DeviceTransport of rank {}", who, comm.rank()));
  if (data->rank() != comm.rank() || data->num_ranks() != comm.size())
    throw Error(ErrorKind::argument, fmt::format("{}: data is of rank {} of {}, want rank {} of {}", who, data->rank(), data->num_ranks(),
                                                 comm.rank(), comm.size()));
  if (const char* connections = std::getenv("CUDA_DEVICE_MAX_CONNECTIONS"); connections != nullptr && std::string_view(connections) == "1")
    log_line(
        fmt::format("rank {} of {}: CUDA_DEVICE_MAX_CONNECTIONS is 1: lanes go to the device one after the other, so messages may "
                    "wait for kernels; want it unset, or at least {}",
                    comm.rank(), comm.size(), num_lanes));
  comm.wrap_transport(
      [&](std::unique_ptr<Transport> host) { return std::make_unique<DeviceEnd>(std::move(host), std::move(data), options); });
}

void set_stream(Communicator& comm, Stream stream) { end_of(comm, "set_stream").on_device().set_stream(stream); }

DeviceCounts last_counts(Communicator& comm) { return end_of(comm, "last_counts").on_device().counts(); }

}  // namespace cuda
SEQCCL_END
