// panel.cpp - products of packed panels and the softmax of a tile: one source, compiled once per instruction set, picked at run time.
// SPDX-License-Identifier: Apache-2.0
#include "panel.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)  // see tile.cpp
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "../lib/kernels/cpu/panel.cpp"  // as seen from include/, the folder on the search path
#include <hwy/foreach_target.h>                            // comes back here once per target

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
SEQCCL_BEGIN
namespace cpu {
namespace HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

using Tag = hn::ScalableTag<float>;
using Vector = hn::Vec<Tag>;
constexpr std::int64_t lanes = HWY_MAX_BYTES / static_cast<int>(sizeof(float));

// Accumulators, the vectors of B and one broadcast of A fill the register file: 12 + 2 + 1 of 16, or 24 + 4 + 1 of 32.
#if HWY_TARGET <= HWY_AVX3 || HWY_TARGET == HWY_NEON
constexpr int block_vectors = 4;
#else
constexpr int block_vectors = 2;
#endif
constexpr int block_rows = 6;
constexpr std::int64_t rows_ahead = 16;  // of packing, to prefetch
constexpr std::int64_t panel = block_vectors * lanes;

// --- packing --------------------------------------------------------------------------------------------------------

template <class D>
HWY_INLINE hn::Vec<D> load_wide(D d, const float* x) {
  return hn::LoadU(d, x);
}
template <class D>
HWY_INLINE hn::Vec<D> load_wide(D d, const hwy::bfloat16_t* x) {
  return hn::PromoteTo(d, hn::LoadU(hn::Rebind<hwy::bfloat16_t, D>(), x));
}
template <class D>
HWY_INLINE hn::Vec<D> load_wide(D d, const hwy::float16_t* x) {
  return hn::PromoteTo(d, hn::LoadU(hn::Rebind<hwy::float16_t, D>(), x));
}

/// The last n numbers of a row as a vector filled up with zeros: no byte beyond the row is read.
template <class D, class Element>
HWY_INLINE hn::Vec<D> load_tail(D d, const Element* x, std::int64_t n) {
  HWY_ALIGN Element values[lanes];
  std::memset(values, 0, sizeof(values));
  std::memcpy(values, x, static_cast<std::size_t>(n) * sizeof(Element));
  return load_wide(d, values);
}

/// Asks for a row that is read a little later: rows of one head lie far apart, and no hardware guesses across pages.
template <class Element>
HWY_INLINE void prefetch_row(const Element* row, std::int64_t size) {
  for (std::int64_t x = 0; x < size; x += 64 / static_cast<std::int64_t>(sizeof(Element))) __builtin_prefetch(row + x);
}

/// Finds infinities and NaN: 0 times a finite number is 0.
struct Strange {
  Vector sum;
  HWY_INLINE Strange() : sum(hn::Zero(Tag())) {}  // written out, so that it is compiled for the target
  HWY_INLINE void see(Vector x) { sum = hn::MulAdd(x, hn::Zero(Tag()), sum); }
  [[nodiscard]] bool none() const { return hn::GetLane(hn::SumOfLanes(Tag(), sum)) == 0; }
};

template <class Visit>
HWY_INLINE bool with_rows(const PackSource& from, Visit&& visit) {
  if (from.dtype == DType::f16) return visit(static_cast<const hwy::float16_t*>(from.data));
  if (from.dtype == DType::bf16) return visit(static_cast<const hwy::bfloat16_t*>(from.data));
  return visit(static_cast<const float*>(from.data));
}

bool pack_rows(const PackSource& from, float factor, float* to, std::int64_t stride) {
  return with_rows(from, [&](auto* row) {
    const Tag d;
    const Vector times = hn::Set(d, factor);
    Strange strange;
    for (std::int64_t i = 0; i < from.count; ++i, row += from.stride, to += stride) {
      if (i + rows_ahead < from.count + from.following) prefetch_row(row + rows_ahead * from.stride, from.size);
      std::int64_t x = 0;
      for (; x + lanes <= from.size; x += lanes) {
        const Vector value = hn::Mul(times, load_wide(d, row + x));
        strange.see(value);
        hn::StoreU(value, d, to + x);
      }
      if (x < from.size) {
        const Vector value = hn::Mul(times, load_tail(d, row + x, from.size - x));
        strange.see(value);
        hn::StoreU(value, d, to + x);
      }
    }
    return strange.none();
  });
}

bool pack_panels(const PackSource& from, float factor, float* to, std::int64_t panel_stride) {
  return with_rows(from, [&](auto* row) {
    const Tag d;
    const Vector times = hn::Set(d, factor);
    Strange strange;
    for (std::int64_t i = 0; i < from.count; ++i, row += from.stride, to += panel) {
      if (i + rows_ahead < from.count + from.following) prefetch_row(row + rows_ahead * from.stride, from.size);
      for (std::int64_t x = 0; x < from.size; x += lanes) {
        const Vector raw = x + lanes <= from.size ? load_wide(d, row + x) : load_tail(d, row + x, from.size - x);
        const Vector value = hn::Mul(times, raw);
        strange.see(value);
        hn::Store(value, d, to + x / panel * panel_stride + x % panel);
      }
    }
    return strange.none();
  });
}

#if HWY_TARGET == HWY_SCALAR
bool pack_transposed(const PackSource& from, float* to, std::int64_t to_row, std::int64_t panel_stride) {
  return with_rows(from, [&](auto* data) {
    Strange strange;
    for (std::int64_t i = 0; i < round_up(from.count, panel); ++i) {
      for (std::int64_t x = 0; x < from.size; ++x) {
        const Vector value = i < from.count ? load_wide(Tag(), data + i * from.stride + x) : hn::Zero(Tag());
        strange.see(value);
        hn::Store(value, Tag(), to + i / panel * panel_stride + x * to_row + i % panel);
      }
    }
    return strange.none();
  });
}
#else
/// Squares of 4 x 4 are turned round in registers of 128 bits. Rows from 4 on are taken as zeros if `count` is less.
template <class Element>
HWY_INLINE bool turn_rows(const Element* row, std::int64_t stride, std::int64_t count, std::int64_t size, float* column,
                          std::int64_t to_row) {
  const hn::FixedTag<float, 4> d;
  const hn::Repartition<double, decltype(d)> pairs;
  using Quad = hn::Vec<decltype(d)>;
  const Element *row1 = row + stride, *row2 = row1 + stride, *row3 = row2 + stride;
  Quad strange = hn::Zero(d);
  const auto turn = [&](Quad r0, Quad r1, Quad r2, Quad r3, std::int64_t num_columns) {
    strange = hn::MulAdd(r0, hn::Zero(d), hn::MulAdd(r1, hn::Zero(d), hn::MulAdd(r2, hn::Zero(d), hn::MulAdd(r3, hn::Zero(d), strange))));
    const auto low0 = hn::BitCast(pairs, hn::InterleaveLower(d, r0, r1)), low1 = hn::BitCast(pairs, hn::InterleaveLower(d, r2, r3));
    const auto high0 = hn::BitCast(pairs, hn::InterleaveUpper(d, r0, r1)), high1 = hn::BitCast(pairs, hn::InterleaveUpper(d, r2, r3));
    hn::Store(hn::BitCast(d, hn::InterleaveLower(pairs, low0, low1)), d, column);
    if (num_columns > 1) hn::Store(hn::BitCast(d, hn::InterleaveUpper(pairs, low0, low1)), d, column + to_row);
    if (num_columns > 2) hn::Store(hn::BitCast(d, hn::InterleaveLower(pairs, high0, high1)), d, column + 2 * to_row);
    if (num_columns > 3) hn::Store(hn::BitCast(d, hn::InterleaveUpper(pairs, high0, high1)), d, column + 3 * to_row);
    column += 4 * to_row;
  };
  std::int64_t x = 0;
  if (count == 4) {
    for (; x + 4 <= size; x += 4) turn(load_wide(d, row + x), load_wide(d, row1 + x), load_wide(d, row2 + x), load_wide(d, row3 + x), 4);
  }
  for (; x < size; x += 4) {
    const std::int64_t n = std::min<std::int64_t>(4, size - x);
    Quad r[4];
    for (std::int64_t i = 0; i < 4; ++i) r[i] = i < count ? load_tail(d, row + i * stride + x, n) : hn::Zero(d);
    turn(r[0], r[1], r[2], r[3], n);
  }
  return hn::GetLane(hn::SumOfLanes(d, strange)) == 0;
}

bool pack_transposed(const PackSource& from, float* to, std::int64_t to_row, std::int64_t panel_stride) {
  return with_rows(from, [&](auto* data) {
    bool finite = true;
    for (std::int64_t i = 0; i < round_up(from.count, panel); i += 4) {
      const std::int64_t count = std::clamp<std::int64_t>(from.count - i, 0, 4);
      float* column = to + i / panel * panel_stride + i % panel;
      for (std::int64_t j = i + rows_ahead; j < std::min(i + rows_ahead + 4, from.count + from.following); ++j)
        prefetch_row(data + j * from.stride, from.size);
      finite = turn_rows(data + (count == 0 ? 0 : i) * from.stride, from.stride, count, from.size, column, to_row) && finite;
    }
    return finite;
  });
}
#endif

// --- products -------------------------------------------------------------------------------------------------------

/// C (rows, vectors * lanes) (+)= A B, all of C in registers.
template <int rows, int vectors>
HWY_INLINE void block(std::int64_t k, const float* HWY_RESTRICT a, std::int64_t a_row, std::int64_t a_col, const float* HWY_RESTRICT b,
                      std::int64_t b_row, float* HWY_RESTRICT c, std::int64_t c_row, bool accumulate) {
  const Tag d;
  Vector sum[rows][vectors];
#pragma GCC unroll 6
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < vectors; ++j) sum[i][j] = accumulate ? hn::LoadU(d, c + i * c_row + j * lanes) : hn::Zero(d);
  }
#pragma GCC unroll 4
  for (std::int64_t x = 0; x < k; ++x) {  // unrolled: a short count of rounds is one that the branch predictor learns
    Vector row[vectors];
#pragma GCC unroll 4
    for (int j = 0; j < vectors; ++j) row[j] = hn::Load(d, b + j * lanes);
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

struct Product {
  std::int64_t m, k;
  const float* a;
  std::int64_t a_row, a_col, b_row, c_row;
  bool accumulate;
  const Interval *columns, *depths;
};

/// All rows of `vectors` vectors of one panel, which are the columns [first, first + vectors * lanes) of C.
template <int vectors>
HWY_NOINLINE void column_panel(const Product& p, std::int64_t first, const float* b, float* c) {
  const std::int64_t num_blocks = (p.m + block_rows - 1) / block_rows;
  for (std::int64_t index = 0; index < num_blocks; ++index) {
    if (p.columns != nullptr && (p.columns[index].first >= first + vectors * lanes || p.columns[index].end <= first)) continue;
    const Interval depth = p.depths != nullptr ? p.depths[index] : Interval{0, p.k};
    const std::int64_t k = depth.end - depth.first, row = index * block_rows;
    if (k <= 0 && p.accumulate) continue;
    const float *a = p.a + row * p.a_row + depth.first * p.a_col, *rows_of_b = b + depth.first * p.b_row;
    float* to = c + row * p.c_row;
    switch (std::min<std::int64_t>(p.m - row, block_rows)) {
      case 6:
        block<6, vectors>(k, a, p.a_row, p.a_col, rows_of_b, p.b_row, to, p.c_row, p.accumulate);
        break;
      case 5:
        block<5, vectors>(k, a, p.a_row, p.a_col, rows_of_b, p.b_row, to, p.c_row, p.accumulate);
        break;
      case 4:
        block<4, vectors>(k, a, p.a_row, p.a_col, rows_of_b, p.b_row, to, p.c_row, p.accumulate);
        break;
      case 3:
        block<3, vectors>(k, a, p.a_row, p.a_col, rows_of_b, p.b_row, to, p.c_row, p.accumulate);
        break;
      case 2:
        block<2, vectors>(k, a, p.a_row, p.a_col, rows_of_b, p.b_row, to, p.c_row, p.accumulate);
        break;
      default:
        block<1, vectors>(k, a, p.a_row, p.a_col, rows_of_b, p.b_row, to, p.c_row, p.accumulate);
    }
  }
}

void multiply(std::int64_t m, std::int64_t n, std::int64_t k, const float* a, std::int64_t a_row, std::int64_t a_col, const float* b,
              std::int64_t b_row, std::int64_t panel_stride, float* c, std::int64_t c_row, bool accumulate, const Interval* columns,
              const Interval* depths) {
  const Product product{m, k, a, a_row, a_col, b_row, c_row, accumulate, columns, depths};
  std::int64_t column = 0;
  for (; column + panel <= n; column += panel, b += panel_stride) column_panel<block_vectors>(product, column, b, c + column);
  for (std::int64_t x = 0; column + x < n; x += lanes) column_panel<1>(product, column + x, b + x, c + column + x);
}

// --- softmax --------------------------------------------------------------------------------------------------------

/// exp(x) = 2^n p(f),   n = round(x log2 e),  f = x log2 e - n in one rounding,  p of degree 5 with the least relative error on
/// |f| <= 1/2. For x <= 88; below -87.7 the result is 0: subnormal numbers would be slow and add nothing to a sum.
HWY_INLINE Vector exp_of_difference(Vector x) {
  const Tag d;
  const hn::RebindToSigned<Tag> di;
  const Vector log2_e = hn::Set(d, 1.44269504F), round = hn::Set(d, 0x1.8000fep23F);  // a sum with it has n + 127 in its low bits
  x = hn::Max(hn::Set(d, -88.0F), x);  // NaN stays: this order of operands gives the second one
  const Vector shifted = hn::MulAdd(x, log2_e, round);
  const Vector f = hn::MulSub(x, log2_e, hn::Sub(shifted, round));
  Vector p = hn::MulAdd(hn::Set(d, 0x1.5bba12p-10F), f, hn::Set(d, 0x1.3cea88p-7F));
  p = hn::MulAdd(p, f, hn::Set(d, 0x1.c6b752p-5F));
  p = hn::MulAdd(p, f, hn::Set(d, 0x1.ebf9bcp-3F));
  p = hn::MulAdd(p, f, hn::Set(d, 0x1.62e42ap-1F));
  p = hn::MulAdd(p, f, hn::Set(d, 1.0F));
  return hn::Mul(p, hn::BitCast(d, hn::ShiftLeft<23>(hn::BitCast(di, shifted))));
}

HWY_INLINE float high_of_row(const float* row, Interval columns, float high) {
  const Tag d;
  Vector high0 = hn::Set(d, high), high1 = high0;
  std::int64_t j = columns.first;
  for (; j + 2 * lanes <= columns.end; j += 2 * lanes) {
    high0 = hn::Max(high0, hn::Load(d, row + j));
    high1 = hn::Max(high1, hn::Load(d, row + j + lanes));
  }
  if (j < columns.end) high0 = hn::Max(high0, hn::Load(d, row + j));
  return hn::GetLane(hn::MaxOfLanes(d, hn::Max(high0, high1)));
}

void softmax(std::int64_t rows, float* scores, std::int64_t row_stride, const Interval* columns, float* high, float* total, float* factor) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const Tag d;
  HWY_ALIGN float shift[block_rows];
  for (std::int64_t first = 0; first < rows; first += block_rows, ++columns) {
    const std::int64_t count = std::min<std::int64_t>(block_rows, rows - first);
    // The largest numbers of all rows first: what each waits for overlaps.
    for (std::int64_t i = 0; i < count; ++i) {
      const float old = high[first + i], now = high_of_row(scores + (first + i) * row_stride, *columns, old);
      factor[first + i] = now == old ? 1.0F : std::exp(old - now);
      high[first + i] = now;
      shift[i] = now == -infinity ? 0.0F : now;
    }
    for (std::int64_t i = 0; i < count; ++i) {
      float* row = scores + (first + i) * row_stride;
      const Vector offset = hn::Set(d, shift[i]);
      float* sums = total + (first + i) * lanes;
      Vector sum0 = hn::Mul(hn::Set(d, factor[first + i]), hn::Load(d, sums)), sum1 = hn::Zero(d);
      std::int64_t j = columns->first;
      for (; j + 2 * lanes <= columns->end; j += 2 * lanes) {
        const Vector y0 = exp_of_difference(hn::Sub(hn::Load(d, row + j), offset));
        const Vector y1 = exp_of_difference(hn::Sub(hn::Load(d, row + j + lanes), offset));
        hn::Store(y0, d, row + j);
        hn::Store(y1, d, row + j + lanes);
        sum0 = hn::Add(sum0, y0);
        sum1 = hn::Add(sum1, y1);
      }
      if (j < columns->end) {
        const Vector y = exp_of_difference(hn::Sub(hn::Load(d, row + j), offset));
        hn::Store(y, d, row + j);
        sum0 = hn::Add(sum0, y);
      }
      hn::Store(hn::Add(sum0, sum1), d, sums);
    }
  }
}

void softmax_backward(std::int64_t rows, float* p, float* ds, std::int64_t row_stride, const Interval* columns, const float* lse,
                      const float* delta) {
  const Tag d;
  const Vector highest = hn::Set(d, 88.0F);
  for (std::int64_t r = 0; r < rows; ++r, p += row_stride, ds += row_stride) {
    const Interval range = columns[r / block_rows];
    if (lse[r] == -std::numeric_limits<float>::infinity()) {
      std::fill(p + range.first, p + range.end, 0.0F);
      std::fill(ds + range.first, ds + range.end, 0.0F);
      continue;
    }
    const Vector offset = hn::Set(d, lse[r]), minus = hn::Set(d, delta[r]);
    for (std::int64_t j = range.first; j < range.end; j += lanes) {
      const Vector y = exp_of_difference(hn::Min(highest, hn::Sub(hn::Load(d, p + j), offset)));
      hn::Store(y, d, p + j);
      hn::Store(hn::Mul(y, hn::Sub(hn::Load(d, ds + j), minus)), d, ds + j);
    }
  }
}

float sum_lanes(const float* total) { return hn::GetLane(hn::SumOfLanes(Tag(), hn::Load(Tag(), total))); }

void scale(float a, float* x, std::int64_t n) {
  const Tag d;
  const Vector factor = hn::Set(d, a);
  for (std::int64_t i = 0; i < n; i += lanes) hn::Store(hn::Mul(factor, hn::Load(d, x + i)), d, x + i);
}

}  // namespace

const PanelOps& panel_table() {
  static const PanelOps ops{.panel = panel,
                            .block_rows = block_rows,
                            .lanes = lanes,
                            .pack_rows = pack_rows,
                            .pack_panels = pack_panels,
                            .pack_transposed = pack_transposed,
                            .multiply = multiply,
                            .softmax = softmax,
                            .softmax_backward = softmax_backward,
                            .sum_lanes = sum_lanes,
                            .scale = scale};
  return ops;
}

}  // namespace HWY_NAMESPACE
}  // namespace cpu
SEQCCL_END
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
SEQCCL_BEGIN
namespace cpu {

HWY_EXPORT(panel_table);

const PanelOps& panel_ops() {
  static const PanelOps& ops = HWY_DYNAMIC_DISPATCH(panel_table)();
  return ops;
}

}  // namespace cpu
SEQCCL_END
#endif
