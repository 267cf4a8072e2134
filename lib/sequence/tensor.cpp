// tensor.cpp - extents and strides of borrowed memory.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/tensor.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <limits>

#include "seqccl/error.hpp"

SEQCCL_BEGIN

bool Geometry::is_contiguous() const noexcept {
  if (num_elements() == 0) return true;
  std::int64_t dense = 1;
  for (int axis = num_axes - 1; axis >= 0; --axis) {
    if (shape[axis] != 1 && strides[axis] != dense) return false;
    dense *= shape[axis];
  }
  return true;
}

Geometry contiguous(std::initializer_list<std::int64_t> shape) {
  if (shape.size() > max_axes)
    throw Error(ErrorKind::argument, fmt::format("contiguous: shape has {} axes, want at most {}", shape.size(), max_axes));
  Geometry result;
  result.num_axes = static_cast<int>(shape.size());
  std::copy(shape.begin(), shape.end(), result.shape.begin());
  std::int64_t dense = 1;
  for (int axis = result.num_axes - 1; axis >= 0; --axis) {
    const std::int64_t extent = result.shape[axis];
    if (extent < 0) throw Error(ErrorKind::argument, fmt::format("contiguous: shape[{}] is {}, want 0 or more", axis, extent));
    result.strides[axis] = dense;
    // An empty axis counts as 1, so that the strides of the axes before it stay representable too.
    if (__builtin_mul_overflow(dense, std::max<std::int64_t>(extent, 1), &dense))
      throw Error(ErrorKind::argument, fmt::format("contiguous: shape {} has too many elements, want fewer than 2^63", to_string(result)));
  }
  return result;
}

std::string to_string(const Geometry& geometry) {
  std::string text = "(";
  for (int axis = 0; axis < std::min(geometry.num_axes, max_axes); ++axis)
    fmt::format_to(std::back_inserter(text), "{}{}", axis == 0 ? "" : ", ", geometry.shape[axis]);
  return text + ")";
}

SEQCCL_END
