// dlpack.hpp - tensors of PyTorch, JAX, NumPy, CuPy ... in and out, through DLPack. Needs <dlpack/dlpack.h>.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dlpack/dlpack.h>

#include <string>

#include "seqccl/error.hpp"
#include "seqccl/tensor.hpp"

SEQCCL_BEGIN

/// A view of a DLPack tensor. The tensor keeps owning its memory; `shape` and `strides` are copied.
/// @throws Error(argument) if it is not in host memory, has more than 5 axes, or is not f32, f16, bf16 or f64
[[nodiscard]] inline TensorView from_dlpack(const DLTensor& tensor) {
  const auto refuse = [](const std::string& why) { return Error(ErrorKind::argument, "from_dlpack: " + why); };
  if (tensor.device.device_type != kDLCPU && tensor.device.device_type != kDLCUDAHost)
    throw refuse("device_type is " + std::to_string(static_cast<int>(tensor.device.device_type)) + ", want host memory (1 or 3)");
  if (tensor.ndim < 0 || tensor.ndim > max_axes)
    throw refuse("ndim is " + std::to_string(tensor.ndim) + ", want 0 to " + std::to_string(max_axes));

  TensorView result;
  const auto [code, bits, lanes] = tensor.dtype;
  if (lanes != 1) throw refuse("lanes is " + std::to_string(lanes) + ", want 1");
  if (code == kDLFloat && bits == 32)
    result.dtype = DType::f32;
  else if (code == kDLFloat && bits == 16)
    result.dtype = DType::f16;
  else if (code == kDLFloat && bits == 64)
    result.dtype = DType::f64;
  else if (code == kDLBfloat && bits == 16)
    result.dtype = DType::bf16;
  else
    throw refuse("dtype is code " + std::to_string(code) + " with " + std::to_string(bits) + " bits, want f32, f16, bf16 or f64");

  result.data = static_cast<char*>(tensor.data) + tensor.byte_offset;
  result.geometry.num_axes = tensor.ndim;
  std::int64_t dense = 1;
  for (int axis = tensor.ndim - 1; axis >= 0; --axis) {
    result.geometry.shape[axis] = tensor.shape[axis];
    result.geometry.strides[axis] = tensor.strides != nullptr ? tensor.strides[axis] : dense;
    dense *= tensor.shape[axis];
  }
  return result;
}

/// Describes a view as a DLPack tensor that borrows `view.geometry`: keep `view` alive and unmoved while it is used.
[[nodiscard]] inline DLTensor to_dlpack(TensorView& view) {
  DLTensor result{};
  result.data = view.data;
  result.device = {kDLCPU, 0};
  result.ndim = view.geometry.num_axes;
  result.dtype = {static_cast<std::uint8_t>(view.dtype == DType::bf16 ? kDLBfloat : kDLFloat),
                  static_cast<std::uint8_t>(8 * size_bytes(view.dtype)), 1};
  result.shape = view.geometry.shape.data();
  result.strides = view.geometry.strides.data();
  return result;
}

SEQCCL_END
