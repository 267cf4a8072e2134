// linear_layer.hpp - a whole linear attention layer, forward and backward, in pieces by the CPU kernels.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "linear_problem.hpp"

namespace seqccl::test {

/// A tensor of four axes in memory of its own; `strided` swaps the middle axes, pads the last and starts one element late.
struct Box {
  HostTensor storage;
  Geometry geometry;
  std::int64_t offset = 0;

  Box() = default;
  Box(DType dtype, std::int64_t a, std::int64_t b, std::int64_t c, std::int64_t d, bool strided) : geometry(contiguous({a, b, c, d})) {
    if (strided) {
      geometry.strides = {b * c * (d + 3), d + 3, b * (d + 3), 1};
      offset = 1;
    }
    storage = HostTensor(dtype, {a * b * c * (strided ? d + 3 : d) + offset});
  }
  /// The same numbers as in a dense tensor of four axes.
  Box(const HostTensor& dense, bool strided)
      : Box(dense.dtype, dense.geometry.shape[0], dense.geometry.shape[1], dense.geometry.shape[2], dense.geometry.shape[3], strided) {
    for (std::int64_t i = 0; i < dense.size(); ++i) storage.set(place(i), dense.get(i));
  }
  [[nodiscard]] std::int64_t place(std::int64_t index) const {
    std::int64_t at = offset;
    for (int axis = 3; axis >= 0; --axis) {
      at += index % geometry.shape[axis] * geometry.strides[axis];
      index /= geometry.shape[axis];
    }
    return at;
  }
  [[nodiscard]] HostTensor dense() const {
    HostTensor result(storage.dtype, {geometry.shape[0], geometry.shape[1], geometry.shape[2], geometry.shape[3]});
    for (std::int64_t i = 0; i < result.size(); ++i) result.set(i, storage.get(place(i)));
    return result;
  }
  /// Tokens [first, first + count) of axis 1.
  [[nodiscard]] TensorView tokens(std::int64_t first, std::int64_t count) {
    TensorView part = view();
    part.data = static_cast<std::byte*>(part.data) + first * geometry.strides[1] * static_cast<std::int64_t>(size_bytes(part.dtype));
    part.geometry.shape[1] = count;
    return part;
  }
  [[nodiscard]] TensorView view() {
    return {storage.bytes.data() + offset * static_cast<std::int64_t>(size_bytes(storage.dtype)), storage.dtype, geometry};
  }
};

struct RunOptions {
  std::vector<std::int64_t> cuts;  // the tokens before which a new run starts
  bool strided = false;
  int num_threads = 1;
  bool local_has_state = false;  // linear_local is given the entering state, in place of linear_enter; always so for delta kinds
};

/// Whose kernels a layer is made of.
struct CpuKernels {
  static void linear_summary(const LinearSummaryArguments& a) { cpu::linear_summary(a); }
  static void linear_local(const LinearLocalArguments& a) { cpu::linear_local(a); }
  static void linear_enter(const LinearEnterArguments& a) { cpu::linear_enter(a); }
  static void linear_summary_backward(const LinearSummaryBackwardArguments& a) { cpu::linear_summary_backward(a); }
  static void linear_backward(const LinearBackwardArguments& a) { cpu::linear_backward(a); }
  static void state_step(const StateStepArguments& a) { cpu::state_step(a); }
};

/// The layer by `Kernels`: a chain of runs, each with its summary, its outputs and its gradients.
template <class Kernels = CpuKernels>
class KernelLayer {
 public:
  KernelLayer(const LinearInputs& inputs, const RunOptions& run_options) : in(inputs), options(run_options) {
    const auto [batch, tokens, heads, key_dim, value_dim] = in.shape;
    const bool strided = options.strided;
    q = Box(in.q, strided), k = Box(in.k, strided), v = Box(in.v, strided), dout = Box(in.dout, strided);
    out = Box(DType::f32, batch, tokens, heads, value_dim, strided);
    dq = dk = Box(in.q.dtype, batch, tokens, heads, key_dim, strided);
    dv = Box(in.v.dtype, batch, tokens, heads, value_dim, strided);
    state = Box(in.state, strided), dstate = Box(in.dleaving, strided);
    if (decays()) make_log_decay();
    if (in.kind == Kind::delta) {
      HostTensor numbers = in.beta;
      numbers.geometry = contiguous({batch, tokens, heads, 1});
      beta = Box(numbers, strided), dbeta = Box(DType::f32, batch, tokens, heads, 1, strided);
    }
    if (in.kind == Kind::bonus) {
      HostTensor numbers = in.bonus;
      numbers.geometry = contiguous({1, 1, heads, key_dim});
      bonus = repeated(Box(numbers, strided)), dbonus = Box(DType::f32, 1, 1, heads, key_dim, strided);
    }
    bounds = options.cuts;
    bounds.insert(bounds.begin(), 0);
    bounds.push_back(tokens);
  }

  LinearResults results() {
    const auto num_runs = std::ssize(bounds) - 1;
    std::vector<Box> states{state};
    for (std::int64_t run = 0; run < num_runs; ++run) {
      forward(run, states.back());
      states.push_back(state);
    }
    for (std::int64_t run = num_runs - 1; run >= 0; --run) backward(run, states[static_cast<std::size_t>(run)], run + 1 != num_runs);
    LinearResults r{out.dense(), state.dense(), dq.dense(), dk.dense(), dv.dense(), {}, dstate.dense()};
    const auto take = [](HostTensor& to, const Box& from, const HostTensor& like) {
      to = from.dense();
      to.geometry = like.geometry;
    };
    if (decays()) take(r.dlog_decay, dlog_decay, in.log_decay);
    if (in.kind == Kind::delta) take(r.dbeta, dbeta, in.beta);
    if (in.kind == Kind::bonus) take(r.dbonus, dbonus, in.bonus);
    return r;
  }

 private:
  [[nodiscard]] bool decays() const { return in.decay != Decay::none; }
  [[nodiscard]] std::int64_t width() const { return in.decay == Decay::vector ? in.shape.key_dim : 1; }

  /// One number per head as one per token: strides of 0.
  [[nodiscard]] Box repeated(Box box) const {
    box.geometry.shape[0] = in.shape.batch, box.geometry.shape[1] = in.shape.tokens;
    box.geometry.strides[0] = box.geometry.strides[1] = 0;
    return box;
  }

  /// Log decays (B, T, H, 1 or Dk) in the layout of the kernels.
  void make_log_decay() {
    HostTensor logs = in.log_decay;
    const bool constant = in.decay == Decay::constant;
    logs.geometry =
        constant ? contiguous({1, 1, in.shape.heads, 1}) : contiguous({in.shape.batch, in.shape.tokens, in.shape.heads, width()});
    log_decay = Box(logs, options.strided);
    dlog_decay = Box(DType::f32, logs.geometry.shape[0], logs.geometry.shape[1], in.shape.heads, width(), options.strided);
    if (constant) log_decay = repeated(log_decay);
  }

  /// What a run does to a state: to be given to state_step. Empty views where the kind has none.
  struct Summary {
    Box update, log_sum, transition;
    TensorView log_sum_view, transition_view;
  };
  Summary summary_of_run() {
    Summary summary;
    const auto [batch, tokens, heads, key_dim, value_dim] = in.shape;
    summary.update = Box(DType::f32, batch, heads, key_dim, value_dim, options.strided);
    if (in.kind == Kind::delta) {
      summary.transition = Box(DType::f32, batch, heads, key_dim, key_dim, options.strided);
      summary.transition_view = summary.transition.view();
    } else if (decays()) {
      summary.log_sum = Box(DType::f32, batch, heads, width(), 1, options.strided);
      summary.log_sum_view = summary.log_sum.view();
    }
    return summary;
  }
  void step(Summary& summary, Box& to) {
    Kernels::state_step({.log_sum = summary.log_sum_view,
                         .update = summary.update.view(),
                         .state = to.view(),
                         .num_threads = options.num_threads,
                         .transition = summary.transition_view});
  }

  void forward(std::int64_t run, Box& entering) {
    const std::int64_t first = bounds[static_cast<std::size_t>(run)], count = bounds[static_cast<std::size_t>(run) + 1] - first;
    const auto part = [&](Box& box) { return box.geometry.num_axes == 0 ? TensorView{} : box.tokens(first, count); };
    const auto scale = static_cast<float>(in.scale);
    Summary summary = summary_of_run();
    Kernels::linear_summary({.k = part(k),
                             .v = part(v),
                             .log_decay = part(log_decay),
                             .state = summary.update.view(),
                             .log_sum = summary.log_sum_view,
                             .num_threads = options.num_threads,
                             .beta = part(beta),
                             .transition = summary.transition_view});
    const bool local_has_state = options.local_has_state || in.kind == Kind::delta;
    Kernels::linear_local({.q = part(q),
                           .k = part(k),
                           .v = part(v),
                           .log_decay = part(log_decay),
                           .out = part(out),
                           .scale = scale,
                           .num_threads = options.num_threads,
                           .beta = part(beta),
                           .bonus = part(bonus),
                           .state = local_has_state ? entering.view() : TensorView{}});
    if (!local_has_state) {
      Kernels::linear_enter({.q = part(q),
                             .log_decay = part(log_decay),
                             .state = entering.view(),
                             .out = part(out),
                             .scale = scale,
                             .num_threads = options.num_threads,
                             .before = in.kind == Kind::bonus});
    }
    step(summary, state);
  }

  void backward(std::int64_t run, Box& entering, bool add_constant) {
    const std::int64_t first = bounds[static_cast<std::size_t>(run)], count = bounds[static_cast<std::size_t>(run) + 1] - first;
    const auto part = [&](Box& box) { return box.geometry.num_axes == 0 ? TensorView{} : box.tokens(first, count); };
    const auto scale = static_cast<float>(in.scale);
    Kernels::linear_backward({.q = part(q),
                              .k = part(k),
                              .v = part(v),
                              .log_decay = part(log_decay),
                              .dout = part(dout),
                              .state = entering.view(),
                              .dleaving = dstate.view(),
                              .dq = part(dq),
                              .dk = part(dk),
                              .dv = part(dv),
                              .dlog_decay = !decays()                     ? TensorView{}
                                            : in.decay == Decay::constant ? dlog_decay.view()
                                                                          : part(dlog_decay),
                              .scale = scale,
                              .add_constant = add_constant,
                              .num_threads = options.num_threads,
                              .beta = part(beta),
                              .bonus = part(bonus),
                              .dbeta = part(dbeta),
                              .dbonus = in.kind == Kind::bonus ? dbonus.view() : TensorView{}});
    Summary summary = summary_of_run();
    Kernels::linear_summary_backward({.q = part(q),
                                      .dout = part(dout),
                                      .log_decay = part(log_decay),
                                      .dstate = summary.update.view(),
                                      .log_sum = summary.log_sum_view,
                                      .scale = scale,
                                      .num_threads = options.num_threads,
                                      .before = in.kind == Kind::bonus,
                                      .k = in.kind == Kind::delta ? part(k) : TensorView{},
                                      .beta = part(beta),
                                      .transition = summary.transition_view});
    step(summary, dstate);
  }

  const LinearInputs& in;
  const RunOptions& options;
  Box q, k, v, dout, out, dq, dk, dv, log_decay, dlog_decay, beta, dbeta, bonus, dbonus;
  Box state, dstate;  // what is carried from run to run
  std::vector<std::int64_t> bounds;
};

inline LinearResults kernel_results(const LinearInputs& in, const RunOptions& options = {}) { return KernelLayer<>(in, options).results(); }

}  // namespace seqccl::test
