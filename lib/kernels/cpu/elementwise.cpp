// elementwise.cpp - merge, row sums, copies with conversion, add and zero on strided views.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "../parallel.hpp"
#include "pack.hpp"
#include "seqccl/error.hpp"
#include "seqccl/kernels.hpp"
#include "seqccl/merge.hpp"
#include "tile.hpp"

SEQCCL_BEGIN
namespace cpu {
namespace {

constexpr std::int64_t item_elements = 1 << 16;  // of one item of work: far more than it costs to hand it to a thread

/// A walk over two views of equal extents, as nested loops with the fewest axes: axes of extent 1 are dropped, axes that follow one
/// another in both views are one, and the axis on which `to` moves least is innermost.
struct Walk {
  struct Axis {
    std::int64_t extent = 1, from = 0, to = 0;  // strides in elements
  };
  std::array<Axis, max_axes> axes{};  // outermost first
  int num_axes = 0;

  Walk(const char* who, const Geometry& from, const Geometry& to) {
    bool equal = from.num_axes == to.num_axes;
    for (int axis = 0; equal && axis < to.num_axes; ++axis) equal = from.shape[axis] == to.shape[axis];
    if (!equal)
      throw Error(ErrorKind::argument, fmt::format("{}: from has shape {}, want {}, that of to", who, to_string(from), to_string(to)));
    std::array<Axis, max_axes> all{};
    int count = 0;
    for (int axis = 0; axis < to.num_axes; ++axis) {
      if (to.shape[axis] != 1) all[count++] = {to.shape[axis], from.strides[axis], to.strides[axis]};
    }
    std::stable_sort(all.begin(), all.begin() + count, [](const Axis& a, const Axis& b) { return std::abs(a.to) > std::abs(b.to); });
    for (int i = 0; i < count; ++i) {
      Axis* last = num_axes > 0 ? &axes[num_axes - 1] : nullptr;
      if (last != nullptr && last->from == all[i].from * all[i].extent && last->to == all[i].to * all[i].extent)
        *last = {last->extent * all[i].extent, all[i].from, all[i].to};
      else
        axes[num_axes++] = all[i];
    }
    if (num_axes == 0) axes[num_axes++] = {1, 1, 1};
  }

  [[nodiscard]] const Axis& inner() const noexcept { return axes[num_axes - 1]; }
  [[nodiscard]] std::int64_t num_runs() const noexcept {
    std::int64_t count = 1;
    for (int axis = 0; axis + 1 < num_axes; ++axis) count *= axes[axis].extent;
    return count;
  }

  /// Calls run(offset in from, offset in to, count): pieces of the innermost axis.
  template <class Run>
  void for_each_run(ThreadBudget num_threads, Run&& run) const {
    const std::int64_t runs = num_runs(), length = inner().extent;
    if (runs == 0 || length == 0) return;
    const std::int64_t pieces = (length + item_elements - 1) / item_elements;      // of a long run
    const std::int64_t group = std::max<std::int64_t>(1, item_elements / length);  // of short runs
    const std::int64_t num_items = pieces > 1 ? runs * pieces : (runs + group - 1) / group;
    parallel_for(num_items, num_items < 4 ? ThreadBudget(1) : num_threads, [&](std::int64_t item) {
      const std::int64_t first = pieces > 1 ? item / pieces : item * group;
      const std::int64_t last = pieces > 1 ? first + 1 : std::min(first + group, runs);
      const std::int64_t begin = pieces > 1 ? item % pieces * item_elements : 0;
      const std::int64_t count = std::min(length - begin, pieces > 1 ? item_elements : length);
      for (std::int64_t index = first; index < last; ++index) {
        std::int64_t rest = index, from = begin * inner().from, to = begin * inner().to;
        for (int axis = num_axes - 2; axis >= 0; --axis) {
          from += rest % axes[axis].extent * axes[axis].from;
          to += rest % axes[axis].extent * axes[axis].to;
          rest /= axes[axis].extent;
        }
        run(from, to, count);
      }
    });
  }
};

/// Applies visit(row batch, token, head) to all rows of a (B, T, H, D) view, a few rows an item.
template <class Visit>
void for_each_row(const ConstTensorView& view, ThreadBudget num_threads, Visit&& visit) {
  const std::int64_t tokens = view.extent(1), heads = view.extent(2), rows = view.extent(0) * tokens * heads;
  const std::int64_t group = std::max<std::int64_t>(1, item_elements / std::max<std::int64_t>(1, view.extent(3)));
  const std::int64_t num_items = (rows + group - 1) / group;
  parallel_for(num_items, num_items < 4 ? ThreadBudget(1) : num_threads, [&](std::int64_t item) {
    for (std::int64_t row = item * group; row < std::min(rows, (item + 1) * group); ++row)
      visit(row / heads / tokens, row / heads % tokens, row % heads);
  });
}

void check_f32(const char* who, const char* what, const ConstTensorView& view) {
  if (view.dtype != f32) throw Error(ErrorKind::argument, fmt::format("{}: {} is {}, want f32", who, what, name(view.dtype)));
}

}  // namespace

void merge(ConstTensorView part_out, ConstTensorView part_lse, TensorView out, TensorView lse, ThreadBudget num_threads) {
  check_f32("merge", "out", out);
  const std::int64_t size = out.extent(3);
  with_element(part_out.dtype, [&]<class Element>(Element) {
    for_each_row(out, num_threads, [&](std::int64_t b, std::int64_t t, std::int64_t h) {
      const float part = scalar_at(part_lse, b, t, h);
      float& whole = *row_at(lse, b, t, h);
      if (part == -std::numeric_limits<float>::infinity()) return;
      const MergeWeights weights = merge_weights(whole, part);
      const bool first = whole == -std::numeric_limits<float>::infinity();  // then `out` holds nothing yet
      const Element* from = row_at<Element>(part_out, b, t, h);
      float* to = row_at(out, b, t, h);
      for (std::int64_t d = 0; d < size; ++d) to[d] = (first ? 0.0F : weights.a * to[d]) + weights.b * widen(from[d]);
      whole = weights.lse;
    });
  });
}

void row_dot(ConstTensorView dout, ConstTensorView out, TensorView delta, ThreadBudget num_threads) {
  check_f32("row_dot", "delta", delta);
  const std::int64_t size = out.extent(3);
  with_element(dout.dtype, [&]<class A>(A) {
    with_element(out.dtype, [&]<class B>(B) {
      for_each_row(out, num_threads, [&](std::int64_t b, std::int64_t t, std::int64_t h) {
        const A* x = row_at<A>(dout, b, t, h);
        const B* y = row_at<B>(out, b, t, h);
        constexpr std::int64_t lanes = 16;  // sums side by side, so that the loop becomes vector code in a fixed order
        float sums[lanes] = {};
        std::int64_t d = 0;
        for (; d + lanes <= size; d += lanes) {
          for (std::int64_t i = 0; i < lanes; ++i) sums[i] += widen(x[d + i]) * widen(y[d + i]);
        }
        for (std::int64_t i = 0; d + i < size; ++i) sums[i] += widen(x[d + i]) * widen(y[d + i]);
        for (std::int64_t half = lanes / 2; half > 0; half /= 2) {
          for (std::int64_t i = 0; i < half; ++i) sums[i] += sums[i + half];
        }
        *row_at(delta, b, t, h) = sums[0];
      });
    });
  });
}

void sink_gradient(ConstTensorView sinks, ConstTensorView lse, ConstTensorView delta, TensorView dsinks) {
  for (std::int64_t h = 0; h < sinks.extent(2); ++h) {
    const float sink = sinks.as<float>()[h * sinks.stride(2)];
    double sum = 0;  // over all tokens: long
    for (std::int64_t b = 0; b < lse.extent(0); ++b) {
      for (std::int64_t t = 0; t < lse.extent(1); ++t) {
        const float row_lse = scalar_at(lse, b, t, h);
        if (row_lse == -std::numeric_limits<float>::infinity()) continue;  // no key and no sink: out is 0 whatever the sink
        sum -= std::exp(static_cast<double>(sink) - row_lse) * scalar_at(delta, b, t, h);
      }
    }
    dsinks.as<float>()[h * dsinks.stride(2)] = static_cast<float>(sum);
  }
}

namespace {

/// True if the elements of both lie one after the other, in the same order.
bool are_one_run(const ConstTensorView& from, const TensorView& to) {
  if (from.dtype != to.dtype || from.geometry.num_axes != to.geometry.num_axes) return false;
  std::int64_t dense = 1;
  for (int axis = to.geometry.num_axes - 1; axis >= 0; --axis) {
    const std::int64_t extent = to.extent(axis);
    if (from.extent(axis) != extent || (extent != 1 && (from.stride(axis) != dense || to.stride(axis) != dense))) return false;
    dense *= extent;
  }
  return dense <= item_elements;
}

}  // namespace

void copy(ConstTensorView from, TensorView to, ThreadBudget num_threads) {
  if (are_one_run(from, to)) {  // what is small must not cost more than its bytes
    const auto num_bytes = static_cast<std::size_t>(to.geometry.num_elements()) * size_bytes(to.dtype);
    if (num_bytes != 0) std::memcpy(to.data, from.data, num_bytes);
    return;
  }
  const Walk walk("copy", from.geometry, to.geometry);
  const std::int64_t from_stride = walk.inner().from, to_stride = walk.inner().to;
  with_element(from.dtype, [&]<class From>(From) {
    with_element(to.dtype, [&]<class To>(To) {
      walk.for_each_run(num_threads, [&](std::int64_t from_offset, std::int64_t to_offset, std::int64_t count) {
        const From* source = from.as<From>() + from_offset;
        To* target = to.as<To>() + to_offset;
        const auto convert = [](From value) -> To {
          if constexpr (std::is_same_v<From, To>)
            return value;  // bit for bit
          else
            return To(widen(value));
        };
        if (from_stride == 1 && to_stride == 1) {
          if constexpr (std::is_same_v<From, To>)
            std::memcpy(target, source, static_cast<std::size_t>(count) * sizeof(To));
          else
            for (std::int64_t i = 0; i < count; ++i) target[i] = convert(source[i]);
        } else {
          for (std::int64_t i = 0; i < count; ++i) target[i * to_stride] = convert(source[i * from_stride]);
        }
      });
    });
  });
}

void add(ConstTensorView from, TensorView to, ThreadBudget num_threads) {
  check_f32("add", "to", to);
  const Walk walk("add", from.geometry, to.geometry);
  const std::int64_t from_stride = walk.inner().from, to_stride = walk.inner().to;
  with_element(from.dtype, [&]<class From>(From) {
    walk.for_each_run(num_threads, [&](std::int64_t from_offset, std::int64_t to_offset, std::int64_t count) {
      const From* source = from.as<From>() + from_offset;
      float* target = to.as<float>() + to_offset;
      if (from_stride == 1 && to_stride == 1) {
        for (std::int64_t i = 0; i < count; ++i) target[i] += widen(source[i]);
      } else {
        for (std::int64_t i = 0; i < count; ++i) target[i * to_stride] += widen(source[i * from_stride]);
      }
    });
  });
}

void zero(TensorView to, ThreadBudget num_threads) {
  const Walk walk("zero", to.geometry, to.geometry);
  const std::int64_t stride = walk.inner().to;
  const std::size_t element_bytes = size_bytes(to.dtype);
  walk.for_each_run(num_threads, [&](std::int64_t, std::int64_t offset, std::int64_t count) {
    std::byte* target = to.as<std::byte>() + offset * static_cast<std::int64_t>(element_bytes);
    if (stride == 1) {
      std::memset(target, 0, static_cast<std::size_t>(count) * element_bytes);
    } else {
      for (std::int64_t i = 0; i < count; ++i)
        std::memset(target + i * stride * static_cast<std::int64_t>(element_bytes), 0, element_bytes);
    }
  });
}

std::string instruction_set() { return tile().name; }

}  // namespace cpu
SEQCCL_END
