// call.hpp - one call of a movement primitive: checks the rows of the caller's tensors, binds them to a plan in order, runs it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>

#include <initializer_list>
#include <string>

#include "operation.hpp"

SEQCCL_BEGIN

/// @throws Error(argument) if elements of the last axis do not lie side by side
inline void require_last_axis(const char* who, const std::string& name, const ConstTensorView& view) {
  const int last = view.geometry.num_axes - 1;
  if (view && view.geometry.num_elements() != 0 && view.extent(last) > 1 && view.stride(last) != 1)
    throw Error(ErrorKind::argument, fmt::format("{}: {} has stride {} along its last axis, want 1", who, name, view.stride(last)));
}

/// As require, and the last axis must be contiguous.
inline void require_contiguous_rows(const char* who, const char* name, const ConstTensorView& view, DType dtype,
                                    std::initializer_list<std::int64_t> shape) {
  require(who, name, view, dtype, shape);
  require_last_axis(who, name, view);
}

/// Binds the caller's tensors to the slots that are not scratch, in the order in which they were recorded.
class OrderedCall {
 public:
  OrderedCall(Communicator& comm, const Schedule& schedule) : comm_(comm), memory_(schedule, comm.arena(schedule.workspace_bytes)) {}

  template <class View>
  void bind(const View& view) {
    const auto& slots = memory_.schedule().slots;
    while (slots[next_].kind == SlotKind::scratch) ++next_;
    if (view) memory_.bind(next_, view);  // what is absent holds nothing: require has seen to it
    ++next_;
  }
  /// `identity`: what peers compare on a mismatch.
  void run(const std::string& identity) { run_on(comm_, memory_, identity, {}, nullptr); }
  /// With the plan's name before the spec's text as identity.
  void run_as(const std::string& description) { run(memory_.schedule().name + "\n" + description); }

 private:
  Communicator& comm_;
  Bindings memory_;
  SlotIndex next_ = 0;
};

SEQCCL_END
