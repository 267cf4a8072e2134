// run_op.cpp - one op on bound memory: blocks become views, and a kernel is called.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "seqccl/execute.hpp"

SEQCCL_BEGIN
namespace {

struct OpRunner {
  const Bindings& memory;
  const AttendKernel& attend;
  ThreadBudget num_threads;

  TensorView view(const Block& block) const { return memory.view(block); }
  std::int64_t dim(const Block& block) const { return memory.schedule().slots[block.slot].dim; }

  // A block of states (B, 1, H, Dk Dv) as (B, H, Dk, Dv).
  TensorView state(const Block& block, std::int64_t dk, std::int64_t dv) const {
    TensorView result = view(block);
    if (!result.data) return {};
    if (result.extent(1) != 1 || result.extent(3) != dk * dv) {
      throw Error(ErrorKind::internal, fmt::format("{}: a state block is {}, want (B, 1, H, {} * {})", memory.schedule().name,
                                                   to_string(result.geometry), dk, dv));
    }
    const auto [batch, heads] = std::pair(result.extent(0), result.extent(2));
    const auto [batch_stride, head_stride] = std::pair(result.stride(0), result.stride(2));
    result.geometry.shape = {batch, heads, dk, dv};
    result.geometry.strides = {batch_stride, head_stride, dv, 1};
    return result;
  }
  // A block of log sums (B, 1, H, 1 or Dk) as (B, H, 1 or Dk, 1).
  TensorView log_sum(const Block& block) const { return block.present() ? state(block, dim(block), 1) : TensorView{}; }

  // A constant decay (1, 1, H, 1) as (B, T, H, 1), with the B and T of `tokens`.
  TensorView decay(const Block& block, const Block& tokens) const {
    TensorView result = view(block);
    if (!result.data) return {};
    const TensorView like = view(tokens);
    for (const int axis : {0, 1}) {
      if (result.extent(axis) == like.extent(axis)) continue;
      if (result.extent(axis) != 1) {
        throw Error(ErrorKind::internal, fmt::format("{}: log_decay is {}, want the batch and tokens of {}", memory.schedule().name,
                                                     to_string(result.geometry), to_string(like.geometry)));
      }
      result.geometry.shape[axis] = like.extent(axis);
      result.geometry.strides[axis] = 0;
    }
    return result;
  }

  // --- Softmax attention. ---------------------------------------------------------------------------------------------
  void operator()(const Attend& op) const {
    const AttendArguments arguments{
        view(op.q), view(op.k), view(op.v), view(op.sinks), view(op.out), view(op.lse), memory.schedule().slices_of(op.slices),
        op.heads,   op.scale,   op.softcap, op.fresh,       num_threads};
    if (attend)
      attend.run(arguments);
    else
      cpu::attend(arguments);
  }
  void operator()(const Merge& op) const { cpu::merge(view(op.part_out), view(op.part_lse), view(op.out), view(op.lse), num_threads); }
  void operator()(const RowDot& op) const { cpu::row_dot(view(op.dout), view(op.out), view(op.delta), num_threads); }
  void operator()(const AttendBackward& op) const {
    cpu::attend_backward({view(op.q), view(op.k), view(op.v), view(op.dout), view(op.lse), view(op.delta), view(op.dq), view(op.dk),
                          view(op.dv), memory.schedule().slices_of(op.slices), op.heads, op.scale, op.softcap, op.fresh_dq, op.fresh_dkv,
                          num_threads});
  }
  void operator()(const SinkGradient& op) const { cpu::sink_gradient(view(op.sinks), view(op.lse), view(op.delta), view(op.dsinks)); }

  // --- Movement. ------------------------------------------------------------------------------------------------------
  void operator()(const Copy& op) const { cpu::copy(view(op.from), view(op.to), num_threads); }
  void operator()(const Add& op) const { cpu::add(view(op.from), view(op.to), num_threads); }
  void operator()(const Zero& op) const { cpu::zero(view(op.to), num_threads); }

  // --- Linear attention. ----------------------------------------------------------------------------------------------
  void operator()(const LinearSummary& op) const {
    cpu::linear_summary(
        {view(op.k), view(op.v), decay(op.log_decay, op.k), state(op.state, dim(op.k), dim(op.v)), log_sum(op.log_sum), num_threads});
  }
  void operator()(const StateStep& op) const {
    // The op does not know Dk, and needs it only to line up a vector decay: otherwise any split of Dk Dv does.
    const std::int64_t dk = op.log_sum.present() ? dim(op.log_sum) : 1;
    const std::int64_t dv = dim(op.state) / std::max<std::int64_t>(dk, 1);
    const TensorView into = state(op.state, dk, dv);
    TensorView decays = log_sum(op.log_sum);
    if (decays.data && decays.extent(0) == 1) {  // a constant decay is the same for the whole batch
      decays.geometry.shape[0] = into.extent(0);
      decays.geometry.strides[0] = 0;
    }
    cpu::state_step({decays, state(op.update, dk, dv), into, static_cast<float>(op.repeat), num_threads});
  }
  void operator()(const LinearLocal& op) const {
    cpu::linear_local({view(op.q), view(op.k), view(op.v), decay(op.log_decay, op.k), view(op.out), op.scale, num_threads});
  }
  void operator()(const LinearEnter& op) const {
    cpu::linear_enter(
        {view(op.q), decay(op.log_decay, op.q), state(op.state, dim(op.q), dim(op.out)), view(op.out), op.scale, num_threads});
  }
  void operator()(const LinearSummaryBackward& op) const {
    cpu::linear_summary_backward({view(op.q), view(op.dout), decay(op.log_decay, op.q), state(op.dstate, dim(op.q), dim(op.dout)),
                                  log_sum(op.log_sum), op.scale, num_threads});
  }
  void operator()(const LinearBackward& op) const {
    const std::int64_t dk = dim(op.k), dv = dim(op.v);
    cpu::linear_backward({view(op.q), view(op.k), view(op.v), decay(op.log_decay, op.k), view(op.dout), state(op.state, dk, dv),
                          state(op.dleaving, dk, dv), view(op.dq), view(op.dk), view(op.dv), view(op.dlog_decay), op.scale, op.add_constant,
                          num_threads});
  }

  // --- The caller's own. ----------------------------------------------------------------------------------------------
  void operator()(const Custom& op) const {
    std::array<TensorView, 2 * Custom::max_operands> views;
    std::size_t count = 0;
    for (const In& block : op.in) {
      if (block.present()) views[count++] = view(block);
    }
    for (const InOut& block : op.inout) {
      if (block.present()) views[count++] = view(block);
    }
    memory.schedule().functions[op.function](std::span(views).first(count));
  }
};

}  // namespace

void run_op(const Op& op, const Bindings& memory, const AttendKernel& attend, ThreadBudget num_threads) {
  std::visit(OpRunner{memory, attend, num_threads}, op);
}

SEQCCL_END
