// run_op.cpp - one op on bound memory with the library's own CPU kernels.
// SPDX-License-Identifier: Apache-2.0
#include <variant>

#include "op_runner.hpp"

SEQCCL_BEGIN
namespace {

struct CpuKernels {
  static void attend(const AttendArguments& a) { cpu::attend(a); }
  static void attend_backward(const AttendBackwardArguments& a) { cpu::attend_backward(a); }
  static void merge(ConstTensorView part_out, ConstTensorView part_lse, TensorView out, TensorView lse, ThreadBudget num_threads) {
    cpu::merge(part_out, part_lse, out, lse, num_threads);
  }
  static void row_dot(ConstTensorView dout, ConstTensorView out, TensorView delta, ThreadBudget num_threads) {
    cpu::row_dot(dout, out, delta, num_threads);
  }
  static void sink_gradient(ConstTensorView sinks, ConstTensorView lse, ConstTensorView delta, TensorView dsinks) {
    cpu::sink_gradient(sinks, lse, delta, dsinks);
  }
  static void copy(ConstTensorView from, TensorView to, ThreadBudget num_threads) { cpu::copy(from, to, num_threads); }
  static void add(ConstTensorView from, TensorView to, ThreadBudget num_threads) { cpu::add(from, to, num_threads); }
  static void zero(TensorView to, ThreadBudget num_threads) { cpu::zero(to, num_threads); }
  static void linear_summary(const LinearSummaryArguments& a) { cpu::linear_summary(a); }
  static void state_step(const StateStepArguments& a) { cpu::state_step(a); }
  static void linear_local(const LinearLocalArguments& a) { cpu::linear_local(a); }
  static void linear_enter(const LinearEnterArguments& a) { cpu::linear_enter(a); }
  static void linear_summary_backward(const LinearSummaryBackwardArguments& a) { cpu::linear_summary_backward(a); }
  static void linear_backward(const LinearBackwardArguments& a) { cpu::linear_backward(a); }
  static void take_columns(ConstTensorView state, TensorView columns, std::int64_t first, ThreadBudget num_threads) {
    cpu::take_columns(state, columns, first, num_threads);
  }
  static void put_columns(ConstTensorView columns, TensorView state, std::int64_t first, ThreadBudget num_threads) {
    cpu::put_columns(columns, state, first, num_threads);
  }
};

}  // namespace

void run_op(const Op& op, const Bindings& memory, const AttendKernel& attend, ThreadBudget num_threads) {
  std::visit(OpRunner<CpuKernels>{CpuKernels{}, memory, attend, num_threads}, op);
}

SEQCCL_END
