// on_device.hpp - ranks as threads, each with a device of the stand-in: their tensors there, their operations on streams.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "api/place.hpp"
#include "cuda/device_operands.hpp"
#include "cuda/runtime/runtime.hpp"
#include "cuda_layers/nccl_world.hpp"
#include "seqccl/nccl.hpp"
#include "support/watchdog.hpp"

namespace seqccl::test {

using DeviceEnds = std::vector<std::unique_ptr<cuda::DeviceTransport>>;

/// A rank's tensors on the device; its operations on a stream of its own.
class OnDevice final : public Place {
 public:
  OnDevice(Communicator& comm, std::unique_ptr<cuda::DeviceTransport> data, cuda::DeviceOptions options = {}) {
    require(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
    options.stream = stream_, options.op_workspace_bytes = 0;
    cuda::use_device(comm, std::move(data), options);
  }
  ~OnDevice() override { cudaStreamDestroy(stream_); }
  ConstTensorView in(const ConstTensorView& host) override { return operands_.in(host); }
  TensorView out(const TensorView& host) override { return operands_.out(host); }
  [[nodiscard]] cudaStream_t stream() const { return stream_; }
  void finish() override {
    require(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
    operands_.download();
  }

 private:
  cudaStream_t stream_ = nullptr;
  DeviceOperands operands_;
};

/// Ends a test whose ranks or devices hang.
struct Guarded {
  std::shared_ptr<Watchdog> dog = std::make_shared<Watchdog>(std::chrono::seconds(300));
};

/// Ranks that share a device, without a watchdog, which would bring the device further at any moment.
struct MakeDevice : Guarded {
  explicit MakeDevice(int num_ranks)
      : ends(std::make_shared<DeviceEnds>(cuda::shared_device_transports(num_ranks, std::chrono::seconds(100)))) {}
  std::unique_ptr<Place> operator()(Communicator& comm) const {
    return std::make_unique<OnDevice>(comm, std::move((*ends)[static_cast<std::size_t>(comm.rank())]),
                                      cuda::DeviceOptions{.watch_interval = {}});
  }
  std::shared_ptr<DeviceEnds> ends;
};

/// Each rank a device, NCCL between them.
struct MakeNccl : Guarded {
  explicit MakeNccl(int num_ranks, std::uint64_t seed = 1, cuda::DeviceOptions device = {.watch_interval = {}}, cuda::NcclOptions nccl = {})
      : options(std::move(device)), nccl_options(nccl) {
    standin::runtime().num_devices = num_ranks;
    nccl_world().reset(seed, static_cast<int>(seed % 4));
  }
  std::unique_ptr<Place> operator()(Communicator& comm) const {
    require(cudaSetDevice(comm.rank()), "cudaSetDevice");
    return std::make_unique<OnDevice>(comm, cuda::nccl_transport(comm, nccl_options), options);
  }
  cuda::DeviceOptions options;
  cuda::NcclOptions nccl_options;
};

}  // namespace seqccl::test
