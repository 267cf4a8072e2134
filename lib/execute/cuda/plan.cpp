// plan.cpp - makes a plan ready for a device.
// SPDX-License-Identifier: Apache-2.0
#include "plan.hpp"

#include <cstring>
#include <variant>

SEQCCL_BEGIN
namespace cuda {
namespace {

/// Asks each op what it needs, and runs none.
struct Needs {
  DeviceOp& op;
  std::size_t limit;
  std::size_t& workspace_bytes;

  void need(std::size_t num_bytes) const { workspace_bytes = std::max(workspace_bytes, num_bytes); }
  template <class Arguments>
  void linear(const Arguments& a) const {
    const WorkspaceNeed bytes = workspace_need(a);
    need(std::min(bytes.most_bytes, std::max(bytes.least_bytes, limit)));
  }

  void attend(const AttendArguments& a) const {
    op.attend = plan_attend(a);
    need(op.attend.workspace_bytes);
  }
  void attend_backward(const AttendBackwardArguments& a) const { op.attend_backward = plan_attend_backward(a); }
  void linear_summary(const LinearSummaryArguments& a) const { linear(a); }
  void linear_local(const LinearLocalArguments& a) const { linear(a); }
  void linear_enter(const LinearEnterArguments& a) const { linear(a); }
  void linear_summary_backward(const LinearSummaryBackwardArguments& a) const { linear(a); }
  void linear_backward(const LinearBackwardArguments& a) const { linear(a); }
  void merge(ConstTensorView, ConstTensorView, TensorView, TensorView, ThreadBudget) const {}
  void row_dot(ConstTensorView, ConstTensorView, TensorView, ThreadBudget) const {}
  void sink_gradient(ConstTensorView, ConstTensorView, ConstTensorView, TensorView) const {}
  void copy(ConstTensorView, TensorView, ThreadBudget) const {}
  void add(ConstTensorView, TensorView, ThreadBudget) const {}
  void zero(TensorView, ThreadBudget) const {}
  void state_step(const StateStepArguments&) const {}
  void take_columns(ConstTensorView, TensorView, std::int64_t, ThreadBudget) const {}
  void put_columns(ConstTensorView, TensorView, std::int64_t, ThreadBudget) const {}
};

const std::vector<std::byte>& slices_of(const DeviceOp& op) {
  return op.attend.num_slices > 0 ? op.attend.slices : op.attend_backward.slices;
}
constexpr std::size_t aligned(std::size_t num_bytes) { return (num_bytes + 15) / 16 * 16; }

}  // namespace

DevicePlan::DevicePlan(const Schedule& schedule, const Bindings& memory, std::size_t op_workspace_bytes, bool own_attend)
    : fingerprint_(schedule.fingerprint),
      num_steps_(schedule.steps.size()),
      host_slices_(schedule.slices.data()),
      lanes_(schedule),
      ops_(schedule.ops.size()) {
  const AttendKernel none;
  std::size_t num_bytes = 0;
  for (std::size_t index = 0; index < ops_.size(); ++index) {
    const Op& op = schedule.ops[index];
    if (std::holds_alternative<Custom>(op) || (own_attend && std::holds_alternative<Attend>(op))) continue;
    std::visit(OpRunner<Needs>{Needs{ops_[index], op_workspace_bytes, workspace_bytes_}, memory, none, 1}, op);
    num_bytes += aligned(slices_of(ops_[index]).size());
  }
  if (num_bytes == 0) return;
  slices_ = allocate_on_device(num_bytes);
  std::vector<std::byte> all(num_bytes);
  std::size_t first = 0;
  for (DeviceOp& op : ops_) {
    const std::vector<std::byte>& slices = slices_of(op);
    if (slices.empty()) continue;
    std::memcpy(all.data() + first, slices.data(), slices.size());
    op.slices = slices_.get() + first;
    first += aligned(slices.size());
    op.attend.slices = {}, op.attend_backward.slices = {};
  }
  require_cuda(cudaMemcpy(slices_.get(), all.data(), num_bytes, cudaMemcpyHostToDevice), "cudaMemcpy");
}

bool DevicePlan::is_of(const Schedule& schedule) const noexcept {
  return fingerprint_ == schedule.fingerprint && num_steps_ == schedule.steps.size() && ops_.size() == schedule.ops.size() &&
         host_slices_ == schedule.slices.data();
}

}  // namespace cuda
SEQCCL_END
