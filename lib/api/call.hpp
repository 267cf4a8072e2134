// call.hpp - one call of a movement primitive: checks the rows of the caller's tensors, binds them to a plan in order, runs it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>

#include <initializer_list>
#include <string>

#include "operation.hpp"

SEQCCL_BEGIN

/// As require, and the last axis must be contiguous.
inline void require_contiguous_rows(const char* who, const char* name, const ConstTensorView& view, DType dtype,
                                    std::initializer_list<std::int64_t> shape) {
  require(who, name, view, dtype, shape);
  const int last = view.geometry.num_axes - 1;
  if (view && view.geometry.num_elements() != 0 && view.extent(last) > 1 && view.stride(last) != 1)
    throw Error(ErrorKind::argument, fmt::format("{}: {} has stride {} along its last axis, want 1", who, name, view.stride(last)));
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

 private:
  Communicator& comm_;
  Bindings memory_;
  SlotIndex next_ = 0;
};

SEQCCL_END
