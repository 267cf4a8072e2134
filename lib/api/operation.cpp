// operation.cpp - shape checks, views of the caller's tensors as slots, and the run.
// SPDX-License-Identifier: Apache-2.0
#include "operation.hpp"

#include <fmt/format.h>

SEQCCL_BEGIN

bool tokens_are_contiguous(const ConstTensorView& view) {
  if (!view) return true;
  const auto& [num_axes, shape, strides] = view.geometry;
  if (view.geometry.num_elements() == 0) return true;
  return strides[3] == 1 && (shape[2] == 1 || strides[2] == shape[3]) && (shape[1] == 1 || strides[1] == shape[2] * shape[3]);
}

bool is_receivable(Communicator& comm, const ConstTensorView& view) {
  if (!view || view.geometry.num_axes != 4 || view.extent(0) != 1 || !tokens_are_contiguous(view)) return false;
  return comm.transport().is_receivable(view.as<std::byte>(),
                                        static_cast<std::size_t>(view.geometry.num_elements()) * size_bytes(view.dtype));
}

const Schedule& plan_for(Communicator& comm, PlannedPass& pass, const ConstTensorView& from, const ConstTensorView& to) {
  const bool sendable = tokens_are_contiguous(from);
  if (is_receivable(comm, to)) return pass.schedule(sendable, true);
  const std::size_t eager_bytes = comm.transport().eager_bytes();
  if (eager_bytes == 0 || !to || to.extent(0) != 1 || !tokens_are_contiguous(to)) return pass.schedule(sendable, false);
  const Schedule& in_place = pass.schedule(sendable, true);
  for (const Exchange& exchange : in_place.exchanges)
    for (const Transfer& receive : in_place.receives(exchange))
      if (in_place.num_bytes(receive.block) > eager_bytes) return pass.schedule(sendable, false);
  return in_place;
}

void require(const char* who, const char* name, const ConstTensorView& view, DType dtype, std::initializer_list<std::int64_t> shape) {
  const auto num_axes = static_cast<int>(shape.size());
  bool same = view.geometry.num_axes == num_axes, is_empty = false;
  for (int axis = 0; axis < num_axes; ++axis) {
    const std::int64_t extent = shape.begin()[axis];
    same = same && view.geometry.shape[static_cast<std::size_t>(axis)] == extent;
    is_empty = is_empty || extent == 0;
  }
  const auto refuse = [&](const std::string& what) { return Error(ErrorKind::argument, fmt::format("{}: {} {}", who, name, what)); };
  if (!view && !is_empty) throw refuse(fmt::format("is missing, want {} {}", seqccl::name(dtype), to_string(contiguous(shape))));
  if (!view) return;
  if (!same) throw refuse(fmt::format("has shape {}, want {}", to_string(view.geometry), to_string(contiguous(shape))));
  if (view.dtype != dtype) throw refuse(fmt::format("is {}, want {}", seqccl::name(view.dtype), seqccl::name(dtype)));
}

namespace {

/// The bytes from the first to past the last element. dense: it holds nothing else, so that overlap of two extents is overlap of
/// elements (packed qkv gradients interleave without sharing a byte).
struct Extent {
  std::uintptr_t first = 0;
  std::size_t num_bytes = 0;
  bool dense = false;
};
Extent extent_of(const ConstTensorView& view) {
  if (!view || view.geometry.num_elements() == 0) return {};
  std::int64_t low = 0, high = 1;
  for (int axis = 0; axis < view.geometry.num_axes; ++axis) {
    const std::int64_t reach = (view.extent(axis) - 1) * view.stride(axis);
    (reach < 0 ? low : high) += reach;
  }
  const auto element = static_cast<std::int64_t>(size_bytes(view.dtype));
  return {reinterpret_cast<std::uintptr_t>(view.data) + static_cast<std::uintptr_t>(low * element),
          static_cast<std::size_t>((high - low) * element), high - low == view.geometry.num_elements()};
}

}  // namespace

void require_distinct(const char* who, std::initializer_list<NamedView> inputs, std::initializer_list<NamedView> outputs) {
  const auto clash = [&](const NamedView& output, const NamedView& other) {
    const Extent a = extent_of(output.view), b = extent_of(other.view);
    if (a.num_bytes == 0 || b.num_bytes == 0) return;
    const bool meet = a.first < b.first + b.num_bytes && b.first < a.first + a.num_bytes;
    if (a.first == b.first || (meet && a.dense && b.dense))
      throw Error(ErrorKind::argument, fmt::format("{}: {} and {} share memory; outputs need their own", who, output.name, other.name));
  };
  for (const NamedView* output = outputs.begin(); output != outputs.end(); ++output) {
    for (int axis = 0; output->view && output->view.geometry.num_elements() != 0 && axis < output->view.geometry.num_axes; ++axis)
      if (output->view.extent(axis) > 1 && output->view.stride(axis) == 0)
        throw Error(ErrorKind::argument,
                    fmt::format("{}: {} has stride 0 along axis {}; an output needs memory for every element", who, output->name, axis));
    for (const NamedView& input : inputs) clash(*output, input);
    for (const NamedView* other = outputs.begin(); other != output; ++other) clash(*output, *other);
  }
}

namespace {

Geometry rearrange(const Geometry& from, std::initializer_list<int> axes) {
  Geometry to;
  if (from.num_axes == 0) return to;  // left out
  for (const int axis : axes) {
    to.shape[to.num_axes] = axis < 0 ? 1 : from.shape[axis];
    to.strides[to.num_axes++] = axis < 0 ? 1 : from.strides[axis];
  }
  return to;
}

Geometry join(const char* who, const char* name, const Geometry& from) {
  if (from.num_axes < 2) return from;  // left out
  const int last = from.num_axes - 1;
  if (from.num_elements() != 0 && (from.strides[last] != 1 || from.strides[last - 1] != from.shape[last]))
    throw Error(ErrorKind::argument, fmt::format("{}: the last two axes of {} are strided, want them contiguous", who, name));
  Geometry to = from;
  to.num_axes = last;
  to.shape[last - 1] = from.shape[last - 1] * from.shape[last];
  to.strides[last - 1] = 1;
  return to;
}

}  // namespace

TensorView rearranged(const TensorView& view, std::initializer_list<int> axes) {
  return {view.data, view.dtype, rearrange(view.geometry, axes)};
}
ConstTensorView rearranged(const ConstTensorView& view, std::initializer_list<int> axes) {
  return {view.data, view.dtype, rearrange(view.geometry, axes)};
}
TensorView joined(const char* who, const char* name, const TensorView& view) {
  return {view.data, view.dtype, join(who, name, view.geometry)};
}
ConstTensorView joined(const char* who, const char* name, const ConstTensorView& view) {
  return {view.data, view.dtype, join(who, name, view.geometry)};
}

void run_on(Communicator& comm, const Bindings& memory, const std::string& identity, const AttendKernel& attend,
            std::vector<TraceEvent>* trace) {
  memory.require_complete();
  const RunOptions options{
      .timeout = comm.timeout(), .num_threads = comm.num_threads(), .attend = attend, .trace = trace, .description = identity};
  if (Executor* const executor = comm.transport().executor())
    executor->run(memory.schedule(), memory, options);
  else
    run_host(memory.schedule(), memory, comm.transport(), options);
}

SEQCCL_END
