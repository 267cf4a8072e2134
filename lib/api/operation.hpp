// operation.hpp - what Attention and LinearAttention share: recorded plans, bound and run on a communicator.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <concepts>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "seqccl/communicator.hpp"
#include "seqccl/execute.hpp"
#include "seqccl/schedule.hpp"

SEQCCL_BEGIN

/// One pass (forward or backward) of a layer: a plan each for inputs that can be sent in place or not, and for outputs that peers may
/// write or not.
class PlannedPass {
 public:
  using Record = std::function<Schedule(bool inputs_sendable, bool outputs_receivable)>;
  explicit PlannedPass(Record record) : record_(std::move(record)) {}
  /// Of a plan that unpacks its outputs in any case.
  template <class Sending>
  requires std::invocable<Sending&, bool>
  explicit PlannedPass(Sending record) : record_([record](bool inputs_sendable, bool) { return record(inputs_sendable); }) {}

  [[nodiscard]] const Schedule& schedule(bool inputs_sendable, bool outputs_receivable = false) {
    std::optional<Schedule>& plan = plans_[(inputs_sendable ? 1 : 0) + (outputs_receivable ? 2 : 0)];
    if (!plan) plan = record_(inputs_sendable, outputs_receivable);
    return *plan;
  }
  /// What peers compare on a mismatch: the plan's name and the spec's lines. Made once: long masks have long texts.
  template <class Spec>
  [[nodiscard]] const std::string& identity(const Schedule& plan, const Spec& spec) {
    if (identity_.empty()) identity_ = plan.name + "\n" + spec.describe();
    return identity_;
  }
  /// The same, made by an earlier call.
  [[nodiscard]] const std::string& kept_identity() const noexcept { return identity_; }

 private:
  Record record_;
  std::array<std::optional<Schedule>, 4> plans_;
  std::string identity_;
};

/// True if the tokens of a (B, T, H, D) view lie one after the other.
[[nodiscard]] bool tokens_are_contiguous(const ConstTensorView& view);

/// True if what arrives for this contiguous (1, T, H, D) view can land in it: memory from Communicator::allocate.
[[nodiscard]] bool is_receivable(Communicator& comm, const ConstTensorView& view);

/// The plan for these two: what arrives lands in `to` if that is receivable, or if all of it is so small that this rank puts it there
/// itself.
[[nodiscard]] const Schedule& plan_for(Communicator& comm, PlannedPass& pass, const ConstTensorView& from, const ConstTensorView& to);

/// Throws Error(argument) unless `view` is there and has these extents and dtype. `who`: "Attention::forward".
void require(const char* who, const char* name, const ConstTensorView& view, DType dtype, std::initializer_list<std::int64_t> shape);

/// Throws Error(argument) if an output shares memory with an input or another output, or with itself (stride 0).
struct NamedView {
  const char* name;
  ConstTensorView view;
};
void require_distinct(const char* who, std::initializer_list<NamedView> inputs, std::initializer_list<NamedView> outputs);

/// A view with other extents of the same memory: `axes` lists for each new axis the old axis, or -1 for a new axis of extent 1.
[[nodiscard]] TensorView rearranged(const TensorView& view, std::initializer_list<int> axes);
[[nodiscard]] ConstTensorView rearranged(const ConstTensorView& view, std::initializer_list<int> axes);

/// Joins the last two axes. @throws Error(argument) if they are not contiguous
[[nodiscard]] TensorView joined(const char* who, const char* name, const TensorView& view);
[[nodiscard]] ConstTensorView joined(const char* who, const char* name, const ConstTensorView& view);

/// Runs a bound schedule on the communicator. `identity` is compared with the peers' on a mismatch.
void run_on(Communicator& comm, const Bindings& memory, const std::string& identity, const AttendKernel& attend,
            std::vector<TraceEvent>* trace);

SEQCCL_END
