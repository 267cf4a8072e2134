// linear.cpp - linear attention by its definition: the token by token recurrence.
// SPDX-License-Identifier: Apache-2.0
#include "../parallel.hpp"
#include "linear_recurrence.hpp"

SEQCCL_BEGIN
namespace reference {
namespace {

using namespace linear_detail;

// S_t = diag(exp(log_decay_t)) S_(t-1) + k_t v_t^T,  out_t = scale S_t^T q_t.
template <class Real>
void forward(const char* who, const Linear& problem, TensorView out, TensorView state_out, int num_threads) {
  check_problem(who, problem);
  const std::int64_t batch = problem.q.extent(0), heads = problem.q.extent(2);
  check_axes(who, "out", out.geometry, {batch, problem.q.extent(1), heads, problem.v.extent(3)});
  if (state_out) check_axes(who, "state_out", state_out.geometry, {batch, heads, problem.q.extent(3), problem.v.extent(3)});
  parallel_for(batch * heads, num_threads, [&](std::int64_t item) {
    Head<Real> head(problem, item / heads, item % heads);
    std::vector<Real> state = head.entering(), row(head.v.size());
    for (std::int64_t t = 0; t < head.num_tokens; ++t) {
      head.load(t);
      head.step(state);
      row.assign(row.size(), Real(0));
      const Real* s = state.data();
      for (const Real q : head.q) {
        for (Real& o : row) o += q * *s++;
      }
      for (Real& o : row) o *= static_cast<Real>(problem.scale);
      write(row.data(), out, {head.batch, t, head.head});
    }
    if (state_out) write_state(state.data(), state_out, head.batch, head.head);
  });
}

}  // namespace

void linear(const Linear& problem, TensorView out, TensorView state_out, int num_threads) {
  forward<double>("reference::linear", problem, out, state_out, num_threads);
}

void linear_plain(const Linear& problem, TensorView out, TensorView state_out, int num_threads) {
  forward<float>("reference::linear_plain", problem, out, state_out, num_threads);
}

}  // namespace reference
SEQCCL_END
