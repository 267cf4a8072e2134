// linear.cpp - the kernels of linear attention as a fraction of the FMA peak of a core, measured in turns with it.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/rows.hpp"
#include "seqccl/cost.hpp"
#include "seqccl/kernels.hpp"
#include "seqccl/recorder.hpp"

namespace seqccl::bench {
namespace {

constexpr std::int64_t num_tokens = 2048, num_heads = 4;

struct Kind {
  const char* name;
  char decay;  // 'n' none, 's' one number per token and head, 'v' one per key number
  bool delta, bonus;
};
constexpr Kind kinds[] = {{"plain", 'n', false, false},       {"scalar_gate", 's', false, false}, {"vector_gate", 'v', false, false},
                          {"rwkv6", 'v', false, true},        {"delta", 'n', true, false},        {"gated_delta", 's', true, false},
                          {"gated_delta_v", 'v', true, false}};

/// Operands of one layer, each of its own memory.
struct Layer {
  Kind kind;
  DType dtype;
  std::int64_t dim, width;
  std::vector<float> q, k, v, dout, log_decay, beta, bonus, entering, dleaving, out, dq, dk, dv, dlog_decay, dbeta, dbonus, state, log_sum,
      transition;
  std::vector<BFloat16> q16, k16, v16, dout16;

  Layer(const Kind& kind_, std::int64_t dim_, DType dtype_)
      : kind(kind_), dtype(dtype_), dim(dim_), width(kind.decay == 'v' ? dim : 1), q(numbers(tokens(dim), 1)), k(numbers(tokens(dim), 2)) {
    v = numbers(tokens(dim), 3), dout = numbers(tokens(dim), 4), bonus = numbers(num_heads * dim, 5);
    entering = numbers(states(), 6), dleaving = numbers(states(), 7);
    for (float& x : k) x /= std::sqrt(static_cast<float>(dim));  // delta kinds are stable while beta |k|^2 <= 2
    for (const float x : numbers(tokens(width), 8)) log_decay.push_back(-0.05F - 0.03F * x);
    for (const float x : numbers(tokens(1), 9)) beta.push_back(0.5F + 0.3F * x);
    for (std::vector<float>* rows : {&out, &dq, &dk, &dv}) rows->resize(q.size());
    dlog_decay.resize(log_decay.size()), dbeta.resize(beta.size()), dbonus.resize(bonus.size());
    state.resize(entering.size()), transition.resize(entering.size()), log_sum.resize(static_cast<std::size_t>(num_heads * width));
    const auto narrow = [](const std::vector<float>& from) { return std::vector<BFloat16>(from.begin(), from.end()); };
    if (dtype == bf16) q16 = narrow(q), k16 = narrow(k), v16 = narrow(v), dout16 = narrow(dout);
  }
  [[nodiscard]] static std::int64_t tokens(std::int64_t size) { return num_tokens * num_heads * size; }
  [[nodiscard]] std::int64_t states() const { return num_heads * dim * dim; }

  [[nodiscard]] ConstTensorView rows(const std::vector<float>& wide, const std::vector<BFloat16>& narrow) const {
    const void* data = wide.data();
    if (dtype == bf16) data = narrow.data();
    return view(data, dtype, {1, num_tokens, num_heads, dim});
  }
  [[nodiscard]] static ConstTensorView f32_view(const std::vector<float>& x, std::int64_t size) {
    return view(static_cast<const void*>(x.data()), f32, {1, num_tokens, num_heads, size});
  }
  [[nodiscard]] static TensorView f32_view(std::vector<float>& x, std::int64_t size) {
    return view(x.data(), f32, {1, num_tokens, num_heads, size});
  }
  [[nodiscard]] ConstTensorView decay_view() const { return kind.decay == 'n' ? ConstTensorView{} : f32_view(log_decay, width); }
  [[nodiscard]] ConstTensorView beta_view() const { return kind.delta ? f32_view(beta, 1) : ConstTensorView{}; }
  [[nodiscard]] ConstTensorView bonus_view() const {
    if (!kind.bonus) return {};
    ConstTensorView x = f32_view(bonus, dim);
    x.geometry.strides[0] = x.geometry.strides[1] = 0;
    return x;
  }
  [[nodiscard]] ConstTensorView state_view(const std::vector<float>& x) const {
    return view(static_cast<const void*>(x.data()), f32, {1, num_heads, dim, dim});
  }
  [[nodiscard]] TensorView state_view(std::vector<float>& x) const { return view(x.data(), f32, {1, num_heads, dim, dim}); }

  [[nodiscard]] LinearLocalArguments local() {
    return {.q = rows(q, q16),
            .k = rows(k, k16),
            .v = rows(v, v16),
            .log_decay = decay_view(),
            .out = f32_view(out, dim),
            .scale = 0.1F,
            .beta = beta_view(),
            .bonus = bonus_view(),
            .state = state_view(entering)};
  }
  [[nodiscard]] LinearSummaryArguments summary() {
    return {.k = rows(k, k16),
            .v = rows(v, v16),
            .log_decay = decay_view(),
            .state = state_view(state),
            .log_sum = kind.decay == 'n' || kind.delta ? TensorView{} : view(log_sum.data(), f32, {1, num_heads, width, 1}),
            .beta = beta_view(),
            .transition = kind.delta ? state_view(transition) : TensorView{}};
  }
  [[nodiscard]] LinearBackwardArguments backward() {
    return {.q = rows(q, q16),
            .k = rows(k, k16),
            .v = rows(v, v16),
            .log_decay = decay_view(),
            .dout = rows(dout, dout16),
            .state = state_view(entering),
            .dleaving = state_view(dleaving),
            .dq = f32_view(dq, dim),
            .dk = f32_view(dk, dim),
            .dv = f32_view(dv, dim),
            .dlog_decay = kind.decay == 'n' ? TensorView{} : f32_view(dlog_decay, width),
            .scale = 0.1F,
            .beta = beta_view(),
            .bonus = bonus_view(),
            .dbeta = kind.delta ? f32_view(dbeta, 1) : TensorView{},
            .dbonus = kind.bonus ? view(dbonus.data(), f32, {1, 1, num_heads, dim}) : TensorView{}};
  }
};

enum class Run { local, summary, backward };

/// Operations of the op, as the library counts them (lib/schedule/cost.cpp).
double flops(const Kind& kind, std::int64_t dim, Run run) {
  Recorder plan("cost", 0, 1);
  const auto rows = [&](std::int64_t size) { return plan.scratch(f32, {1, num_tokens, num_heads, size}); };
  const Block q = rows(dim), k = rows(dim), v = rows(dim), out = rows(dim), dq = rows(dim), dk = rows(dim), dv = rows(dim);
  const Block state = plan.scratch(f32, {1, 1, num_heads, dim * dim}), transition = plan.scratch(f32, {1, 1, num_heads, dim * dim});
  const Block beta = kind.delta ? rows(1) : Block{}, bonus = kind.bonus ? plan.scratch(f32, {1, 1, num_heads, dim}) : Block{};
  Op op = LinearLocal{.q = q, .k = k, .v = v, .out = out, .beta = beta, .bonus = bonus};
  if (run == Run::summary)
    op = LinearSummary{.k = k, .v = v, .state = state, .beta = beta, .transition = kind.delta ? transition : Block{}};
  if (run == Run::backward)
    op = LinearBackward{.q = q, .k = k, .v = v, .dout = out, .dq = dq, .dk = dk, .dv = dv, .beta = beta, .bonus = bonus};
  return cost_of(std::move(plan).finish("cost"), op).flops;
}

KernelRow row(const Kind& kind, std::int64_t dim, DType dtype, Run run) {
  constexpr const char* names[] = {"linear_local", "linear_summary", "linear_backward"};
  const std::string name =
      std::string(names[static_cast<int>(run)]) + "/" + kind.name + (dtype == bf16 ? "/bf16" : "") + "/D" + std::to_string(dim);
  const auto prepare = [=]() -> Prepared {
    const auto layer = std::make_shared<Layer>(kind, dim, dtype);
    const double work = flops(kind, dim, run);
    if (run == Run::local) return {work, [layer, a = layer->local()] { cpu::linear_local(a); }};
    if (run == Run::summary) return {work, [layer, a = layer->summary()] { cpu::linear_summary(a); }};
    return {work, [layer, a = layer->backward()] { cpu::linear_backward(a); }};
  };
  return {name, 1, prepare};
}

}  // namespace

std::vector<KernelRow> linear_rows() {
  std::vector<KernelRow> rows;
  for (const Run run : {Run::local, Run::summary, Run::backward}) {
    for (const Kind& kind : kinds) {
      for (const std::int64_t dim : {64, 128}) rows.push_back(row(kind, dim, f32, run));
    }
    rows.push_back(row(kinds[0], 128, bf16, run));
  }
  return rows;
}

}  // namespace seqccl::bench
