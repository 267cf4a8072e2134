// linear_chunk.cpp - rows of a chunk in scratch, and its products with states and token pairs.
// SPDX-License-Identifier: Apache-2.0
#include "linear_chunk.hpp"

#include <algorithm>
#include <vector>

#include "pack.hpp"

SEQCCL_BEGIN
namespace cpu::linear {
namespace {

constexpr std::int64_t most_row_blocks = chunk_tokens / 4 + 1;  // of a product's register block; there are at most 64 / 6 of them today

/// For each row block of a product with a lower triangle: what its rows read of the `count` numbers before them, or behind.
struct Triangle {
  Interval up_to[most_row_blocks], from[most_row_blocks];
  explicit Triangle(std::int64_t count) {
    const std::int64_t step = panel_ops().block_rows;
    for (std::int64_t first = 0, block = 0; first < count; first += step, ++block) {
      up_to[block] = {0, std::min(count, first + step)};
      from[block] = {first, count};
    }
  }
};

}  // namespace

float* Workspace::floats(std::int64_t count) {
  thread_local std::vector<AlignedFloats> blocks;
  if (next_ == blocks.size()) blocks.emplace_back();
  AlignedFloats& block = blocks[next_++];
  block.grow(round_up(count, 16));  // whole cache lines: vector passes go up to the next whole vector
  return block.data();
}

void load_tokens(const ConstTensorView& x, std::int64_t batch, std::int64_t head, std::int64_t first, std::int64_t count, float factor,
                 RowsOut to) {
  panel_ops().pack_rows({.data = address(x, batch, first, head),
                         .dtype = x.dtype,
                         .stride = x.stride(1),
                         .count = count,
                         .size = x.extent(3),
                         .following = x.extent(1) - first - count},
                        factor, to.data, to.row);
}

void store_tokens(Rows from, const TensorView& x, std::int64_t batch, std::int64_t head, std::int64_t first, std::int64_t count) {
  const std::int64_t dim = x.extent(3);
  with_element(x.dtype, [&]<class Element>(Element) {
    Element* to = x.as<Element>() + batch * x.stride(0) + first * x.stride(1) + head * x.stride(2);
    for (std::int64_t t = 0; t < count; ++t, from.data += from.row, to += x.stride(1)) {
      for (std::int64_t d = 0; d < dim; ++d) to[d] = Element(from.data[d]);
    }
  });
}

void turn(std::int64_t count, std::int64_t width, Rows from, RowsOut to) {
  const PanelOps& ops = panel_ops();
  ops.pack_transposed({.data = from.data, .dtype = DType::f32, .stride = from.row, .count = count, .size = width}, to.data, to.row,
                      ops.panel);
}

void load_readers(const ConstTensorView& x, std::int64_t batch, std::int64_t head, std::int64_t first, std::int64_t count,
                  std::int64_t shift, float factor, RowsOut to) {
  const std::int64_t rows = std::min(count + shift, x.extent(1) - first);
  load_tokens(x, batch, head, first, rows, factor, to);
  std::fill(to.data + rows * to.row, to.data + (count + shift) * to.row, 0.0F);
}

void product(std::int64_t m, std::int64_t n, std::int64_t k, Rows a, Rows b, RowsOut c, bool accumulate) {
  const PanelOps& ops = panel_ops();
  ops.multiply(m, n, k, a.data, a.row, 1, b.data, b.row, ops.panel, c.data, c.row, accumulate, nullptr, nullptr);
}

void turned_product(std::int64_t m, std::int64_t n, std::int64_t k, Rows a, Rows b, RowsOut c, bool accumulate) {
  const PanelOps& ops = panel_ops();
  ops.multiply(m, n, k, a.data, 1, a.row, b.data, b.row, ops.panel, c.data, c.row, accumulate, nullptr, nullptr);
}

void lower_outer(Rows x, Rows y_turned, std::int64_t count, std::int64_t width, const Rows* factors, RowsOut pairs) {
  const PanelOps& ops = panel_ops();
  const Triangle triangle(count);
  ops.multiply(count, count, width, x.data, x.row, 1, y_turned.data, y_turned.row, ops.panel, pairs.data, pairs.row, false, triangle.up_to,
               nullptr);
  for (std::int64_t first = 0; first < count && factors != nullptr; first += block_tokens) {
    const std::int64_t end = std::min(count, first + block_tokens);
    row_ops().multiply(end - first, end, *factors + first, pairs + first, pairs + first);
  }
  clear_above(count, pairs);
}

void lower_product(Rows pairs, Rows x, std::int64_t count, std::int64_t width, RowsOut y, bool accumulate) {
  const PanelOps& ops = panel_ops();
  const Triangle triangle(count);
  ops.multiply(count, width, count, pairs.data, pairs.row, 1, x.data, x.row, ops.panel, y.data, y.row, accumulate, nullptr, triangle.up_to);
}

void lower_turned_product(Rows pairs, Rows x, std::int64_t count, std::int64_t width, RowsOut y, bool accumulate) {
  const PanelOps& ops = panel_ops();
  const Triangle triangle(count);
  ops.multiply(count, width, count, pairs.data, 1, pairs.row, x.data, x.row, ops.panel, y.data, y.row, accumulate, nullptr, triangle.from);
}

void clear_above(std::int64_t count, RowsOut pairs) {
  const std::int64_t step = panel_ops().block_rows;
  for (std::int64_t t = 0; t < count; ++t) {
    float* row = pairs.data + t * pairs.row;
    std::fill(row + t + 1, row + std::max(t + 1, std::min(count, t / step * step + step)), 0.0F);
  }
}

void load_state(const ConstTensorView& from, std::int64_t batch, std::int64_t head, std::int64_t key_dim, std::int64_t value_dim,
                RowsOut to) {
  if (!from) return static_cast<void>(std::fill_n(to.data, key_dim * to.row, 0.0F));
  panel_ops().pack_rows({.data = from.as<float>() + batch * from.stride(0) + head * from.stride(1),
                         .dtype = DType::f32,
                         .stride = from.stride(2),
                         .count = key_dim,
                         .size = value_dim},
                        1, to.data, to.row);
}

void store_state(Rows from, const TensorView& state, std::int64_t batch, std::int64_t head) {
  float* to = state.as<float>() + batch * state.stride(0) + head * state.stride(1);
  for (std::int64_t d = 0; d < state.extent(2); ++d) std::copy_n(from.data + d * from.row, state.extent(3), to + d * state.stride(2));
}

}  // namespace cpu::linear
SEQCCL_END
