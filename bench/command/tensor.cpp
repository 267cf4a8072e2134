// tensor.cpp - owning tensors: conversion between element types, random contents.
// SPDX-License-Identifier: Apache-2.0
#include "command/tensor.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>
#include <utility>

#include "seqccl/error.hpp"

namespace seqccl::command {
namespace {

Geometry dense(const std::vector<std::int64_t>& shape, DType dtype) {
  if (shape.size() > static_cast<std::size_t>(max_axes))
    throw Error(ErrorKind::argument, fmt::format("tensor: shape {} has {} axes, want at most {}", to_text(shape), shape.size(), max_axes));
  Geometry geometry;
  geometry.num_axes = static_cast<int>(shape.size());
  std::int64_t stride = 1;
  const std::int64_t limit = std::numeric_limits<std::int64_t>::max() / static_cast<std::int64_t>(size_bytes(dtype));
  for (std::size_t axis = shape.size(); axis-- > 0;) {
    const std::int64_t extent = shape[axis];
    if (extent < 0) throw Error(ErrorKind::argument, fmt::format("tensor: shape {} has a negative extent", to_text(shape)));
    geometry.shape[axis] = extent;
    geometry.strides[axis] = stride;
    if (extent > 1 && stride > limit / extent)
      throw Error(ErrorKind::argument, fmt::format("tensor: shape {} overflows 63 bits", to_text(shape)));
    stride *= extent > 0 ? extent : 1;
  }
  return geometry;
}

template <class View>
View swapped(View view, int a, int b) noexcept {
  std::swap(view.geometry.shape[static_cast<std::size_t>(a)], view.geometry.shape[static_cast<std::size_t>(b)]);
  std::swap(view.geometry.strides[static_cast<std::size_t>(a)], view.geometry.strides[static_cast<std::size_t>(b)]);
  return view;
}

template <class Stored>
Stored load(const std::byte* at) noexcept {
  Stored value;
  std::memcpy(&value, at, sizeof(Stored));
  return value;
}

template <class Stored>
void store(std::byte* at, Stored value) noexcept {
  std::memcpy(at, &value, sizeof(Stored));
}

/// SplitMix64: a counter in, 64 well mixed bits out.
std::uint64_t mixed(std::uint64_t counter) noexcept {
  std::uint64_t z = counter * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

}  // namespace

// A rank without tokens still has an address: only absent tensors have none.
HostTensor::HostTensor(DType type, const std::vector<std::int64_t>& shape, Sharing sharing)
    : dtype(type), geometry(dense(shape, type)), bytes(static_cast<std::size_t>(geometry.num_elements()) * size_bytes(type), sharing) {}

std::vector<std::int64_t> HostTensor::shape() const { return {geometry.shape.begin(), geometry.shape.begin() + geometry.num_axes}; }

TensorView HostTensor::view() noexcept { return present() ? TensorView{bytes.data(), dtype, geometry} : TensorView{}; }
ConstTensorView HostTensor::view() const noexcept { return present() ? ConstTensorView{bytes.data(), dtype, geometry} : ConstTensorView{}; }

double HostTensor::get(std::int64_t index) const noexcept {
  const std::byte* at = bytes.data() + static_cast<std::size_t>(index) * size_bytes(dtype);
  switch (dtype) {
    case DType::f32:
      return static_cast<double>(load<float>(at));
    case DType::f64:
      return load<double>(at);
    case DType::f16:
      return static_cast<double>(static_cast<float>(load<Float16>(at)));
    case DType::bf16:
      return static_cast<double>(static_cast<float>(load<BFloat16>(at)));
  }
  return std::numeric_limits<double>::quiet_NaN();
}

void HostTensor::set(std::int64_t index, double value) noexcept {
  std::byte* at = bytes.data() + static_cast<std::size_t>(index) * size_bytes(dtype);
  switch (dtype) {
    case DType::f32:
      return store(at, static_cast<float>(value));
    case DType::f64:
      return store(at, value);
    case DType::f16:
      return store(at, Float16(static_cast<float>(value)));
    case DType::bf16:
      return store(at, BFloat16(static_cast<float>(value)));
  }
}

HostTensor like(const HostTensor& tensor, Sharing sharing) {
  return tensor.present() ? HostTensor(tensor.dtype, tensor.shape(), sharing) : HostTensor{};
}

void copy_to(const HostTensor& from, HostTensor& to) {
  if (!from.present()) return;
  if (from.dtype != to.dtype || from.shape() != to.shape())
    throw Error(ErrorKind::internal, fmt::format("copy_to: shape is {}, want {}", to_text(from.shape()), to_text(to.shape())));
  std::memcpy(to.bytes.data(), from.bytes.data(), from.bytes.size());
}

HostTensor sum_of(const std::vector<HostTensor>& shares) {
  HostTensor sum = like(shares.front());
  for (std::int64_t i = 0; i < sum.size(); ++i) {
    double total = 0;
    for (const HostTensor& share : shares) total += share.get(i);
    sum.set(i, total);
  }
  return sum;
}

HostTensor convert(const HostTensor& tensor, DType dtype) {
  if (!tensor.present() || tensor.dtype == dtype) return tensor;
  HostTensor result(dtype, tensor.shape());
  for (std::int64_t i = 0; i < tensor.size(); ++i) result.set(i, tensor.get(i));
  return result;
}

HostTensor random_tensor(DType dtype, const std::vector<std::int64_t>& shape, std::uint64_t seed, double deviation) {
  HostTensor result(dtype, shape);
  for (std::int64_t i = 0; i < result.size(); ++i) {
    // Box and Muller, one of the two numbers: simple, and the same with every standard library.
    const std::uint64_t word = mixed((seed << 40) + static_cast<std::uint64_t>(i) + 1);
    const double radius = (static_cast<double>(word >> 32) + 0.5) * 0x1p-32, angle = static_cast<double>(word & 0xffffffffu) * 0x1p-32;
    result.set(i, deviation * std::sqrt(-2 * std::log(radius)) * std::cos(2 * std::numbers::pi * angle));
  }
  return result;
}

TensorView swap_axes(TensorView view, int a, int b) noexcept { return swapped(view, a, b); }
ConstTensorView swap_axes(ConstTensorView view, int a, int b) noexcept { return swapped(view, a, b); }

TensorView tokens_of(TensorView view, std::int64_t first, std::int64_t count) noexcept {
  view.data = view.as<std::byte>() + first * view.stride(1) * static_cast<std::int64_t>(size_bytes(view.dtype));
  view.geometry.shape[1] = count;
  return view;
}
ConstTensorView tokens_of(ConstTensorView view, std::int64_t first, std::int64_t count) noexcept {
  view.data = view.as<std::byte>() + first * view.stride(1) * static_cast<std::int64_t>(size_bytes(view.dtype));
  view.geometry.shape[1] = count;
  return view;
}

std::string to_text(const std::vector<std::int64_t>& shape) { return fmt::format("({})", fmt::join(shape, ", ")); }

}  // namespace seqccl::command
