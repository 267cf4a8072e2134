// dtype.hpp - element types: f32, f16 and bf16, with conversions that round to nearest even.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "seqccl/version.hpp"

SEQCCL_BEGIN

/// f64 exists for the reference only; collectives take f32, f16 and bf16 and keep every sum in f32.
enum class DType : std::uint8_t { f32, f16, bf16, f64 };

inline constexpr DType f32 = DType::f32;
inline constexpr DType f16 = DType::f16;
inline constexpr DType bf16 = DType::bf16;

[[nodiscard]] constexpr std::size_t size_bytes(DType type) noexcept { return type == DType::f64 ? 8 : type == DType::f32 ? 4 : 2; }
[[nodiscard]] constexpr const char* name(DType type) noexcept {
  constexpr const char* names[] = {"f32", "f16", "bf16", "f64"};
  return names[static_cast<int>(type)];
}
/// Distance from 1 to the next representable number.
[[nodiscard]] constexpr double epsilon(DType type) noexcept {
  constexpr double values[] = {0x1p-23, 0x1p-10, 0x1p-7, 0x1p-52};
  return values[static_cast<int>(type)];
}

/// The upper half of a float: 8 bits of exponent, 7 of mantissa.
struct BFloat16 {
  std::uint16_t bits = 0;

  BFloat16() = default;
  explicit BFloat16(float value) noexcept {
    const auto word = std::bit_cast<std::uint32_t>(value);
    const bool is_nan = (word & 0x7fffffffu) > 0x7f800000u;
    bits = is_nan ? static_cast<std::uint16_t>((word >> 16) | 0x40u)  // stays a NaN after truncation
                  : static_cast<std::uint16_t>((word + 0x7fffu + ((word >> 16) & 1u)) >> 16);
  }
  explicit operator float() const noexcept { return std::bit_cast<float>(std::uint32_t{bits} << 16); }
};

/// IEEE binary16: 5 bits of exponent, 10 of mantissa, subnormals included.
struct Float16 {
  std::uint16_t bits = 0;

  Float16() = default;
  explicit Float16(float value) noexcept {
    const auto word = std::bit_cast<std::uint32_t>(value);
    const auto sign = static_cast<std::uint16_t>((word >> 16) & 0x8000u);
    const std::uint32_t magnitude = word & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
      bits = sign | 0x7e00u;  // NaN
    } else if (magnitude >= 0x477ff000u) {
      bits = sign | 0x7c00u;  // rounds to infinity
    } else if (magnitude < 0x38800000u) {
      // Subnormal: adding 0.5 puts the last bit of a float where the last bit of the result belongs.
      const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
      bits = sign | static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(shifted) - 0x3f000000u);
    } else {
      const std::uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u) - (112u << 23);
      bits = sign | static_cast<std::uint16_t>(rounded >> 13);
    }
  }
  explicit operator float() const noexcept {
    const std::uint32_t sign = std::uint32_t{bits & 0x8000u} << 16;
    const std::uint32_t exponent = (bits >> 10) & 0x1fu, mantissa = bits & 0x3ffu;
    if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
    if (exponent == 0) {
      const float value = static_cast<float>(mantissa) * 0x1p-24f;
      return sign != 0 ? -value : value;
    }
    return std::bit_cast<float>(sign | ((exponent + 112u) << 23) | (mantissa << 13));
  }
};

SEQCCL_END
