// linear_backward.cpp - exact gradients of linear attention: the recurrence of the state's gradient, token by token from the last.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "../parallel.hpp"
#include "linear_recurrence.hpp"

SEQCCL_BEGIN
namespace reference {
namespace {

using namespace linear_detail;

constexpr std::int64_t checkpoint_tokens = 64;  // one state is kept for so many tokens, those between are made again

// With X the gradient of S_t from later tokens, from the last token to the first:
//   X += scale q_t dout_t^T
//   dq_t = scale S_t dout_t    dk_t = X v_t    dv_t = X^T k_t    dlog_decay_t = alpha_t rowsum(X S_(t-1))
//   X <- diag(alpha_t) X
template <class Real>
class HeadBackward {
 public:
  HeadBackward(const Linear& problem, ConstTensorView dout, ConstTensorView dstate_out, const LinearGradients& gradients,
               std::int64_t batch, std::int64_t head)
      : head_(problem, batch, head), dout_(dout), gradients_(gradients), dstate_(head_.state_size(), Real(0)) {
    if (dstate_out) read_state(dstate_out, batch, head, dstate_.data());
  }

  /// Writes all gradients of this head; returns the sum of dlog_decay over the tokens, for a constant decay.
  Real run() {
    std::vector<std::vector<Real>> checkpoints;
    std::vector<Real> state = head_.entering();
    for (std::int64_t t = 0; t < head_.num_tokens; ++t) {
      if (t % checkpoint_tokens == 0) checkpoints.push_back(state);
      head_.load(t);
      head_.step(state);
    }
    std::vector<std::vector<Real>> states;  // S_(t-1) for the tokens after one checkpoint, and the last S_t
    for (std::int64_t index = std::ssize(checkpoints) - 1; index >= 0; --index) {
      const std::int64_t first = index * checkpoint_tokens, end = std::min(head_.num_tokens, first + checkpoint_tokens);
      states.assign(1, checkpoints[static_cast<std::size_t>(index)]);
      for (std::int64_t t = first; t < end; ++t) {
        head_.load(t);
        states.push_back(states.back());
        head_.step(states.back());
      }
      for (std::int64_t t = end - 1; t >= first; --t) {
        const auto at = static_cast<std::size_t>(t - first);
        token(t, states[at], states[at + 1]);
      }
    }
    if (gradients_.dstate_in) write_state(dstate_.data(), gradients_.dstate_in, head_.batch, head_.head);
    return dconstant_;
  }

 private:
  void token(std::int64_t t, const std::vector<Real>& before, const std::vector<Real>& after) {
    head_.load(t);
    const auto key_dim = head_.q.size(), value_dim = head_.v.size();
    const auto scale = static_cast<Real>(head_.problem.scale);
    std::vector<Real> dout(value_dim), dq(key_dim, Real(0)), dk(key_dim, Real(0)), dv(value_dim, Real(0)), dlog(key_dim, Real(0));
    read(dout_, {head_.batch, t, head_.head}, dout.data());
    for (std::size_t d = 0; d < key_dim; ++d) {
      for (std::size_t e = 0; e < value_dim; ++e) {
        const std::size_t at = d * value_dim + e;
        Real& x = dstate_[at];
        x += scale * head_.q[d] * dout[e];
        dq[d] += scale * after[at] * dout[e];
        dk[d] += x * head_.v[e];
        dv[e] += x * head_.k[d];
        dlog[d] += x * before[at];
        x *= head_.alpha[d];
      }
      dlog[d] *= head_.alpha[d];
    }
    write(dq.data(), gradients_.dq, {head_.batch, t, head_.head});
    write(dk.data(), gradients_.dk, {head_.batch, t, head_.head});
    write(dv.data(), gradients_.dv, {head_.batch, t, head_.head});
    const ConstTensorView& log_decay = head_.problem.log_decay;
    if (!gradients_.dlog_decay || !log_decay) return;
    if (log_decay.geometry.num_axes == 4) return write(dlog.data(), gradients_.dlog_decay, {head_.batch, t, head_.head});
    Real sum = 0;
    for (const Real one : dlog) sum += one;
    if (log_decay.geometry.num_axes == 3)
      write(&sum, gradients_.dlog_decay, {head_.batch, t, head_.head});
    else
      dconstant_ += sum;
  }

  Head<Real> head_;
  ConstTensorView dout_;
  const LinearGradients& gradients_;
  std::vector<Real> dstate_;  // X
  Real dconstant_ = 0;
};

template <class Real>
void backward(const char* who, const Linear& problem, ConstTensorView dout, ConstTensorView dstate_out, const LinearGradients& gradients,
              int num_threads) {
  check_problem(who, problem);
  const std::int64_t batch = problem.q.extent(0), tokens = problem.q.extent(1), heads = problem.q.extent(2);
  const std::int64_t key_dim = problem.q.extent(3), value_dim = problem.v.extent(3);
  check_axes(who, "dout", dout.geometry, {batch, tokens, heads, value_dim});
  check_axes(who, "dq", gradients.dq.geometry, {batch, tokens, heads, key_dim});
  check_axes(who, "dk", gradients.dk.geometry, {batch, tokens, heads, key_dim});
  check_axes(who, "dv", gradients.dv.geometry, {batch, tokens, heads, value_dim});
  if (dstate_out) check_axes(who, "dstate_out", dstate_out.geometry, {batch, heads, key_dim, value_dim});
  if (gradients.dstate_in) check_axes(who, "dstate_in", gradients.dstate_in.geometry, {batch, heads, key_dim, value_dim});
  const bool constant = gradients.dlog_decay && gradients.dlog_decay.geometry.num_axes == 1;

  std::vector<Real> sums(static_cast<std::size_t>(batch * heads));
  parallel_for(batch * heads, num_threads, [&](std::int64_t item) {
    sums[static_cast<std::size_t>(item)] = HeadBackward<Real>(problem, dout, dstate_out, gradients, item / heads, item % heads).run();
  });
  for (std::int64_t h = 0; constant && h < heads; ++h) {
    Real sum = 0;
    for (std::int64_t b = 0; b < batch; ++b) sum += sums[static_cast<std::size_t>(b * heads + h)];
    write(&sum, gradients.dlog_decay, {h});
  }
}

}  // namespace

void linear_backward(const Linear& problem, ConstTensorView dout, ConstTensorView dstate_out, const LinearGradients& gradients,
                     int num_threads) {
  backward<double>("reference::linear_backward", problem, dout, dstate_out, gradients, num_threads);
}

void linear_backward_plain(const Linear& problem, ConstTensorView dout, ConstTensorView dstate_out, const LinearGradients& gradients,
                           int num_threads) {
  backward<float>("reference::linear_backward_plain", problem, dout, dstate_out, gradients, num_threads);
}

}  // namespace reference
SEQCCL_END
