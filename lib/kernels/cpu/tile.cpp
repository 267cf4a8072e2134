// tile.cpp - SIMD primitives of the CPU kernels: one source, compiled once per instruction set, picked at run time.
// SPDX-License-Identifier: Apache-2.0
#include "tile.hpp"

#include <algorithm>
#include <cstring>
#include <limits>

// Vectors of run-time length cannot be kept in arrays, which the register block of gemm is; these machines take the next best target.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "../lib/kernels/cpu/tile.cpp"  // as seen from include/, the folder on the search path
#include <hwy/foreach_target.h>                           // comes back here once per target

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
SEQCCL_BEGIN
namespace cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Tag = hn::ScalableTag<float>;
using Vector = hn::Vec<Tag>;
constexpr int lanes = HWY_MAX_BYTES / static_cast<int>(sizeof(float));

// The register block of gemm: rows x vectors accumulators, the vectors of B and one broadcast of A have to fit the register file.
#if HWY_TARGET <= HWY_AVX3 || HWY_TARGET == HWY_NEON
constexpr int block_vectors = 4;  // 32 registers
#else
constexpr int block_vectors = 2;  // 16 registers
#endif
constexpr int block_rows = 6;
constexpr int panel_floats = 8192;  // a packed panel of B stays in the first-level cache
constexpr std::int64_t max_depth = std::min(256, panel_floats / (block_vectors * lanes));

/// A tail that ends before the vector does goes through this: no byte beyond the extents is touched.
struct TailBuffer {
  HWY_ALIGN float values[lanes];
  explicit TailBuffer(float fill) { std::fill(values, values + lanes, fill); }
  Vector load(const float* x, std::int64_t n) {
    std::memcpy(values, x, static_cast<std::size_t>(n) * sizeof(float));
    return hn::Load(Tag(), values);
  }
  void store(Vector v, float* x, std::int64_t n) {
    hn::Store(v, Tag(), values);
    std::memcpy(x, values, static_cast<std::size_t>(n) * sizeof(float));
  }
};

// --- gemm -----------------------------------------------------------------------------------------------------------

/// C (rows, vectors * lanes) (+)= A B, all of C in registers.
template <int rows, int vectors>
HWY_INLINE void micro(std::int64_t k, const float* HWY_RESTRICT a, std::int64_t a_row, std::int64_t a_col, const float* HWY_RESTRICT b,
                      std::int64_t b_row, float* HWY_RESTRICT c, std::int64_t c_row, bool accumulate) {
  const Tag d;
  Vector sum[rows][vectors];
#pragma GCC unroll 6
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < vectors; ++j) sum[i][j] = accumulate ? hn::LoadU(d, c + i * c_row + j * lanes) : hn::Zero(d);
  }
  for (std::int64_t x = 0; x < k; ++x) {
    Vector row[vectors];
#pragma GCC unroll 4
    for (int j = 0; j < vectors; ++j) row[j] = hn::LoadU(d, b + j * lanes);
#pragma GCC unroll 6
    for (int i = 0; i < rows; ++i) {
      const Vector value = hn::Set(d, a[i * a_row]);
#pragma GCC unroll 4
      for (int j = 0; j < vectors; ++j) sum[i][j] = hn::MulAdd(value, row[j], sum[i][j]);
    }
    a += a_col;
    b += b_row;
  }
#pragma GCC unroll 6
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < vectors; ++j) hn::StoreU(sum[i][j], d, c + i * c_row + j * lanes);
  }
}

/// All rows of one panel of columns, in blocks of 6.
template <int vectors>
HWY_NOINLINE void column_panel(std::int64_t m, std::int64_t k, const float* a, std::int64_t a_row, std::int64_t a_col, const float* b,
                               std::int64_t b_row, float* c, std::int64_t c_row, bool accumulate) {
  for (; m >= block_rows; m -= block_rows, a += block_rows * a_row, c += block_rows * c_row)
    micro<block_rows, vectors>(k, a, a_row, a_col, b, b_row, c, c_row, accumulate);
  switch (m) {
    case 5:
      return micro<5, vectors>(k, a, a_row, a_col, b, b_row, c, c_row, accumulate);
    case 4:
      return micro<4, vectors>(k, a, a_row, a_col, b, b_row, c, c_row, accumulate);
    case 3:
      return micro<3, vectors>(k, a, a_row, a_col, b, b_row, c, c_row, accumulate);
    case 2:
      return micro<2, vectors>(k, a, a_row, a_col, b, b_row, c, c_row, accumulate);
    case 1:
      return micro<1, vectors>(k, a, a_row, a_col, b, b_row, c, c_row, accumulate);
    default:
      return;
  }
}

/// packed (k, vectors * lanes) = the panel of B. Rows a power of two apart would share a few sets of the cache.
template <int vectors>
HWY_INLINE void pack_panel(std::int64_t k, const float* b, std::int64_t b_row, float* HWY_RESTRICT packed) {
  const Tag d;
  for (std::int64_t x = 0; x < k; ++x, b += b_row, packed += vectors * lanes) {
#pragma GCC unroll 4
    for (int j = 0; j < vectors; ++j) hn::Store(hn::LoadU(d, b + j * lanes), d, packed + j * lanes);
  }
}

/// The last columns, fewer than a vector: B is padded with zeros, C goes through a small square.
void narrow_panel(std::int64_t m, std::int64_t n, std::int64_t k, const float* a, std::int64_t a_row, std::int64_t a_col, const float* b,
                  std::int64_t b_row, float* packed, float* c, std::int64_t c_row, bool accumulate) {
  const std::size_t n_bytes = static_cast<std::size_t>(n) * sizeof(float);
  std::fill(packed, packed + k * lanes, 0.0F);
  for (std::int64_t x = 0; x < k; ++x) std::memcpy(packed + x * lanes, b + x * b_row, n_bytes);
  HWY_ALIGN float square[block_rows * lanes] = {};
  for (std::int64_t first = 0; first < m; first += block_rows) {
    const std::int64_t rows = std::min<std::int64_t>(block_rows, m - first);
    if (accumulate) {
      for (std::int64_t i = 0; i < rows; ++i) std::memcpy(square + i * lanes, c + (first + i) * c_row, n_bytes);
    }
    column_panel<1>(rows, k, a + first * a_row, a_row, a_col, packed, lanes, square, lanes, accumulate);
    for (std::int64_t i = 0; i < rows; ++i) std::memcpy(c + (first + i) * c_row, square + i * lanes, n_bytes);
  }
}

void gemm(std::int64_t m, std::int64_t n, std::int64_t k, const float* a, std::int64_t a_row, std::int64_t a_col, const float* b,
          std::int64_t b_row, float* c, std::int64_t c_row, bool accumulate) {
  if (k <= 0 && !accumulate) {
    for (std::int64_t i = 0; i < m; ++i) std::fill(c + i * c_row, c + i * c_row + n, 0.0F);
  }
  HWY_ALIGN float packed[panel_floats];
  const bool worth_packing = m >= 2 * block_rows;
  for (std::int64_t depth = 0; depth < k; depth += max_depth, a += max_depth * a_col, b += max_depth * b_row, accumulate = true) {
    const std::int64_t part = std::min(max_depth, k - depth);
    const auto panel = [&]<int vectors>(std::int64_t column) {
      if (worth_packing) {
        pack_panel<vectors>(part, b + column, b_row, packed);
        column_panel<vectors>(m, part, a, a_row, a_col, packed, vectors * lanes, c + column, c_row, accumulate);
      } else {
        column_panel<vectors>(m, part, a, a_row, a_col, b + column, b_row, c + column, c_row, accumulate);
      }
    };
    std::int64_t column = 0;
    for (; column + block_vectors * lanes <= n; column += block_vectors * lanes) panel.template operator()<block_vectors>(column);
    for (; column + lanes <= n; column += lanes) panel.template operator()<1>(column);
    if (column < n) narrow_panel(m, n - column, part, a, a_row, a_col, b + column, b_row, packed, c + column, c_row, accumulate);
  }
}

// --- exp ------------------------------------------------------------------------------------------------------------

/// exp(x) = 2^n p(r),   n = round(x / ln 2),  r = x - n ln 2 in two parts (Cody, Waite),  p(r) = 1 + r + r^2 (c2 + ... + c5 r^3)
/// the polynomial of least relative error, 1.05e-7, on |r| <= ln(2) / 2. Results below the smallest normal number become 0: the
/// subnormal ones would be slow and add nothing to a sum.
HWY_INLINE Vector exp_vector(Vector x) {
  const Tag d;
  const hn::RebindToSigned<Tag> di;
  const Vector lowest = hn::Set(d, -87.33654F), highest = hn::Set(d, 88.72283F);
  const Vector round = hn::Set(d, 0x1.8p23F);  // a sum with it has n in its low bits
  const Vector shifted = hn::MulAdd(x, hn::Set(d, 1.44269504088896341F), round);
  const Vector n = hn::Sub(shifted, round);
  Vector r = hn::NegMulAdd(n, hn::Set(d, 0.693359375F), x);
  r = hn::NegMulAdd(n, hn::Set(d, -2.12194440e-4F), r);
  Vector p = hn::MulAdd(hn::Set(d, 0.008312508695F), r, hn::Set(d, 0.04189034004F));
  p = hn::MulAdd(p, r, hn::Set(d, 0.1666711533F));
  p = hn::MulAdd(p, r, hn::Set(d, 0.4999923025F));
  p = hn::Add(hn::MulAdd(p, hn::Mul(r, r), r), hn::Set(d, 1.0F));
  // n is added to the exponent of p; everything above the low bits of `shifted` leaves at the top.
  const Vector y = hn::BitCast(d, hn::Add(hn::BitCast(di, p), hn::ShiftLeft<23>(hn::BitCast(di, shifted))));
  const Vector beyond = hn::Mul(x, hn::Set(d, std::numeric_limits<float>::infinity()));  // overflow, and NaN stays NaN
  return hn::IfThenZeroElse(hn::Lt(x, lowest), hn::IfThenElse(hn::Le(x, highest), y, beyond));
}

float exp_sum(float* x, std::int64_t n, float shift) {
  const Tag d;
  const Vector offset = hn::Set(d, shift);
  Vector sum0 = hn::Zero(d), sum1 = hn::Zero(d);
  std::int64_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    const Vector y0 = exp_vector(hn::Sub(hn::LoadU(d, x + i), offset));
    const Vector y1 = exp_vector(hn::Sub(hn::LoadU(d, x + i + lanes), offset));
    hn::StoreU(y0, d, x + i);
    hn::StoreU(y1, d, x + i + lanes);
    sum0 = hn::Add(sum0, y0);
    sum1 = hn::Add(sum1, y1);
  }
  for (; i + lanes <= n; i += lanes) {
    const Vector y = exp_vector(hn::Sub(hn::LoadU(d, x + i), offset));
    hn::StoreU(y, d, x + i);
    sum0 = hn::Add(sum0, y);
  }
  if (i < n) {
    TailBuffer tail(0);
    const Vector y = exp_vector(hn::Sub(tail.load(x + i, n - i), offset));
    tail.store(y, x + i, n - i);
    std::fill(tail.values + (n - i), tail.values + lanes, 0.0F);
    sum1 = hn::Add(sum1, hn::Load(d, tail.values));
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(sum0, sum1)));
}

void exp(const float* x, float* y, std::int64_t n) {
  const Tag d;
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) hn::StoreU(exp_vector(hn::LoadU(d, x + i)), d, y + i);
  if (i < n) {
    TailBuffer tail(0);
    tail.store(exp_vector(tail.load(x + i, n - i)), y + i, n - i);
  }
}

// --- one pass over a row --------------------------------------------------------------------------------------------

float max(const float* x, std::int64_t n) {
  const Tag d;
  const float lowest = -std::numeric_limits<float>::infinity();
  Vector high = hn::Set(d, lowest), strange = hn::Zero(d);  // strange: all ones where a NaN was met; Max may drop it
  const auto take = [&](Vector value) {
    high = hn::Max(high, value);
    strange = hn::Or(strange, hn::VecFromMask(d, hn::IsNaN(value)));
  };
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) take(hn::LoadU(d, x + i));
  if (i < n) take(TailBuffer(lowest).load(x + i, n - i));
  if (!hn::AllFalse(d, hn::IsNaN(strange))) return std::numeric_limits<float>::quiet_NaN();
  return hn::GetLane(hn::MaxOfLanes(d, high));
}

float dot(const float* x, const float* y, std::int64_t n) {
  const Tag d;
  Vector sum0 = hn::Zero(d), sum1 = hn::Zero(d);
  std::int64_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    sum0 = hn::MulAdd(hn::LoadU(d, x + i), hn::LoadU(d, y + i), sum0);
    sum1 = hn::MulAdd(hn::LoadU(d, x + i + lanes), hn::LoadU(d, y + i + lanes), sum1);
  }
  for (; i + lanes <= n; i += lanes) sum0 = hn::MulAdd(hn::LoadU(d, x + i), hn::LoadU(d, y + i), sum0);
  if (i < n) sum1 = hn::MulAdd(TailBuffer(0).load(x + i, n - i), TailBuffer(0).load(y + i, n - i), sum1);
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(sum0, sum1)));
}

void axpy(float a, const float* x, float* y, std::int64_t n) {
  const Tag d;
  const Vector factor = hn::Set(d, a);
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) hn::StoreU(hn::MulAdd(factor, hn::LoadU(d, x + i), hn::LoadU(d, y + i)), d, y + i);
  if (i < n) {
    TailBuffer tail(0);
    const Vector sum = hn::MulAdd(factor, TailBuffer(0).load(x + i, n - i), tail.load(y + i, n - i));
    tail.store(sum, y + i, n - i);
  }
}

void scale(float a, float* x, std::int64_t n) {
  const Tag d;
  const Vector factor = hn::Set(d, a);
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) hn::StoreU(hn::Mul(factor, hn::LoadU(d, x + i)), d, x + i);
  if (i < n) {
    TailBuffer tail(0);
    tail.store(hn::Mul(factor, tail.load(x + i, n - i)), x + i, n - i);
  }
}

const TileOps& table() {
  static const TileOps ops{.gemm = gemm,
                           .exp_sum = exp_sum,
                           .exp = exp,
                           .max = max,
                           .dot = dot,
                           .axpy = axpy,
                           .scale = scale,
                           .name = hwy::TargetName(HWY_TARGET)};
  return ops;
}

}  // namespace HWY_NAMESPACE
}  // namespace cpu
SEQCCL_END
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
SEQCCL_BEGIN
namespace cpu {

HWY_EXPORT(table);

const TileOps& tile() {
  static const TileOps& ops = HWY_DYNAMIC_DISPATCH(table)();
  return ops;
}

}  // namespace cpu
SEQCCL_END
#endif
