// linear_device.hpp - linear ops on a device, for tests that have their tensors on the host.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "cuda/device_operands.hpp"
#include "kernels/linear_layer.hpp"

namespace seqccl::test {

/// The CUDA kernels, in a workspace of `share` of what lies between the least and the most.
struct DeviceKernels {
  static inline double share = 1;

  static void linear_summary(LinearSummaryArguments a) {
    DeviceOperands x;
    a.k = x.in(a.k), a.v = x.in(a.v), a.log_decay = x.in(a.log_decay), a.beta = x.in(a.beta);
    a.state = x.out(a.state), a.log_sum = x.out(a.log_sum), a.transition = x.out(a.transition);
    run(a, x, [](auto&&... all) { cuda::linear_summary(all...); });
  }
  static void linear_local(LinearLocalArguments a) {
    DeviceOperands x;
    a.q = x.in(a.q), a.k = x.in(a.k), a.v = x.in(a.v), a.log_decay = x.in(a.log_decay), a.beta = x.in(a.beta), a.bonus = x.in(a.bonus);
    a.state = x.in(a.state), a.out = x.out(a.out);
    run(a, x, [](auto&&... all) { cuda::linear_local(all...); });
  }
  static void linear_enter(LinearEnterArguments a) {
    DeviceOperands x;
    a.q = x.in(a.q), a.log_decay = x.in(a.log_decay), a.state = x.in(a.state), a.out = x.out(a.out, false);
    run(a, x, [](auto&&... all) { cuda::linear_enter(all...); });
  }
  static void linear_summary_backward(LinearSummaryBackwardArguments a) {
    DeviceOperands x;
    a.q = x.in(a.q), a.dout = x.in(a.dout), a.log_decay = x.in(a.log_decay), a.k = x.in(a.k), a.beta = x.in(a.beta);
    a.dstate = x.out(a.dstate), a.log_sum = x.out(a.log_sum), a.transition = x.out(a.transition);
    run(a, x, [](auto&&... all) { cuda::linear_summary_backward(all...); });
  }
  static void linear_backward(LinearBackwardArguments a) {
    DeviceOperands x;
    a.q = x.in(a.q), a.k = x.in(a.k), a.v = x.in(a.v), a.log_decay = x.in(a.log_decay), a.dout = x.in(a.dout), a.beta = x.in(a.beta);
    a.bonus = x.in(a.bonus), a.state = x.in(a.state), a.dleaving = x.in(a.dleaving);
    a.dq = x.out(a.dq), a.dk = x.out(a.dk), a.dv = x.out(a.dv), a.dbeta = x.out(a.dbeta);
    a.dlog_decay = x.out(a.dlog_decay, !a.add_constant), a.dbonus = x.out(a.dbonus, !a.add_constant);
    run(a, x, [](auto&&... all) { cuda::linear_backward(all...); });
  }
  static void state_step(StateStepArguments a) {
    DeviceOperands x;
    a.log_sum = x.in(a.log_sum), a.update = x.in(a.update), a.transition = x.in(a.transition), a.state = x.out(a.state, false);
    cuda::state_step(a, nullptr);
    require(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    x.download();
  }

 private:
  template <class Arguments, class Launch>
  static void run(const Arguments& a, const DeviceOperands& operands, Launch launch) {
    const cuda::WorkspaceNeed need = cuda::workspace_need(a);
    const std::size_t num_bytes =
        need.least_bytes + static_cast<std::size_t>(share * static_cast<double>(need.most_bytes - need.least_bytes));
    const DeviceBuffer workspace(std::max<std::size_t>(num_bytes, 1));
    launch(a, cuda::DeviceMemory{workspace.data(), num_bytes}, cuda::Stream{});
    require(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    operands.download();
  }
};

inline LinearResults device_results(const LinearInputs& in, const RunOptions& options = {}, double share = 1) {
  DeviceKernels::share = share;
  return KernelLayer<DeviceKernels>(in, options).results();
}

}  // namespace seqccl::test
