// call.hpp - one call of a movement primitive: checks the rows of the caller's tensors, binds them to a plan in order, runs it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>

#include <initializer_list>
#include <optional>
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
  [[nodiscard]] const Schedule& schedule() const noexcept { return memory_.schedule(); }
  /// `identity`: what peers compare on a mismatch.
  void run(const std::string& identity) { run_on(comm_, memory_, identity, {}, nullptr); }

 private:
  Communicator& comm_;
  Bindings memory_;
  SlotIndex next_ = 0;
};

/// A call of one plan from one tensor to another that is kept bound: who comes again with the same two pays for neither checks nor
/// binding, which cost more than a small message does.
class KeptCall {
 public:
  /// Runs the last call again if it had these tensors; false if not.
  [[nodiscard]] bool repeat(Communicator& comm, PlannedPass& pass, const ConstTensorView& from, const TensorView& to) {
    if (!call_ || !(from == from_) || !(to == ConstTensorView(to_)) || is_receivable(comm, bound_to_) != receivable_) return false;
    if (comm.arena(call_->schedule().workspace_bytes) != arena_) return false;
    call_->run(pass.kept_identity());
    return true;
  }
  /// Binds what has been checked and runs it. `bound_from`, `bound_to`: the same tensors in the axes of the plan; `bind_to(call)` binds
  /// the latter.
  template <class Spec, class BindTo>
  void run(Communicator& comm, PlannedPass& pass, const Spec& spec, const ConstTensorView& from, const TensorView& to,
           const ConstTensorView& bound_from, const TensorView& bound_to, BindTo&& bind_to) {
    call_.reset();  // a call that fails is not kept
    receivable_ = is_receivable(comm, bound_to);
    const Schedule& plan = plan_for(comm, pass, bound_from, bound_to);
    arena_ = comm.arena(plan.workspace_bytes);
    OrderedCall call(comm, plan);
    call.bind(bound_from);
    bind_to(call);
    call.run(pass.identity(plan, spec));
    from_ = from;
    to_ = to;
    bound_to_ = bound_to;
    call_.emplace(std::move(call));
  }

 private:
  std::optional<OrderedCall> call_;
  ConstTensorView from_;
  TensorView to_, bound_to_;
  bool receivable_ = false;
  std::byte* arena_ = nullptr;
};

SEQCCL_END
