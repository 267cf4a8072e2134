// op_runner.hpp - one op on bound memory: blocks become views, and a kernel is called; the same for every device.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <span>
#include <utility>

#include "seqccl/execute.hpp"

SEQCCL_BEGIN

/// Calls the function of `Kernels` that an op stands for, with views of its blocks.
template <class Kernels>
struct OpRunner {
  const Kernels& kernels;
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

  // A constant decay (1, 1, H, 1), or a bonus (1, 1, H, Dk), as (B, T, H, 1 or Dk), with the B and T of `tokens`.
  TensorView spread(const char* what, const Block& block, const Block& tokens) const {
    TensorView result = view(block);
    if (!result.data) return {};
    const TensorView like = view(tokens);
    const Slot& slot = memory.schedule().slots[block.slot];
    if (slot.batch == 1 && slot.tokens == 1)
      result.geometry.strides[0] = result.geometry.strides[1] = 0;  // one per head, so to the kernels
    for (const int axis : {0, 1}) {
      if (result.extent(axis) == like.extent(axis)) continue;
      if (result.extent(axis) != 1) {
        throw Error(ErrorKind::internal, fmt::format("{}: {} is {}, want the batch and tokens of {}", memory.schedule().name, what,
                                                     to_string(result.geometry), to_string(like.geometry)));
      }
      result.geometry.shape[axis] = like.extent(axis);
      result.geometry.strides[axis] = 0;
    }
    return result;
  }
  TensorView decay(const Block& block, const Block& tokens) const { return spread("log_decay", block, tokens); }
  TensorView bonus(const Block& block, const Block& tokens) const { return spread("bonus", block, tokens); }

  // --- Softmax attention. ---------------------------------------------------------------------------------------------
  void operator()(const Attend& op) const {
    const AttendArguments arguments{
        view(op.q), view(op.k), view(op.v), view(op.sinks), view(op.out), view(op.lse), memory.schedule().slices_of(op.slices),
        op.heads,   op.scale,   op.softcap, op.fresh,       num_threads};
    if (attend)
      attend.run(arguments);
    else
      kernels.attend(arguments);
  }
  void operator()(const Merge& op) const { kernels.merge(view(op.part_out), view(op.part_lse), view(op.out), view(op.lse), num_threads); }
  void operator()(const RowDot& op) const { kernels.row_dot(view(op.dout), view(op.out), view(op.delta), num_threads); }
  void operator()(const AttendBackward& op) const {
    kernels.attend_backward({view(op.q), view(op.k), view(op.v), view(op.dout), view(op.lse), view(op.delta), view(op.dq), view(op.dk),
                             view(op.dv), memory.schedule().slices_of(op.slices), op.heads, op.scale, op.softcap, op.fresh_dq, op.fresh_dkv,
                             num_threads});
  }
  void operator()(const SinkGradient& op) const { kernels.sink_gradient(view(op.sinks), view(op.lse), view(op.delta), view(op.dsinks)); }

  // --- Movement. ------------------------------------------------------------------------------------------------------
  void operator()(const Copy& op) const { kernels.copy(view(op.from), view(op.to), num_threads); }
  void operator()(const Add& op) const { kernels.add(view(op.from), view(op.to), num_threads); }
  void operator()(const Zero& op) const { kernels.zero(view(op.to), num_threads); }

  // --- Linear attention. ----------------------------------------------------------------------------------------------
  void operator()(const LinearSummary& op) const {
    const std::int64_t dk = dim(op.k);
    kernels.linear_summary({.k = view(op.k),
                            .v = view(op.v),
                            .log_decay = decay(op.log_decay, op.k),
                            .state = state(op.state, dk, dim(op.v)),
                            .log_sum = log_sum(op.log_sum),
                            .num_threads = num_threads,
                            .beta = view(op.beta),
                            .transition = state(op.transition, dk, dk)});
  }
  void operator()(const StateStep& op) const {
    // The op does not know Dk, and needs it only to line up a transition or a vector decay: otherwise any split of Dk Dv does.
    std::int64_t dk = op.log_sum.present() ? dim(op.log_sum) : 1;
    if (op.transition.present()) dk = std::llround(std::sqrt(static_cast<double>(dim(op.transition))));
    const std::int64_t dv = dim(op.state) / std::max<std::int64_t>(dk, 1);
    const TensorView into = state(op.state, dk, dv);
    TensorView decays = log_sum(op.log_sum);
    if (decays.data && decays.extent(0) == 1) {  // a constant decay is the same for the whole batch
      decays.geometry.shape[0] = into.extent(0);
      decays.geometry.strides[0] = 0;
    }
    kernels.state_step({.log_sum = decays,
                        .update = state(op.update, dk, dv),
                        .state = into,
                        .repeat = static_cast<float>(op.repeat),
                        .num_threads = num_threads,
                        .transition = state(op.transition, dk, dk)});
  }
  void operator()(const TakeColumns& op) const {
    kernels.take_columns(state(op.state, op.key_dim, dim(op.state) / op.key_dim),
                         state(op.columns, op.key_dim, dim(op.columns) / op.key_dim), op.first, num_threads);
  }
  void operator()(const PutColumns& op) const {
    kernels.put_columns(state(op.columns, op.key_dim, dim(op.columns) / op.key_dim),
                        state(op.state, op.key_dim, dim(op.state) / op.key_dim), op.first, num_threads);
  }
  void operator()(const LinearLocal& op) const {
    kernels.linear_local({.q = view(op.q),
                          .k = view(op.k),
                          .v = view(op.v),
                          .log_decay = decay(op.log_decay, op.k),
                          .out = view(op.out),
                          .scale = op.scale,
                          .num_threads = num_threads,
                          .beta = view(op.beta),
                          .bonus = bonus(op.bonus, op.k),
                          .state = state(op.state, dim(op.k), dim(op.v))});
  }
  void operator()(const LinearEnter& op) const {
    const std::int64_t dk = dim(op.q), dv = dim(op.out);
    kernels.linear_enter({.q = view(op.q),
                          .log_decay = decay(op.log_decay, op.q),
                          .state = op.transposed ? state(op.state, dv, dk) : state(op.state, dk, dv),
                          .out = view(op.out),
                          .scale = op.scale,
                          .num_threads = num_threads,
                          .before = op.before,
                          .transposed = op.transposed});
  }
  void operator()(const LinearSummaryBackward& op) const {
    const std::int64_t dk = dim(op.q);
    kernels.linear_summary_backward({.q = view(op.q),
                                     .dout = view(op.dout),
                                     .log_decay = decay(op.log_decay, op.q),
                                     .dstate = state(op.dstate, dk, dim(op.dout)),
                                     .log_sum = log_sum(op.log_sum),
                                     .scale = op.scale,
                                     .num_threads = num_threads,
                                     .before = op.before,
                                     .k = view(op.k),
                                     .beta = view(op.beta),
                                     .transition = state(op.transition, dk, dk)});
  }
  void operator()(const LinearBackward& op) const {
    const std::int64_t dk = dim(op.k), dv = dim(op.v);
    kernels.linear_backward({.q = view(op.q),
                             .k = view(op.k),
                             .v = view(op.v),
                             .log_decay = decay(op.log_decay, op.k),
                             .dout = view(op.dout),
                             .state = state(op.state, dk, dv),
                             .dleaving = state(op.dleaving, dk, dv),
                             .dq = view(op.dq),
                             .dk = view(op.dk),
                             .dv = view(op.dv),
                             .dlog_decay = view(op.dlog_decay),
                             .scale = op.scale,
                             .add_constant = op.add_constant,
                             .num_threads = num_threads,
                             .beta = view(op.beta),
                             .bonus = bonus(op.bonus, op.k),
                             .dbeta = view(op.dbeta),
                             .dbonus = view(op.dbonus)});
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

SEQCCL_END
