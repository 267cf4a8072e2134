// device_operands.hpp - tensors of the host on a device, there and back.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <deque>

#include "cuda/device.hpp"

namespace seqccl::test {

/// Host views become views of device memory of exactly their bytes, the same for the same address; what is written comes back at the end.
class DeviceOperands {
 public:
  /// Only read.
  ConstTensorView in(const ConstTensorView& x) { return place(x, true, false); }
  /// Written, and, unless `fresh` and dense, uploaded before: a kernel that reads what nobody wrote is found.
  TensorView out(const TensorView& x, bool fresh = true) {
    const ConstTensorView there = place(x, !fresh || !is_dense(x), true);
    return {const_cast<void*>(there.data), there.dtype, there.geometry};
  }
  void download() const {
    for (const Copy& copy : copies_)
      if (copy.is_written) require(cudaMemcpy(copy.host, copy.buffer.data(), copy.num_bytes, cudaMemcpyDeviceToHost), "cudaMemcpy");
  }

 private:
  struct Copy {
    Copy(const void* from, std::size_t count, bool written)
        : host(const_cast<void*>(from)), num_bytes(count), is_written(written), buffer(std::max<std::size_t>(count, 1)) {}
    void* host;
    std::size_t num_bytes;
    bool is_written;
    DeviceBuffer buffer;
  };
  static std::size_t bytes_of(const ConstTensorView& x) {
    if (x.geometry.num_elements() == 0) return 0;
    std::int64_t last = 0;
    for (int axis = 0; axis < x.geometry.num_axes; ++axis) last += (x.geometry.shape[axis] - 1) * x.geometry.strides[axis];
    return static_cast<std::size_t>(last + 1) * size_bytes(x.dtype);
  }
  static bool is_dense(const ConstTensorView& x) {
    return bytes_of(x) == static_cast<std::size_t>(x.geometry.num_elements()) * size_bytes(x.dtype);
  }
  ConstTensorView place(const ConstTensorView& x, bool upload, bool is_written) {
    if (!x) return x;
    for (Copy& copy : copies_) {
      if (copy.host != x.data) continue;
      copy.is_written = copy.is_written || is_written;
      return {copy.buffer.data(), x.dtype, x.geometry};
    }
    const std::size_t num_bytes = bytes_of(x);
    copies_.emplace_back(x.data, num_bytes, is_written);
    void* const data = copies_.back().buffer.data();
    if (upload && num_bytes > 0) require(cudaMemcpy(data, x.data, num_bytes, cudaMemcpyHostToDevice), "cudaMemcpy");
    return {data, x.dtype, x.geometry};
  }
  std::deque<Copy> copies_;
};

}  // namespace seqccl::test
