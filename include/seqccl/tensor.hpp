// tensor.hpp - a borrowed, strided view of memory that someone else owns.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "seqccl/dtype.hpp"

SEQCCL_BEGIN

inline constexpr int max_axes = 5;

/// Extents and strides, both in elements. A stride of 0 repeats one element along its axis.
struct Geometry {
  int num_axes = 0;
  std::array<std::int64_t, max_axes> shape{};
  std::array<std::int64_t, max_axes> strides{};
  bool operator==(const Geometry&) const = default;

  [[nodiscard]] std::int64_t num_elements() const noexcept {
    std::int64_t count = 1;
    for (int axis = 0; axis < num_axes; ++axis) count *= shape[axis];
    return count;
  }
  /// True if the elements lie one after the other, the last axis fastest (axes of extent 1 may have any stride).
  [[nodiscard]] bool is_contiguous() const noexcept;
};

/// A geometry whose last axis is fastest. @throws Error(argument) on negative extents, more than 5 axes or overflow.
[[nodiscard]] Geometry contiguous(std::initializer_list<std::int64_t> shape);

/// "(2, 128, 8, 64)"
[[nodiscard]] std::string to_string(const Geometry& geometry);

/// Read-only view. Does not own; the memory must outlive every call that is given the view.
struct ConstTensorView {
  const void* data = nullptr;
  DType dtype = DType::f32;
  Geometry geometry;
  bool operator==(const ConstTensorView&) const = default;

  [[nodiscard]] std::int64_t extent(int axis) const noexcept { return geometry.shape[axis]; }
  [[nodiscard]] std::int64_t stride(int axis) const noexcept { return geometry.strides[axis]; }
  template <class T>
  [[nodiscard]] const T* as() const noexcept {
    return static_cast<const T*>(data);
  }
  explicit operator bool() const noexcept { return data != nullptr; }
};

/// Writable view.
struct TensorView {
  void* data = nullptr;
  DType dtype = DType::f32;
  Geometry geometry;

  [[nodiscard]] std::int64_t extent(int axis) const noexcept { return geometry.shape[axis]; }
  [[nodiscard]] std::int64_t stride(int axis) const noexcept { return geometry.strides[axis]; }
  template <class T>
  [[nodiscard]] T* as() const noexcept {
    return static_cast<T*>(data);
  }
  explicit operator bool() const noexcept { return data != nullptr; }
  operator ConstTensorView() const noexcept { return {data, dtype, geometry}; }  // a view may always be read
};

/// Views of contiguous memory: `view(q.data(), seqccl::f32, {B, T, H, D})`.
[[nodiscard]] inline TensorView view(void* data, DType dtype, std::initializer_list<std::int64_t> shape) {
  return {data, dtype, contiguous(shape)};
}
[[nodiscard]] inline ConstTensorView view(const void* data, DType dtype, std::initializer_list<std::int64_t> shape) {
  return {data, dtype, contiguous(shape)};
}

SEQCCL_END
