// operation.cpp - shape checks, views of the caller's tensors as slots, and the run.
// SPDX-License-Identifier: Apache-2.0
#include "operation.hpp"

#include <fmt/format.h>

SEQCCL_BEGIN

bool tokens_are_contiguous(const ConstTensorView& view) {
  const auto& [num_axes, shape, strides] = view.geometry;
  if (view.geometry.num_elements() == 0) return true;
  return strides[3] == 1 && (shape[2] == 1 || strides[2] == shape[3]) && (shape[1] == 1 || strides[1] == shape[2] * shape[3]);
}

void require(const char* who, const char* name, const ConstTensorView& view, DType dtype, std::initializer_list<std::int64_t> shape) {
  const Geometry wanted = contiguous(shape);
  bool same = view.geometry.num_axes == wanted.num_axes;
  for (int axis = 0; same && axis < wanted.num_axes; ++axis) same = view.geometry.shape[axis] == wanted.shape[axis];
  const auto refuse = [&](const std::string& what) { return Error(ErrorKind::argument, fmt::format("{}: {} {}", who, name, what)); };
  if (!view && wanted.num_elements() != 0) throw refuse(fmt::format("is missing, want {} {}", seqccl::name(dtype), to_string(wanted)));
  if (!view) return;
  if (!same) throw refuse(fmt::format("has shape {}, want {}", to_string(view.geometry), to_string(wanted)));
  if (view.dtype != dtype) throw refuse(fmt::format("is {}, want {}", seqccl::name(view.dtype), seqccl::name(dtype)));
}

void require_distinct(const char* who, std::initializer_list<NamedView> inputs, std::initializer_list<NamedView> outputs) {
  const auto clash = [&](const NamedView& output, const NamedView& other) {
    if (output.view && other.view.data == output.view.data && output.view.geometry.num_elements() != 0)
      throw Error(ErrorKind::argument, fmt::format("{}: {} and {} are the same memory; outputs need their own", who, output.name, other.name));
  };
  for (const NamedView* output = outputs.begin(); output != outputs.end(); ++output) {
    for (const NamedView& input : inputs) clash(*output, input);
    for (const NamedView* other = outputs.begin(); other != output; ++other) clash(*output, *other);
  }
}

namespace {

Geometry rearrange(const Geometry& from, std::initializer_list<int> axes) {
  Geometry to;
  for (const int axis : axes) {
    to.shape[to.num_axes] = axis < 0 ? 1 : from.shape[axis];
    to.strides[to.num_axes++] = axis < 0 ? 1 : from.strides[axis];
  }
  return to;
}

Geometry join(const char* who, const char* name, const Geometry& from) {
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
  run_host(memory.schedule(), memory, comm.transport(),
           {.timeout = comm.timeout(), .num_threads = comm.num_threads(), .attend = attend, .trace = trace, .description = identity});
}

SEQCCL_END
