// tensor.hpp - owning tensors, random inputs of realistic magnitude, and error metrics in which NaN is sticky.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <random>
#include <stdexcept>
#include <vector>

#include "seqccl/dtype.hpp"
#include "seqccl/tensor.hpp"

namespace seqccl::test {

/// A contiguous tensor that owns its memory. Fresh memory is poisoned with NaN bytes, so reading what nobody wrote shows.
struct HostTensor {
  DType dtype = DType::f32;
  Geometry geometry;
  std::vector<std::byte> bytes;

  HostTensor() = default;
  HostTensor(DType type, std::initializer_list<std::int64_t> shape) : dtype(type), geometry(contiguous(shape)) {
    bytes.resize(static_cast<std::size_t>(geometry.num_elements()) * size_bytes(type), std::byte{0xff});
  }
  [[nodiscard]] std::int64_t size() const { return geometry.num_elements(); }
  [[nodiscard]] TensorView view() { return {bytes.data(), dtype, geometry}; }
  [[nodiscard]] ConstTensorView view() const { return {bytes.data(), dtype, geometry}; }

  [[nodiscard]] double get(std::int64_t index) const {
    const std::byte* at = bytes.data() + static_cast<std::size_t>(index) * size_bytes(dtype);
    const auto read = [at]<class T>(T value) {
      std::memcpy(&value, at, sizeof(T));
      return value;
    };
    switch (dtype) {
      case DType::f32:
        return read(float{});
      case DType::f64:
        return read(double{});
      case DType::f16:
        return static_cast<float>(read(Float16{}));
      case DType::bf16:
        return static_cast<float>(read(BFloat16{}));
    }
    throw std::logic_error("dtype");
  }
  void set(std::int64_t index, double value) {
    std::byte* at = bytes.data() + static_cast<std::size_t>(index) * size_bytes(dtype);
    const auto write = [at]<class T>(T stored) { std::memcpy(at, &stored, sizeof(T)); };
    switch (dtype) {
      case DType::f32:
        return write(static_cast<float>(value));
      case DType::f64:
        return write(value);
      case DType::f16:
        return write(Float16(static_cast<float>(value)));
      case DType::bf16:
        return write(BFloat16(static_cast<float>(value)));
    }
  }
  void fill(double value) {
    for (std::int64_t i = 0; i < size(); ++i) set(i, value);
  }
};

/// Normal with mean 0 and the given standard deviation, rounded to `dtype`.
inline HostTensor random_tensor(DType dtype, std::initializer_list<std::int64_t> shape, std::uint64_t seed, double deviation = 1) {
  HostTensor result(dtype, shape);
  std::mt19937_64 generator(seed * 0x9e3779b97f4a7c15u + 1);
  std::normal_distribution<double> normal(0, deviation);
  for (std::int64_t i = 0; i < result.size(); ++i) result.set(i, normal(generator));
  return result;
}

/// Distance from a reference. Equal infinities have distance 0; NaN on either side, or on one side only, makes everything NaN.
struct Distance {
  double max = 0;           // largest absolute difference
  double relative_rms = 0;  // root of sum of squared differences over root of sum of squared references
  double reference_max = 0;
};
inline Distance distance(const HostTensor& got, const HostTensor& want) {
  if (got.size() != want.size()) throw std::logic_error("distance: sizes differ");
  Distance result;
  double error = 0, norm = 0;
  for (std::int64_t i = 0; i < got.size(); ++i) {
    const double a = got.get(i), b = want.get(i);
    if (std::isinf(b) && a == b) continue;
    const double difference = std::abs(a - b);
    if (!(difference < std::numeric_limits<double>::infinity())) {
      const double nan = std::numeric_limits<double>::quiet_NaN();
      return {nan, nan, nan};
    }
    result.max = std::max(result.max, difference);
    result.reference_max = std::max(result.reference_max, std::abs(b));
    error += difference * difference;
    norm += b * b;
  }
  result.relative_rms = norm > 0 ? std::sqrt(error / norm) : std::sqrt(error);
  return result;
}

}  // namespace seqccl::test
