// linear_check.cpp - reference and plain run of linear attention. Its cost grows with N only, so every row is checked.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <thread>

#include "command/check.hpp"
#include "seqccl/kernels.hpp"

namespace seqccl::command {
namespace {

int all_cores() { return static_cast<int>(std::max(1u, std::thread::hardware_concurrency())); }

/// Tensors of a problem's results: `dtype` for out and the gradients of q, k, v, `wide` for states and decays.
LinearResult results_of(const LinearTensors& tensors, const LinearSpec& spec, bool backward, DType dtype, DType wide) {
  LinearResult result;
  result.out = HostTensor(dtype, {spec.batch, spec.partition.num_tokens(), spec.heads, spec.dim_v()});
  if (spec.state_out) result.state_out = HostTensor(wide, {spec.batch, spec.heads, spec.head_dim, spec.dim_v()});
  if (!backward) return result;
  result.dq = HostTensor(dtype, tensors.q.shape());
  result.dk = HostTensor(dtype, tensors.k.shape());
  result.dv = HostTensor(dtype, tensors.v.shape());
  if (tensors.log_decay.present()) result.dlog_decay = HostTensor(wide, tensors.log_decay.shape());
  if (tensors.state_in.present()) result.dstate_in = HostTensor(wide, tensors.state_in.shape());
  if (tensors.beta.present()) result.dbeta = HostTensor(wide, tensors.beta.shape());
  if (tensors.bonus.present()) result.dbonus = HostTensor(wide, tensors.bonus.shape());
  return result;
}

reference::LinearGradients gradients_of(LinearResult& result) {
  return {result.dq.view(),        result.dk.view(),    result.dv.view(),    result.dlog_decay.view(),
          result.dstate_in.view(), result.dbeta.view(), result.dbonus.view()};
}

}  // namespace

LinearReference::LinearReference(const LinearTensors& tensors, const LinearSpec& spec, bool backward, CheckLevel level) : spec_(spec) {
  gradients_wanted_ = backward;
  gradients_ =
      backward && (level == CheckLevel::full ||
                   (level == CheckLevel::automatic && spec.partition.num_tokens() <= full_check_tokens));  // its memory grows with N Dk Dv
  const reference::Linear problem{.q = tensors.q.view(),
                                  .k = tensors.k.view(),
                                  .v = tensors.v.view(),
                                  .log_decay = tensors.log_decay.view(),
                                  .state_in = tensors.state_in.view(),
                                  .scale = static_cast<double>(spec.scale),
                                  .beta = tensors.beta.view(),
                                  .bonus = tensors.bonus.view(),
                                  .documents = spec_.documents,
                                  .causal = spec.causal};
  want_ = results_of(tensors, spec, gradients_, DType::f64, DType::f64);
  plain_ = results_of(tensors, spec, gradients_, spec.dtype, f32);
  reference::linear(problem, want_.out.view(), want_.state_out.view(), all_cores());
  reference::linear_plain(problem, plain_.out.view(), plain_.state_out.view(), all_cores());
  if (!gradients_) return;
  reference::linear_backward(problem, tensors.dout.view(), tensors.dstate_out.view(), gradients_of(want_), all_cores());
  reference::linear_backward_plain(problem, tensors.dout.view(), tensors.dstate_out.view(), gradients_of(plain_), all_cores());
}

CheckOutcome LinearReference::judge(const LinearResult& result) const {
  CheckOutcome outcome;
  outcome.coverage = fmt::format("all {} rows", spec_.partition.num_tokens());
  if (gradients_wanted_ && !gradients_) outcome.coverage += "; gradients not checked (--check=full does)";
  // States and decays are f32, but inputs that come in another type carry its rounding only into what is rounded: the plain run shows how
  // much.
  const auto add = [&](const char* name, const HostTensor& got, const HostTensor& want, const HostTensor& plain, bool is_gradient) {
    if (want.present()) outcome.tensors.push_back(compare(name, got, want, plain, {got.dtype, is_gradient}));
  };
  add("out", result.out, want_.out, plain_.out, false);
  add("state_out", result.state_out, want_.state_out, plain_.state_out, false);
  if (!gradients_) return outcome;
  add("dq", result.dq, want_.dq, plain_.dq, true);
  add("dk", result.dk, want_.dk, plain_.dk, true);
  add("dv", result.dv, want_.dv, plain_.dv, true);
  add("dlog_decay", result.dlog_decay, want_.dlog_decay, plain_.dlog_decay, true);
  add("dstate_in", result.dstate_in, want_.dstate_in, plain_.dstate_in, true);
  add("dbeta", result.dbeta, want_.dbeta, plain_.dbeta, true);
  add("dbonus", result.dbonus, want_.dbonus, plain_.dbonus, true);
  return outcome;
}

}  // namespace seqccl::command
