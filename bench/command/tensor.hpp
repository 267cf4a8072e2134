// tensor.hpp - a contiguous tensor that owns its memory: what the command reads, shards, checks and writes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "command/memory.hpp"
#include "seqccl/dtype.hpp"
#include "seqccl/tensor.hpp"

namespace seqccl::command {

/// Zero-filled when made. An empty one (no axes, no memory) stands for "absent".
struct HostTensor {
  DType dtype = DType::f32;
  Geometry geometry;
  Bytes bytes;

  HostTensor() = default;
  /// `sharing`: shared is what ranks as processes write and their caller reads.
  /// @throws Error(argument) on negative extents, more than 5 axes or overflow
  HostTensor(DType type, const std::vector<std::int64_t>& shape, Sharing sharing = Sharing::own);

  [[nodiscard]] bool present() const noexcept { return geometry.num_axes > 0; }
  [[nodiscard]] std::int64_t size() const noexcept { return present() ? geometry.num_elements() : 0; }
  [[nodiscard]] std::int64_t extent(int axis) const noexcept { return geometry.shape[static_cast<std::size_t>(axis)]; }
  [[nodiscard]] std::vector<std::int64_t> shape() const;
  /// A view; absent tensors give an empty one.
  [[nodiscard]] TensorView view() noexcept;
  [[nodiscard]] ConstTensorView view() const noexcept;

  [[nodiscard]] double get(std::int64_t index) const noexcept;
  void set(std::int64_t index, double value) noexcept;
};

/// A tensor of zeros, as large and of the same type; absent if that is.
[[nodiscard]] HostTensor like(const HostTensor& tensor, Sharing sharing = Sharing::own);

/// The bytes of `from`; nothing if it is absent. @throws Error(internal) if the two differ in shape or type
void copy_to(const HostTensor& from, HostTensor& to);

/// The sum, in double, of tensors of one shape and type; absent if they are.
[[nodiscard]] HostTensor sum_of(const std::vector<HostTensor>& shares);

/// The same numbers in another element type, rounded to nearest even.
[[nodiscard]] HostTensor convert(const HostTensor& tensor, DType dtype);

/// Normal numbers with mean 0 and the given deviation, the same on every machine.
[[nodiscard]] HostTensor random_tensor(DType dtype, const std::vector<std::int64_t>& shape, std::uint64_t seed, double deviation = 1);

/// `view` with two axes exchanged: lse (B, H, T) becomes (B, T, H).
[[nodiscard]] TensorView swap_axes(TensorView view, int a, int b) noexcept;
[[nodiscard]] ConstTensorView swap_axes(ConstTensorView view, int a, int b) noexcept;

/// Tokens [first, first + count) of (B, N, ...).
[[nodiscard]] TensorView tokens_of(TensorView view, std::int64_t first, std::int64_t count) noexcept;
[[nodiscard]] ConstTensorView tokens_of(ConstTensorView view, std::int64_t first, std::int64_t count) noexcept;

/// "(2, 128, 8, 64)"
[[nodiscard]] std::string to_text(const std::vector<std::int64_t>& shape);

}  // namespace seqccl::command
