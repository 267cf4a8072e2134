// execute.hpp - runs a schedule: on real lanes of this rank, or all ranks at once in adversarial order.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "seqccl/kernels.hpp"
#include "seqccl/schedule.hpp"
#include "seqccl/transport.hpp"

SEQCCL_BEGIN

/// Memory for the slots of a schedule: base address and element strides along B, T, H, D.
struct SlotBinding {
  std::byte* base = nullptr;
  std::array<std::int64_t, 4> strides{};
};
class Bindings {
 public:
  /// Binds scratch to `arena` (at least schedule.workspace_bytes) and leaves the caller's tensors unbound.
  Bindings(const Schedule& schedule, std::byte* arena);

  /// Binds the slot that holds `tensor`; `view` has the slot's extents, in the slot's axis order (B, T, H, D).
  /// Does nothing if the schedule has no such slot. @throws Error(argument) naming the tensor if extents or dtype differ,
  /// or the last axis is not contiguous
  void bind(Tensor tensor, const TensorView& view);
  void bind(Tensor tensor, const ConstTensorView& view);
  /// Binds one slot, where several hold the same kind of tensor (Tensor::user).
  void bind(SlotIndex slot, const TensorView& view);
  void bind(SlotIndex slot, const ConstTensorView& view);
  /// @throws Error(argument) naming a tensor of the schedule that is not bound
  void require_complete() const;

  [[nodiscard]] const Schedule& schedule() const noexcept { return *schedule_; }
  /// A view (B, tokens, heads, D) of a block.
  [[nodiscard]] TensorView view(const Block& block) const;
  /// Where a block begins.
  [[nodiscard]] std::byte* data(const Block& block) const noexcept {
    const SlotBinding& binding = slots()[block.slot];
    if (block.empty()) return binding.base;
    const std::int64_t first = block.token_first * binding.strides[1] + block.head_first * binding.strides[2];
    return binding.base + first * static_cast<std::int64_t>(size_bytes(schedule_->slots[block.slot].dtype));
  }

 private:
  [[nodiscard]] SlotBinding* slots() noexcept { return many_.empty() ? few_.data() : many_.data(); }
  [[nodiscard]] const SlotBinding* slots() const noexcept { return many_.empty() ? few_.data() : many_.data(); }

  const Schedule* schedule_;
  std::array<SlotBinding, 8> few_{};  // a small plan allocates nothing
  std::vector<SlotBinding> many_;
};

/// Runs one op on bound memory with the library's kernels (or `attend`, if given).
void run_op(const Op& op, const Bindings& memory, const AttendKernel& attend, ThreadBudget num_threads);

/// One executed step, in seconds since the run began.
struct TraceEvent {
  std::uint32_t step = 0;
  double begin_s = 0, end_s = 0;
};

/// Text that lives elsewhere, at least for the call: a literal, a std::string that has a name, or what views one. A temporary std::string
/// would be gone before it is read, and the compiler refuses it.
class DescriptionView {
 public:
  constexpr DescriptionView() = default;
  constexpr DescriptionView(const char* text) : text_(text) {}
  constexpr DescriptionView(std::string_view text) : text_(text) {}
  DescriptionView(const std::string& text) : text_(text) {}
  DescriptionView(const std::string&&) = delete;
  DescriptionView(std::nullptr_t) = delete;
  [[nodiscard]] constexpr std::string_view text() const noexcept { return text_; }

 private:
  std::string_view text_{};
};

struct RunOptions {
  std::chrono::nanoseconds timeout = std::chrono::minutes(10);
  int num_threads = 1;    // for the kernels
  AttendKernel attend{};  // the user's own, if any
  std::vector<TraceEvent>* trace = nullptr;
  DescriptionView description{};  // lines about the operation, compared between ranks on a mismatch; empty: the schedule's name
};

/// Runs this rank's schedule: the caller computes, one progress thread drives all communication lanes; a sequential
/// schedule runs on the caller's thread alone. Returns when every step is done. Allocates nothing in the steady state but the thread.
/// @throws Error: of a kernel (local), of a peer (dead, stalled, mismatched); the group is failed for all ranks then
void run_host(const Schedule& schedule, const Bindings& memory, Transport& transport, const RunOptions& options);

/// Who runs the plans of a communicator in run_host's place: Transport::executor.
class Executor {
 public:
  virtual ~Executor() = default;
  virtual void run(const Schedule& schedule, const Bindings& memory, const RunOptions& options) = 0;
};

/// Runs all ranks' schedules on one thread, interleaving lanes at random: a step starts when its clock allows and its lane
/// is free, a put lands at any moment between credit and arrival. For debugging and tests.
/// `num_runs` > 1 repeats the operation with ranks up to one run apart; between runs `between(rank, run)` is called.
/// Returns false if it deadlocks (nothing can move), with the ranks and steps that wait in `why`.
struct InOrderOptions {
  std::uint64_t seed = 1;
  int num_runs = 1;
  AttendKernel attend{};
  bool ignore_comm_clocks = false;  // a mutant: shows that the clocks matter
  std::function<void(Rank, int)> between{};
};
bool run_in_order(std::span<const Schedule> schedules, std::span<const Bindings> memory, const InOrderOptions& options, std::string& why);

SEQCCL_END
