// panel.hpp - SIMD primitives of the attend kernels: packing into panels, products of packed panels, the softmax of a tile of scores.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <new>

#include "band.hpp"
#include "seqccl/tensor.hpp"

SEQCCL_BEGIN
namespace cpu {

// A panel is a few columns of a matrix, `panel` of them, row after row without a gap, so that a product reads it in one stream:
//
//     (k, n)  ->  panel 0: (k, panel)   panel 1: (k, panel)   ...   the last one filled up with zeros
//
// Rows of a product are worked on in blocks of `block_rows`; what a block needs not compute it is told by one interval per block.

/// Rows to pack: `size` numbers each, `stride` elements apart. `following` rows behind them will be wanted next: they are prefetched.
struct PackSource {
  const void* data = nullptr;
  DType dtype = DType::f32;
  std::int64_t stride = 0, count = 0, size = 0, following = 0;
};

/// Everything in memory is f32 and aligned to a cache line, except the rows that are packed.
struct PanelOps {
  std::int64_t panel = 0;       // columns of a panel
  std::int64_t block_rows = 0;  // rows of the register block
  std::int64_t lanes = 0;       // numbers of a vector

  /// to (count, stride) = factor * rows; columns from size to the next whole vector become 0. False if a number is infinite or NaN.
  bool (*pack_rows)(const PackSource& from, float factor, float* to, std::int64_t stride);
  /// Panel p of `to` begins at p * panel_stride: (count, panel) of factor * rows.
  bool (*pack_panels)(const PackSource& from, float factor, float* to, std::int64_t panel_stride);
  /// Panel p holds rows p * panel, ... of `from` as columns: (size, panel), its rows to_row apart; it begins at p * panel_stride.
  bool (*pack_transposed)(const PackSource& from, float* to, std::int64_t to_row, std::int64_t panel_stride);

  /// C (m, n) = A (m, k) B (k, n), or += with `accumulate`; a[i * a_row + x * a_col]. n is rounded up to whole vectors. Panel p of B
  /// begins at p * panel_stride and has rows b_row apart: packed panels (b_row = panel), or plain rows (panel_stride = panel).
  /// columns[b], if given: row block b has no need of columns outside (panels that it does not touch keep their old contents);
  /// depths[b], if given: row block b sums over this part of k only.
  void (*multiply)(std::int64_t m, std::int64_t n, std::int64_t k, const float* a, std::int64_t a_row, std::int64_t a_col, const float* b,
                   std::int64_t b_row, std::int64_t panel_stride, float* c, std::int64_t c_row, bool accumulate, const Interval* columns,
                   const Interval* depths);

  /// Online softmax over the columns (whole vectors) of each row block, per row:
  ///     m' = max(m, max S)    S <- e^(S - m')    factor = e^(m - m')    l <- factor l + sum S,  l kept as one number per lane.
  /// A row of nothing but -inf so far keeps m = -inf and l = 0. NaN reaches l.
  void (*softmax)(std::int64_t rows, float* scores, std::int64_t row_stride, const Interval* columns, float* high, float* total,
                  float* factor);
  /// Row r: P <- e^(P - lse[r]),  dS <- P (dS - delta[r]); lse = -inf gives 0.
  void (*softmax_backward)(std::int64_t rows, float* p, float* ds, std::int64_t row_stride, const Interval* columns, const float* lse,
                           const float* delta);
  float (*sum_lanes)(const float* total);
  void (*scale)(float a, float* x, std::int64_t n);  // n: whole vectors
};

/// The table for this machine (chosen once, thread safe).
[[nodiscard]] const PanelOps& panel_ops();

/// Scratch on cache lines; grows and stays, without its old contents.
class AlignedFloats {
 public:
  void grow(std::int64_t size) {
    if (size <= size_) return;
    memory_.reset();
    memory_.reset(static_cast<float*>(::operator new (static_cast<std::size_t>(size) * sizeof(float), std::align_val_t{64})));
    size_ = size;
  }
  [[nodiscard]] float* data() const noexcept { return memory_.get(); }

 private:
  struct Free {
    void operator()(float* memory) const noexcept { ::operator delete (memory, std::align_val_t{64}); }
  };
  std::unique_ptr<float, Free> memory_;
  std::int64_t size_ = 0;
};

[[nodiscard]] constexpr std::int64_t round_up(std::int64_t size, std::int64_t to) noexcept { return (size + to - 1) / to * to; }
/// Rows of `size` numbers in scratch that are read by rows and by columns: an odd number of cache lines apart, or a column would lie in
/// a few sets of the cache.
[[nodiscard]] constexpr std::int64_t padded_row(std::int64_t size) noexcept { return (((size + 15) / 16) | 1) * 16; }

}  // namespace cpu
SEQCCL_END
