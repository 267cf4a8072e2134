// kernels.hpp - what a local kernel is given and must do; the table that an executor calls; how to bring your own.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "seqccl/mask.hpp"
#include "seqccl/ops.hpp"
#include "seqccl/tensor.hpp"

SEQCCL_BEGIN

// Letters: B batch, Tq / Tk query / key rows, Hq / Hkv heads, Dk / Dv head sizes. All views have four axes and any strides,
// except that an axis of head size is contiguous. Element types f32, f16, bf16 for q, k, v, dout; everything else f32 unless said.
// Sums are f32. NaN in gives NaN out (a decay of a zero state may be left out).

/// How many threads a kernel may use (1 or more), and where it says that it is alive: a rank that publishes no progress for the
/// communicator's timeout counts as stalled, so a long kernel stores the time after every tile.
struct ThreadBudget {
  int count = 1;
  std::atomic<std::int64_t>* progress_ns = nullptr;  // time since the epoch of std::chrono::steady_clock

  ThreadBudget(int num_threads = 1, std::atomic<std::int64_t>* progress = nullptr) : count(num_threads), progress_ns(progress) {}
  void note_progress() const noexcept {
    if (progress_ns != nullptr) progress_ns->store(std::chrono::steady_clock::now().time_since_epoch().count(), std::memory_order_release);
  }
};

/// See ops.hpp, Attend. Rows i of the slices count from row 0 of q and k as given here.
struct AttendArguments {
  ConstTensorView q, k, v;  // (B, Tq, Hq, Dk) (B, Tk, Hkv, Dk) (B, Tk, Hkv, Dv)
  ConstTensorView sinks;    // (1, 1, Hq, 1) f32, or absent; only with fresh
  TensorView out, lse;      // (B, Tq, Hq, Dv) f32, (B, Tq, Hq, 1) f32
  std::span<const BandSlice> slices;
  HeadMap heads;
  float scale = 1, softcap = 0;
  bool fresh = false;  // overwrite out, lse; else merge into them
  ThreadBudget num_threads = 1;
};

/// See ops.hpp, AttendBackward.
struct AttendBackwardArguments {
  ConstTensorView q, k, v, dout;  // as Attend; dout (B, Tq, Hq, Dv)
  ConstTensorView lse, delta;     // (B, Tq, Hq, 1) f32
  TensorView dq, dk, dv;          // f32
  std::span<const BandSlice> slices;
  HeadMap heads;
  float scale = 1, softcap = 0;
  bool fresh_dq = false, fresh_dkv = false;
  ThreadBudget num_threads = 1;
};

/// Linear ops, see ops.hpp. log_decay: absent, (B, T, H, 1) or (B, T, H, Dk) f32; a constant decay comes as (B, T, H, 1) with strides 0 on
/// B, T. beta (B, T, H, 1), bonus (B, T, H, Dk) f32 with strides 0 on B, T. States (B, H, Dk, Dv) f32, log_sum (B, H, 1 or Dk, 1) f32,
/// transition (B, H, Dk, Dk) f32.
struct LinearSummaryArguments {
  ConstTensorView k, v, log_decay;  // (B, T, H, Dk) (B, T, H, Dv)
  TensorView state, log_sum;
  ThreadBudget num_threads = 1;
  ConstTensorView beta{};   // delta kinds
  TensorView transition{};  // delta kinds, optional
};
struct StateStepArguments {
  ConstTensorView log_sum, update;  // each optional
  TensorView state;
  float repeat = 1;  // factor on log_sum; 0 leaves the state as it is, even where log_sum is -inf
  ThreadBudget num_threads = 1;
  ConstTensorView transition{};  // instead of log_sum
};
struct LinearLocalArguments {
  ConstTensorView q, k, v, log_decay;
  TensorView out;  // (B, T, H, Dv) f32
  float scale = 1;
  ThreadBudget num_threads = 1;
  ConstTensorView beta{}, bonus{}, state{};  // state optional: zero
};
struct LinearEnterArguments {
  ConstTensorView q, log_decay, state;
  TensorView out;  // (B, T, H, Dv) f32, added to
  float scale = 1;
  ThreadBudget num_threads = 1;
  bool before = false, transposed = false;
};
struct LinearSummaryBackwardArguments {
  ConstTensorView q, dout, log_decay;
  TensorView dstate, log_sum;
  float scale = 1;
  ThreadBudget num_threads = 1;
  bool before = false;
  ConstTensorView k{}, beta{};
  TensorView transition{};
};
struct LinearBackwardArguments {
  ConstTensorView q, k, v, log_decay, dout;
  ConstTensorView state, dleaving;  // (B, H, Dk, Dv), optional: zero
  TensorView dq, dk, dv;            // f32, f16 or bf16
  TensorView dlog_decay;            // f32 as log_decay; for a constant decay (1, 1, H, 1); optional
  float scale = 1;
  bool add_constant = false;
  ThreadBudget num_threads = 1;
  ConstTensorView beta{}, bonus{};
  TensorView dbeta{}, dbonus{};  // (B, T, H, 1), (1, 1, H, Dk) f32
};

/// A user's own attend kernel. If `accumulates` is false it is only ever asked for fresh results and the recorder adds a merge.
struct AttendKernel {
  std::string name;  // part of the fingerprint: all ranks must use the same
  bool accumulates = false;
  std::function<void(const AttendArguments&)> run;
  explicit operator bool() const noexcept { return static_cast<bool>(run); }
};

// --- The library's own kernels: blocked, f32 sums, SIMD picked at run time (lib/kernels/cpu). -----------------------------
namespace cpu {
void attend(const AttendArguments& arguments);
void attend_backward(const AttendBackwardArguments& arguments);
/// (out, lse) <- merge((out, lse), (part_out, part_lse)).
void merge(ConstTensorView part_out, ConstTensorView part_lse, TensorView out, TensorView lse, ThreadBudget num_threads);
void row_dot(ConstTensorView dout, ConstTensorView out, TensorView delta, ThreadBudget num_threads);
void sink_gradient(ConstTensorView sinks, ConstTensorView lse, ConstTensorView delta, TensorView dsinks);
/// to = from with conversion between any two of f32, f16, bf16; equal extents, any strides.
void copy(ConstTensorView from, TensorView to, ThreadBudget num_threads);
void add(ConstTensorView from, TensorView to, ThreadBudget num_threads);
void zero(TensorView to, ThreadBudget num_threads);
void linear_summary(const LinearSummaryArguments& arguments);
void state_step(const StateStepArguments& arguments);
void linear_local(const LinearLocalArguments& arguments);
void linear_enter(const LinearEnterArguments& arguments);
void linear_summary_backward(const LinearSummaryBackwardArguments& arguments);
void linear_backward(const LinearBackwardArguments& arguments);
void take_columns(ConstTensorView state, TensorView columns, std::int64_t first,
                  ThreadBudget num_threads);  // (B, H, Dk, Dv) -> (B, H, Dk, w)
void put_columns(ConstTensorView columns, TensorView state, std::int64_t first, ThreadBudget num_threads);
/// "AVX2", "AVX3", "NEON", "SSE4", ...: what the run-time dispatch picked on this machine.
[[nodiscard]] std::string instruction_set();
}  // namespace cpu

// --- The definition of right: obvious loops in double over the whole, unsharded problem (lib/kernels/reference). ------------
namespace reference {

/// All tensors of one softmax attention layer, unsharded; any dtype, read as double. Outputs f64 or any dtype.
struct Attention {
  ConstTensorView q, k, v;            // (B, N, Hq, Dk) (B, N, Hkv, Dk) (B, N, Hkv, Dv)
  ConstTensorView sinks;              // (Hq), optional
  std::span<const BandSlice> slices;  // Mask::bind(N, B)
  double scale = 1, softcap = 0;
};
/// out (B, N, Hq, Dv), lse (B, Hq, N), for the query positions `rows` only (all if empty); other rows are not touched.
void attend(const Attention& problem, TensorView out, TensorView lse, std::span<const std::int64_t> rows = {}, int num_threads = 1);
/// Gradients of sum(dout * out): dq, dk, dv as q, k, v; dsinks (Hq) optional.
void attend_backward(const Attention& problem, ConstTensorView dout, TensorView dq, TensorView dk, TensorView dv, TensorView dsinks = {},
                     int num_threads = 1);

/// One linear attention layer, unsharded. log_decay: absent, (H), (B, N, H) or (B, N, H, Dk).
struct Linear {
  ConstTensorView q, k, v, log_decay;  // (B, N, H, Dk) (B, N, H, Dk) (B, N, H, Dv)
  ConstTensorView state_in;            // (B, H, Dk, Dv), optional
  double scale = 1;
  ConstTensorView beta{}, bonus{};  // (B, N, H): delta kinds; (H, Dk): RWKV6
  std::span<const std::int64_t>
      documents{};     // lengths, summing to N: the state is zero where a document begins (but the first has state_in)
  bool causal = true;  // false: every token reads the state that its document leaves (no decay, no state_in)
};
/// out (B, N, H, Dv), state_out (B, H, Dk, Dv) optional: the token by token recurrence.
void linear(const Linear& problem, TensorView out, TensorView state_out, int num_threads = 1);
struct LinearGradients {
  TensorView dq, dk, dv, dlog_decay, dstate_in;  // dlog_decay as log_decay; it and dstate_in optional
  TensorView dbeta{}, dbonus{};
};
void linear_backward(const Linear& problem, ConstTensorView dout, ConstTensorView dstate_out, const LinearGradients& gradients,
                     int num_threads = 1);

/// The bar for low precision (design rule): the same obvious loops, inputs as given, sums in f32.
void attend_plain(const Attention& problem, TensorView out, TensorView lse, int num_threads = 1);
void attend_backward_plain(const Attention& problem, ConstTensorView dout, TensorView dq, TensorView dk, TensorView dv,
                           int num_threads = 1);
void linear_plain(const Linear& problem, TensorView out, TensorView state_out, int num_threads = 1);
void linear_backward_plain(const Linear& problem, ConstTensorView dout, ConstTensorView dstate_out, const LinearGradients& gradients,
                           int num_threads = 1);
}  // namespace reference

SEQCCL_END
