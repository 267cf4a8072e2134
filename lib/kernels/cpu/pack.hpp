// pack.hpp - reads rows of strided views of any element type into contiguous f32, as rows or transposed.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>

#include "seqccl/error.hpp"
#include "seqccl/tensor.hpp"

SEQCCL_BEGIN
namespace cpu {

/// Float16 to float without a branch, so that loops over it become vector code.
[[nodiscard]] inline float widen(Float16 value) noexcept {
  const std::int32_t magnitude = value.bits & 0x7fff;
  const auto finite = std::bit_cast<std::int32_t>(std::bit_cast<float>(magnitude << 13) * 0x1p112F);  // moves the exponent's bias
  const std::int32_t special = ((0x7bff - magnitude) >> 31) & 0x7f800000;  // all exponent bits for infinity and NaN
  const std::int32_t sign = static_cast<std::int32_t>(static_cast<std::int16_t>(value.bits)) & static_cast<std::int32_t>(0x80000000);
  return std::bit_cast<float>(finite | special | sign);
}
[[nodiscard]] inline float widen(BFloat16 value) noexcept { return static_cast<float>(value); }
[[nodiscard]] inline float widen(float value) noexcept { return value; }

/// Calls visit(T{}) with the element type behind `type`: float, Float16 or BFloat16. @throws Error(argument) on f64
template <class Visit>
decltype(auto) with_element(DType type, Visit&& visit) {
  if (type == DType::f64) throw Error(ErrorKind::argument, "kernel: an operand is f64, want f32, f16 or bf16");
  if (type == DType::f16) return visit(Float16{});
  if (type == DType::bf16) return visit(BFloat16{});
  return visit(float{});
}

/// Where row (batch, token, head) of a (B, T, H, D) view begins.
template <class Element>
[[nodiscard]] const Element* row_at(const ConstTensorView& view, std::int64_t batch, std::int64_t token, std::int64_t head) noexcept {
  return view.as<Element>() + batch * view.stride(0) + token * view.stride(1) + head * view.stride(2);
}
[[nodiscard]] inline float* row_at(const TensorView& view, std::int64_t batch, std::int64_t token, std::int64_t head) noexcept {
  return view.as<float>() + batch * view.stride(0) + token * view.stride(1) + head * view.stride(2);
}
/// The one number of row (batch, token, head) of a f32 (B, T, H, 1) view.
[[nodiscard]] inline float scalar_at(const ConstTensorView& view, std::int64_t batch, std::int64_t token, std::int64_t head) noexcept {
  return *row_at<float>(view, batch, token, head);
}

/// The same address without its type.
[[nodiscard]] inline const void* address(const ConstTensorView& view, std::int64_t batch, std::int64_t token, std::int64_t head) noexcept {
  const std::int64_t offset = batch * view.stride(0) + token * view.stride(1) + head * view.stride(2);
  return view.as<std::byte>() + offset * static_cast<std::int64_t>(size_bytes(view.dtype));
}
/// @throws Error(argument) on f64
inline void require_packable(const ConstTensorView& view, const char* kernel) {
  if (view.dtype == DType::f64) throw Error(ErrorKind::argument, std::string(kernel) + ": an operand is f64, want f32, f16 or bf16");
}

/// to (count, D) = factor * rows [first, first + count) of one head.
inline void pack_rows(const ConstTensorView& from, std::int64_t batch, std::int64_t head, std::int64_t first, std::int64_t count,
                      float factor, float* to) {
  const std::int64_t size = from.extent(3);
  with_element(from.dtype, [&]<class Element>(Element) {
    for (std::int64_t i = 0; i < count; ++i, to += size) {
      const Element* row = row_at<Element>(from, batch, first + i, head);
      for (std::int64_t d = 0; d < size; ++d) to[d] = factor * widen(row[d]);
    }
  });
}

/// to (D, width) = transpose of rows [first, first + count) of one head; columns from `count` on are not touched.
inline void pack_transposed(const ConstTensorView& from, std::int64_t batch, std::int64_t head, std::int64_t first, std::int64_t count,
                            std::int64_t width, float* to) {
  constexpr std::int64_t group = 8;  // rows read side by side, so that each store fills half a cache line
  const std::int64_t size = from.extent(3);
  with_element(from.dtype, [&]<class Element>(Element) {
    std::int64_t i = 0;
    for (; i + group <= count; i += group) {
      const Element* row = row_at<Element>(from, batch, first + i, head);
      const std::int64_t stride = from.stride(1);
      for (std::int64_t d = 0; d < size; ++d) {
        float* column = to + d * width + i;
        for (std::int64_t j = 0; j < group; ++j) column[j] = widen(row[j * stride + d]);
      }
    }
    for (; i < count; ++i) {
      const Element* row = row_at<Element>(from, batch, first + i, head);
      for (std::int64_t d = 0; d < size; ++d) to[d * width + i] = widen(row[d]);
    }
  });
}

/// False if one of x is infinite or NaN.
[[nodiscard]] inline bool all_finite(const float* x, std::int64_t n) noexcept {
  std::uint32_t strange = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const auto exponent = std::bit_cast<std::uint32_t>(x[i]) & 0x7f800000u;
    strange |= static_cast<std::uint32_t>(exponent == 0x7f800000u);
  }
  return strange == 0;
}

/// S = softcap tanh(S / softcap) by an odd rational function, a few units in the last place off; NaN stays NaN.
inline void apply_softcap(float softcap, float* scores, std::int64_t n) noexcept {
  const float inverse = 1 / softcap;
  for (std::int64_t i = 0; i < n; ++i) {
    const float raw = scores[i] * inverse;
    const float low = raw < -7.90531110763549805F ? -7.90531110763549805F : raw;  // tanh is 1 in f32 beyond
    const float x = low > 7.90531110763549805F ? 7.90531110763549805F : low;
    const float square = x * x;
    float above = -2.76076847742355e-16F * square + 2.00018790482477e-13F;
    above = above * square - 8.60467152213735e-11F;
    above = above * square + 5.12229709037114e-08F;
    above = above * square + 1.48572235717979e-05F;
    above = above * square + 6.37261928875436e-04F;
    above = above * square + 4.89352455891786e-03F;
    float below = 1.19825839466702e-06F * square + 1.18534705686654e-04F;
    below = below * square + 2.26843463243900e-03F;
    below = below * square + 4.89352518554385e-03F;
    scores[i] = softcap * (x * above / below);
  }
}

}  // namespace cpu
SEQCCL_END
