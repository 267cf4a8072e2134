// on_device.hpp - ranks as threads that share one device: their tensors there, their operations on streams.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "api/place.hpp"
#include "cuda/device_operands.hpp"
#include "cuda/runtime/runtime.hpp"
#include "seqccl/cuda.hpp"

namespace seqccl::test {

using DeviceEnds = std::vector<std::unique_ptr<cuda::DeviceTransport>>;

/// A rank's tensors on the device; its operations on a stream of its own.
class OnDevice final : public Place {
 public:
  OnDevice(Communicator& comm, DeviceEnds& ends) {
    require(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
    cuda::use_device(comm, std::move(ends[static_cast<std::size_t>(comm.rank())]), {.stream = stream_, .op_workspace_bytes = 0});
  }
  ~OnDevice() override { cudaStreamDestroy(stream_); }
  ConstTensorView in(const ConstTensorView& host) override { return operands_.in(host); }
  TensorView out(const TensorView& host) override { return operands_.out(host); }
  [[nodiscard]] const void* stream() const { return stream_; }
  void finish() override {
    require(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
    operands_.download();
  }

 private:
  cudaStream_t stream_ = nullptr;
  DeviceOperands operands_;
};

struct MakeDevice {
  explicit MakeDevice(int num_ranks)
      : ends(std::make_shared<DeviceEnds>(cuda::shared_device_transports(num_ranks, std::chrono::seconds(100)))) {}
  std::unique_ptr<Place> operator()(Communicator& comm) const { return std::make_unique<OnDevice>(comm, *ends); }
  std::shared_ptr<DeviceEnds> ends;
};

}  // namespace seqccl::test
