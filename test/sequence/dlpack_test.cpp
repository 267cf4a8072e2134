// dlpack_test.cpp - tensors of other libraries, in and out.
// SPDX-License-Identifier: Apache-2.0
#if __has_include(<dlpack/dlpack.h>)
#include "seqccl/dlpack.hpp"

#include <gtest/gtest.h>

#include "refusal.hpp"

namespace seqccl {
namespace {

struct Foreign {
  float data[64]{};
  std::int64_t shape[6] = {2, 3, 4, 1, 1, 1};
  std::int64_t strides[6] = {20, 4, 1, 1, 1, 1};
  DLTensor tensor{};

  Foreign() {
    tensor.data = data;
    tensor.device = {kDLCPU, 0};
    tensor.ndim = 3;
    tensor.dtype = {kDLFloat, 32, 1};
    tensor.shape = shape;
    tensor.strides = strides;
  }
};

TEST(DLPack, TakesShapeStridesAndOffset) {
  Foreign foreign;
  foreign.tensor.byte_offset = 8;
  const TensorView view = from_dlpack(foreign.tensor);
  EXPECT_EQ(view.data, foreign.data + 2);
  EXPECT_EQ(view.dtype, f32);
  EXPECT_EQ(to_string(view.geometry), "(2, 3, 4)");
  EXPECT_EQ(view.stride(0), 20);
  EXPECT_FALSE(view.geometry.is_contiguous());
}

TEST(DLPack, NoStridesMeansContiguous) {
  Foreign foreign;
  foreign.tensor.strides = nullptr;
  const TensorView view = from_dlpack(foreign.tensor);
  EXPECT_TRUE(view.geometry.is_contiguous());
  EXPECT_EQ(view.geometry.strides, contiguous({2, 3, 4}).strides);
}

TEST(DLPack, RoundTripOfEveryType) {
  Foreign foreign;
  for (const DType dtype : {f32, f16, bf16, DType::f64}) {
    TensorView view{foreign.data, dtype, contiguous({2, 1, 4, 2})};
    view.geometry.strides[1] = 0;
    const DLTensor tensor = to_dlpack(view);
    EXPECT_EQ(tensor.dtype.bits, 8 * size_bytes(dtype));
    const TensorView back = from_dlpack(tensor);
    EXPECT_EQ(back.data, view.data);
    EXPECT_EQ(back.dtype, dtype);
    EXPECT_EQ(back.geometry.num_axes, 4);
    EXPECT_EQ(back.geometry.shape, view.geometry.shape);
    EXPECT_EQ(back.geometry.strides, view.geometry.strides);
  }
}

TEST(DLPack, AcceptsPinnedHostMemoryAndScalars) {
  Foreign foreign;
  foreign.tensor.device.device_type = kDLCUDAHost;
  foreign.tensor.ndim = 0;
  EXPECT_EQ(from_dlpack(foreign.tensor).geometry.num_elements(), 1);
}

TEST(DLPack, RefusesWhatItCannotView) {
  Foreign device, axes, integers, lanes, small;
  device.tensor.device.device_type = kDLCUDA;
  EXPECT_REFUSED("device_type is 2", from_dlpack(device.tensor));
  axes.tensor.ndim = 6;
  EXPECT_REFUSED("ndim is 6", from_dlpack(axes.tensor));
  integers.tensor.dtype = {kDLInt, 32, 1};
  EXPECT_REFUSED("dtype is code 0 with 32 bits", from_dlpack(integers.tensor));
  lanes.tensor.dtype.lanes = 4;
  EXPECT_REFUSED("lanes is 4", from_dlpack(lanes.tensor));
  small.tensor.dtype.bits = 8;
  EXPECT_REFUSED("dtype is code 2 with 8 bits", from_dlpack(small.tensor));
}

}  // namespace
}  // namespace seqccl
#endif
