// plan.hpp - what a plan needs on a device beside its tensors: tables of its attend ops, events, room for the largest op.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "../op_runner.hpp"
#include "device.hpp"
#include "lanes.hpp"
#include "seqccl/cuda_kernels.hpp"

SEQCCL_BEGIN
namespace cuda {

/// An op's share: an attend plan or none, and where its slices lie on the device.
struct DeviceOp {
  AttendPlan attend;
  AttendBackwardPlan attend_backward;
  std::byte* slices = nullptr;
};

/// Made by the first run of a plan.
class DevicePlan {
 public:
  /// Waits for the device. `op_workspace_bytes`: what a linear op may have at most, if it can do with that. `own_attend`: attend steps
  /// are the caller's.
  DevicePlan(const Schedule& schedule, const Bindings& memory, std::size_t op_workspace_bytes, bool own_attend);

  /// Is it that of this plan, and not of one that lay at the same address?
  [[nodiscard]] bool is_of(const Schedule& schedule) const noexcept;
  [[nodiscard]] const DeviceOp& op(std::uint32_t index) const noexcept { return ops_[index]; }
  [[nodiscard]] const LaneEvents& lanes() const noexcept { return lanes_; }
  [[nodiscard]] std::size_t workspace_bytes() const noexcept { return workspace_bytes_; }

 private:
  std::uint64_t fingerprint_;
  std::size_t num_steps_;
  const BandSlice* host_slices_;
  LaneEvents lanes_;
  std::vector<DeviceOp> ops_;
  MemoryHandle slices_;
  std::size_t workspace_bytes_ = 0;
};

/// The CUDA kernels as an op calls them.
struct CudaKernels {
  const DeviceOp& op;
  DeviceMemory workspace;
  Stream stream;

  void attend(const AttendArguments& a) const { cuda::attend(a, op.attend, op.slices, workspace.data, stream); }
  void attend_backward(const AttendBackwardArguments& a) const { cuda::attend_backward(a, op.attend_backward, op.slices, stream); }
  void merge(ConstTensorView part_out, ConstTensorView part_lse, TensorView out, TensorView lse, ThreadBudget) const {
    cuda::merge(part_out, part_lse, out, lse, stream);
  }
  void row_dot(ConstTensorView dout, ConstTensorView out, TensorView delta, ThreadBudget) const { cuda::row_dot(dout, out, delta, stream); }
  void sink_gradient(ConstTensorView sinks, ConstTensorView lse, ConstTensorView delta, TensorView dsinks) const {
    cuda::sink_gradient(sinks, lse, delta, dsinks, stream);
  }
  void copy(ConstTensorView from, TensorView to, ThreadBudget) const { cuda::copy(from, to, stream); }
  void add(ConstTensorView from, TensorView to, ThreadBudget) const { cuda::add(from, to, stream); }
  void zero(TensorView to, ThreadBudget) const { cuda::zero(to, stream); }
  void linear_summary(const LinearSummaryArguments& a) const { cuda::linear_summary(a, workspace, stream); }
  void state_step(const StateStepArguments& a) const { cuda::state_step(a, stream); }
  void linear_local(const LinearLocalArguments& a) const { cuda::linear_local(a, workspace, stream); }
  void linear_enter(const LinearEnterArguments& a) const { cuda::linear_enter(a, workspace, stream); }
  void linear_summary_backward(const LinearSummaryBackwardArguments& a) const { cuda::linear_summary_backward(a, workspace, stream); }
  void linear_backward(const LinearBackwardArguments& a) const { cuda::linear_backward(a, workspace, stream); }
  void take_columns(ConstTensorView state, TensorView columns, std::int64_t first, ThreadBudget) const {
    cuda::take_columns(state, columns, first, stream);
  }
  void put_columns(ConstTensorView columns, TensorView state, std::int64_t first, ThreadBudget) const {
    cuda::put_columns(columns, state, first, stream);
  }
};

}  // namespace cuda
SEQCCL_END
