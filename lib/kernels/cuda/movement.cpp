// movement.cpp - checks and launches of copy, add, zero, merge, row_dot, sink_gradient and the steps of states.
// SPDX-License-Identifier: Apache-2.0
#include "movement_problem.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>

#include "attend_arguments.hpp"

SEQCCL_BEGIN
namespace cuda {
namespace {

constexpr std::int64_t max_launch = std::int64_t{0x7fffffff} * 4;  // rows; pieces: 256 a block

struct Axis {
  std::int64_t extent = 1, from = 0, to = 0;  // strides in elements
};

/// Nested axes as few as possible, the one on which `to` moves least innermost, as the CPU walks.
int fewest_axes(const Geometry& from, const Geometry& to, std::array<Axis, max_axes>& axes) {
  std::array<Axis, max_axes> all{};
  int count = 0, made = 0;
  for (int axis = 0; axis < to.num_axes; ++axis)
    if (to.shape[axis] != 1) all[count++] = {to.shape[axis], from.strides[axis], to.strides[axis]};
  std::stable_sort(all.begin(), all.begin() + count, [](const Axis& a, const Axis& b) { return std::abs(a.to) > std::abs(b.to); });
  for (int i = 0; i < count; ++i) {
    Axis* last = made > 0 ? &axes[made - 1] : nullptr;
    if (last != nullptr && last->from == all[i].from * all[i].extent && last->to == all[i].to * all[i].extent)
      *last = {last->extent * all[i].extent, all[i].from, all[i].to};
    else
      axes[made++] = all[i];
  }
  if (made == 0) axes[made++] = {1, 1, 1};
  return made;
}

void move(const char* who, Move kind, ConstTensorView from, TensorView to, Stream stream) {
  const auto& shape = to.geometry.shape;
  bool equal = from.geometry.num_axes == to.geometry.num_axes;
  for (int axis = 0; equal && axis < to.geometry.num_axes; ++axis) equal = from.extent(axis) == shape[axis];
  if (!equal) refuse(who, fmt::format("from has shape {}, want {}, that of to", to_string(from.geometry), to_string(to.geometry)));
  if (from.dtype == DType::f64 || to.dtype == DType::f64) refuse(who, "an operand is f64, want f32, f16 or bf16");
  if (kind == Move::add) check_f32(who, "to", to);
  const std::int64_t num_elements = to.geometry.num_elements();
  if (num_elements == 0) return;
  std::array<Axis, max_axes> axes{};
  MoveProblem p;
  p.from = from.data, p.to = to.data;
  p.num_axes = fewest_axes(from.geometry, to.geometry, axes);
  Axis& inner = axes[p.num_axes - 1];
  const auto bytes = [](const ConstTensorView& x) { return static_cast<std::int64_t>(size_bytes(x.dtype)); };
  const std::int64_t wide = 16 / std::max(bytes(from), bytes(to));
  bool aligned = inner.from == 1 && inner.to == 1 && inner.extent % wide == 0;
  const auto at_multiple = [&](const ConstTensorView& x, std::int64_t stride) { return stride * bytes(x) % (wide * bytes(x)) == 0; };
  aligned = aligned && reinterpret_cast<std::uintptr_t>(to.data) % (wide * bytes(to)) == 0 &&
            (kind == Move::zero || reinterpret_cast<std::uintptr_t>(from.data) % (wide * bytes(from)) == 0);
  for (int axis = 0; axis + 1 < p.num_axes; ++axis)
    aligned = aligned && at_multiple(from, axes[axis].from) && at_multiple(to, axes[axis].to);
  const std::int64_t width = aligned ? wide : 1;
  inner = {inner.extent / width, inner.from * width, inner.to * width};
  for (int axis = 0; axis < p.num_axes; ++axis)
    p.extent[axis] = axes[axis].extent, p.from_stride[axis] = axes[axis].from, p.to_stride[axis] = axes[axis].to;
  p.num_pieces = num_elements / width;
  if (p.num_pieces > max_launch * 64) refuse(who, fmt::format("{} elements, want fewer at once", num_elements));
  require_launch(who, launch_move(p, kind, from.dtype, to.dtype, static_cast<int>(width), stream));
}

/// (B, T, H) of rows; the launch's limit.
RowsProblem rows_of(const char* who, const ConstTensorView& x) {
  RowsProblem p;
  p.batch = x.extent(0), p.tokens = x.extent(1), p.heads = x.extent(2), p.size = static_cast<std::int32_t>(x.extent(3));
  if (p.batch * p.tokens * p.heads > max_launch) refuse(who, fmt::format("{} is more rows than a launch can have", to_string(x.geometry)));
  return p;
}
bool is_empty(const RowsProblem& p) { return p.batch * p.tokens * p.heads == 0; }

void check_four_axes(const char* who, const char* what, const ConstTensorView& x) {
  if (x.geometry.num_axes != 4) refuse(who, fmt::format("{} is {}, want four axes", what, to_string(x.geometry)));
}

StateProblem::Matrix matrix(const ConstTensorView& x) { return {const_cast<float*>(x.as<float>()), x.stride(0), x.stride(1), x.stride(2)}; }

/// Columns [first, first + count) of a (B, H, Dk, Dv) view.
template <class View>
View columns_of(const char* who, View state, std::int64_t first, std::int64_t count) {
  if (first < 0 || first + count > state.extent(3))
    refuse(who, fmt::format("columns [{}, {}) of a state with {}, want them inside", first, first + count, state.extent(3)));
  state.data = state.template as<float>() + first;
  state.geometry.shape[3] = count;
  return state;
}

}  // namespace

void copy(ConstTensorView from, TensorView to, Stream stream) { move("copy", Move::copy, from, to, stream); }
void add(ConstTensorView from, TensorView to, Stream stream) { move("add", Move::add, from, to, stream); }
void zero(TensorView to, Stream stream) { move("zero", Move::zero, to, to, stream); }

void merge(ConstTensorView part_out, ConstTensorView part_lse, TensorView out, TensorView lse, Stream stream) {
  const char* who = "merge";
  check_four_axes(who, "out", out);
  check_shape(who, "part_out", part_out, out.extent(0), out.extent(1), out.extent(2), out.extent(3));
  check_shape(who, "part_lse", part_lse, out.extent(0), out.extent(1), out.extent(2), 1);
  check_shape(who, "lse", lse, out.extent(0), out.extent(1), out.extent(2), 1);
  check_shape(who, "out", out, out.extent(0), out.extent(1), out.extent(2), out.extent(3));
  check_f32(who, "out", out);
  check_f32(who, "lse", lse);
  check_f32(who, "part_lse", part_lse);
  if (part_out.dtype == DType::f64) refuse(who, "part_out is f64, want f32, f16 or bf16");
  RowsProblem p = rows_of(who, out);
  if (is_empty(p)) return;
  p.a = operand(part_out), p.part_lse = read_only(part_lse), p.out = operand(out), p.lse = operand(lse);
  require_launch(who, launch_merge(p, part_out.dtype, stream));
}

void row_dot(ConstTensorView dout, ConstTensorView out, TensorView delta, Stream stream) {
  const char* who = "row_dot";
  check_four_axes(who, "out", out);
  check_shape(who, "dout", dout, out.extent(0), out.extent(1), out.extent(2), out.extent(3));
  check_shape(who, "out", out, out.extent(0), out.extent(1), out.extent(2), out.extent(3));
  check_shape(who, "delta", delta, out.extent(0), out.extent(1), out.extent(2), 1);
  check_f32(who, "delta", delta);
  if (dout.dtype == DType::f64 || out.dtype == DType::f64) refuse(who, "an operand is f64, want f32, f16 or bf16");
  RowsProblem p = rows_of(who, out);
  if (is_empty(p)) return;
  p.a = operand(dout), p.b = operand(out), p.out = operand(delta);
  require_launch(who, launch_row_dot(p, dout.dtype, out.dtype, stream));
}

void sink_gradient(ConstTensorView sinks, ConstTensorView lse, ConstTensorView delta, TensorView dsinks, Stream stream) {
  const char* who = "sink_gradient";
  check_four_axes(who, "lse", lse);
  check_shape(who, "lse", lse, lse.extent(0), lse.extent(1), lse.extent(2), 1);
  check_shape(who, "delta", delta, lse.extent(0), lse.extent(1), lse.extent(2), 1);
  check_shape(who, "sinks", sinks, 1, 1, lse.extent(2), 1);
  check_shape(who, "dsinks", dsinks, 1, 1, lse.extent(2), 1);
  for (const auto& [what, x] : {std::pair{"sinks", sinks}, std::pair{"lse", lse}, std::pair{"delta", delta}}) check_f32(who, what, x);
  check_f32(who, "dsinks", dsinks);
  if (lse.extent(2) == 0) return;
  require_launch(who, launch_sink_gradient({.batch = lse.extent(0),
                                            .tokens = lse.extent(1),
                                            .heads = lse.extent(2),
                                            .sinks = sinks.as<float>(),
                                            .dsinks = dsinks.as<float>(),
                                            .sinks_stride = sinks.stride(2),
                                            .dsinks_stride = dsinks.stride(2),
                                            .lse = read_only(lse),
                                            .delta = read_only(delta)},
                                           stream));
}

void state_step(const StateStepArguments& a, Stream stream) {
  const char* who = "state_step";
  check_four_axes(who, "state", a.state);
  const std::int64_t batch = a.state.extent(0), heads = a.state.extent(1), key_dim = a.state.extent(2), width = a.state.extent(3);
  check_shape(who, "state", a.state, batch, heads, key_dim, width);
  check_f32(who, "state", a.state);
  const auto check = [&](const char* what, const ConstTensorView& x, std::int64_t rows, std::int64_t columns) {
    check_shape(who, what, x, batch, heads, rows, columns);
    check_f32(who, what, x);
  };
  if (a.update) check("update", a.update, key_dim, width);
  if (a.log_sum) check("log_sum", a.log_sum, a.log_sum.extent(2) == 1 ? 1 : key_dim, 1);
  if (a.transition) check("transition", a.transition, key_dim, key_dim);
  if (a.log_sum && a.transition) refuse(who, "log_sum and transition are both given, want at most one");
  if (a.transition && key_dim > max_dense_key_dim)
    refuse(who, fmt::format("a dense transition of {} rows, want at most {} on a CUDA device", key_dim, max_dense_key_dim));
  if (batch * heads * key_dim * width == 0 || (!a.update && !a.log_sum && !a.transition)) return;
  if (batch * heads * key_dim > max_launch) refuse(who, fmt::format("{} is more rows than a launch can have", to_string(a.state.geometry)));
  StateProblem p{.batch = batch, .heads = heads, .key_dim = static_cast<std::int32_t>(key_dim), .width = static_cast<std::int32_t>(width)};
  p.state = matrix(a.state);
  if (a.update) p.update = matrix(a.update);
  if (a.log_sum) p.log_sum = matrix(a.log_sum), p.log_sum_per_row = a.log_sum.extent(2) > 1;
  if (a.transition) p.transition = matrix(a.transition);
  p.repeat = a.repeat;
  require_launch(who, launch_state_step(p, stream));
}

void take_columns(ConstTensorView state, TensorView columns, std::int64_t first, Stream stream) {
  check_f32("take_columns", "state", state);
  move("take_columns", Move::copy, columns_of("take_columns", state, first, columns.extent(3)), columns, stream);
}
void put_columns(ConstTensorView columns, TensorView state, std::int64_t first, Stream stream) {
  check_f32("put_columns", "state", state);
  move("put_columns", Move::copy, columns, columns_of("put_columns", state, first, columns.extent(3)), stream);
}

}  // namespace cuda
SEQCCL_END
