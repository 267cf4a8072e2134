// tensor_test.cpp - extents, strides and their texts.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/tensor.hpp"

#include <gtest/gtest.h>

#include <limits>

#include "refusal.hpp"

namespace seqccl {
namespace {

TEST(Geometry, LastAxisIsFastest) {
  const Geometry geometry = contiguous({2, 3, 4, 5});
  EXPECT_EQ(geometry.num_axes, 4);
  EXPECT_EQ(geometry.strides, (std::array<std::int64_t, 5>{60, 20, 5, 1, 0}));
  EXPECT_EQ(geometry.num_elements(), 120);
  EXPECT_TRUE(geometry.is_contiguous());
  EXPECT_EQ(to_string(geometry), "(2, 3, 4, 5)");
}

TEST(Geometry, NoAxesIsOneElement) {
  const Geometry geometry = contiguous({});
  EXPECT_EQ(geometry.num_elements(), 1);
  EXPECT_TRUE(geometry.is_contiguous());
  EXPECT_EQ(to_string(geometry), "()");
}

TEST(Geometry, EmptyAxesAreContiguousWithUsableStrides) {
  const Geometry geometry = contiguous({3, 0, 4});
  EXPECT_EQ(geometry.num_elements(), 0);
  EXPECT_TRUE(geometry.is_contiguous());
  EXPECT_EQ(geometry.strides[0], 4);
}

TEST(Geometry, AxesOfOneMayHaveAnyStride) {
  Geometry geometry = contiguous({2, 1, 4});
  geometry.strides[1] = -77;
  EXPECT_TRUE(geometry.is_contiguous());
}

TEST(Geometry, PaddedTransposedReversedAndRepeatedAreNotContiguous) {
  const Geometry dense = contiguous({2, 3, 4});
  Geometry padded = dense, transposed = dense, reversed = dense, repeated = dense;
  padded.strides[0] = 13;
  transposed.strides = {12, 1, 3, 0, 0};
  reversed.strides[2] = -1;
  repeated.strides[1] = 0;
  EXPECT_FALSE(padded.is_contiguous());
  EXPECT_FALSE(transposed.is_contiguous());
  EXPECT_FALSE(reversed.is_contiguous());
  EXPECT_FALSE(repeated.is_contiguous());
}

TEST(Geometry, RefusesWhatItCannotHold) {
  constexpr std::int64_t huge = std::numeric_limits<std::int64_t>::max();
  EXPECT_REFUSED("shape has 6 axes", contiguous({1, 1, 1, 1, 1, 1}));
  EXPECT_REFUSED("shape[1] is -3", contiguous({2, -3}));
  EXPECT_REFUSED("too many elements", contiguous({std::int64_t{1} << 32, std::int64_t{1} << 31}));
  EXPECT_REFUSED("too many elements", contiguous({0, huge, 2}));
  EXPECT_EQ(contiguous({std::int64_t{1} << 32, (std::int64_t{1} << 31) - 1}).num_elements(), ((std::int64_t{1} << 31) - 1) << 32);
  EXPECT_EQ(contiguous({huge}).num_elements(), huge);
}

TEST(View, IsReadableAndTestable) {
  float data[6] = {1, 2, 3, 4, 5, 6};
  const TensorView writable = view(data, f32, {2, 3});
  const ConstTensorView readable = writable;
  EXPECT_TRUE(writable);
  EXPECT_EQ(readable.extent(1), 3);
  EXPECT_EQ(readable.stride(0), 3);
  EXPECT_EQ(readable.as<float>()[5], 6);
  EXPECT_FALSE(ConstTensorView{});
}

}  // namespace
}  // namespace seqccl
