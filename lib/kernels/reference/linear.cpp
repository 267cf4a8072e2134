// linear.cpp - linear attention by its definition: the token by token recurrence.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "../parallel.hpp"
#include "linear_recurrence.hpp"

SEQCCL_BEGIN
namespace reference {
namespace {

using namespace linear_detail;

/// out_t += S^T q_t.
template <class Real>
void read_out(const Head<Real>& head, const std::vector<Real>& state, std::vector<Real>& out) {
  const Real* s = state.data();
  for (const Real q : head.q) {
    for (Real& o : out) o += q * *s++;
  }
}

template <class Real>
void store(const Head<Real>& head, std::int64_t token, std::vector<Real>& row, TensorView out) {
  for (Real& o : row) o *= static_cast<Real>(head.problem.scale);
  write(row.data(), out, {head.batch, token, head.head});
}

/// out_t = scale S_t^T q_t, or with a bonus scale (S_(t-1)^T q_t + (sum_d q_td bonus_d k_td) v_t).
template <class Real>
std::vector<Real> causal(Head<Real>& head, TensorView out) {
  std::vector<Real> state = head.entering(), row(head.v.size());
  for (std::int64_t t = 0; t < head.num_tokens; ++t) {
    head.load(t);
    if (head.starts_at(t)) std::fill(state.begin(), state.end(), Real(0));
    row.assign(row.size(), Real(0));
    if (head.problem.bonus) {
      const Real weight = head.bonus_weight();
      read_out(head, state, row);
      for (std::size_t e = 0; e < row.size(); ++e) row[e] += weight * head.v[e];
      head.step(state);
    } else {
      head.step(state);
      read_out(head, state, row);
    }
    store(head, t, row, out);
  }
  return state;
}

/// out_t = scale S^T q_t, S the sum of k v^T over the document of t. Returns that of the last document.
template <class Real>
std::vector<Real> bidirectional(Head<Real>& head, TensorView out) {
  std::vector<Real> state = head.entering(), row(head.v.size());
  for (std::int64_t first = 0; first < head.num_tokens;) {
    const std::int64_t end = head.document_end(first);
    state = head.document_sum(first, end);
    for (; first < end; ++first) {
      head.load(first);
      row.assign(row.size(), Real(0));
      read_out(head, state, row);
      store(head, first, row, out);
    }
  }
  return state;
}

template <class Real>
void forward(const char* who, const Linear& problem, TensorView out, TensorView state_out, int num_threads) {
  check_problem(who, problem);
  const std::int64_t batch = problem.q.extent(0), heads = problem.q.extent(2);
  check_axes(who, "out", out.geometry, {batch, problem.q.extent(1), heads, problem.v.extent(3)});
  if (state_out) check_axes(who, "state_out", state_out.geometry, {batch, heads, problem.q.extent(3), problem.v.extent(3)});
  parallel_for(batch * heads, num_threads, [&](std::int64_t item) {
    Head<Real> head(problem, item / heads, item % heads);
    const std::vector<Real> state = problem.causal ? causal(head, out) : bidirectional(head, out);
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
