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
//   X += scale q_t dout_t^T      dq_t = scale S_t dout_t
//   dk_t = X u_t   du = X^T k_t                                              S_t = Z + k_t u_t^T
//   delta kinds: r = v_t - Z^T k_t   dbeta_t = du r   dr = beta_t du         u_t = beta_t r
//                dv_t = dr   dk_t -= Z dr   X -= k_t dr^T                    else dv_t = du
//   dlog_decay_t = alpha_t rowsum(X S_(t-1))   X <- diag(alpha_t) X          Z = diag(alpha_t) S_(t-1)
// With a bonus the first line comes last, with S_(t-1), and the bonus adds, with s = scale v_t dout_t:
//   dq_t += bonus k_t s   dk_t += bonus q_t s   dbonus += q_t k_t s   dv_t += scale (sum_d q_td bonus_d k_td) dout_t
// Where a document begins S_(t-1) = 0, and X does not go on.
template <class Real>
class HeadBackward {
 public:
  HeadBackward(const Linear& problem, ConstTensorView dout, ConstTensorView dstate_out, const LinearGradients& gradients,
               std::int64_t batch, std::int64_t head)
      : head_(problem, batch, head),
        dout_view_(dout),
        gradients_(gradients),
        dstate_(head_.state_size(), Real(0)),
        none_(dstate_),
        dout_(head_.v.size()),
        dbonus_(head_.k.size(), Real(0)) {
    if (dstate_out) read_state(dstate_out, batch, head, dstate_.data());
  }

  /// Writes all gradients of this head, except what is summed over tokens and batch.
  void run() {
    if (!head_.problem.causal) return bidirectional();
    std::vector<std::vector<Real>> checkpoints;
    std::vector<Real> state = head_.entering();
    for (std::int64_t t = 0; t < head_.num_tokens; ++t) {
      if (t % checkpoint_tokens == 0) checkpoints.push_back(state);
      step(t, state);
    }
    std::vector<std::vector<Real>> states;  // S_(t-1) for the tokens after one checkpoint, and the last S_t
    for (std::int64_t index = std::ssize(checkpoints) - 1; index >= 0; --index) {
      const std::int64_t first = index * checkpoint_tokens, end = std::min(head_.num_tokens, first + checkpoint_tokens);
      states.assign(1, checkpoints[static_cast<std::size_t>(index)]);
      for (std::int64_t t = first; t < end; ++t) {
        states.push_back(states.back());
        step(t, states.back());
      }
      for (std::int64_t t = end - 1; t >= first; --t) {
        const auto at = static_cast<std::size_t>(t - first);
        token(t, head_.starts_at(t) ? none_ : states[at], states[at + 1]);
      }
    }
    if (gradients_.dstate_in) write_state(dstate_.data(), gradients_.dstate_in, head_.batch, head_.head);
  }

  /// Sum of dlog_decay over the tokens, for a constant decay.
  [[nodiscard]] Real dconstant() const { return dconstant_; }
  [[nodiscard]] const std::vector<Real>& dbonus() const { return dbonus_; }

 private:
  void step(std::int64_t t, std::vector<Real>& state) {
    head_.load(t);
    if (head_.starts_at(t)) state = none_;
    head_.step(state);
  }

  void load(std::int64_t t) {
    head_.load(t);
    read(dout_view_, {head_.batch, t, head_.head}, dout_.data());
    dq_.assign(head_.q.size(), Real(0));
    dk_ = dlog_ = dq_;
    dv_.assign(head_.v.size(), Real(0));
  }

  /// The output reads `state`: dq += scale state dout.
  void queries(const std::vector<Real>& state) {
    const auto scale = static_cast<Real>(head_.problem.scale);
    const Real* s = state.data();
    for (Real& dq : dq_) {
      for (const Real dout : dout_) dq += scale * *s++ * dout;
    }
  }
  /// X += scale q dout^T.
  void read_by_output() {
    const auto scale = static_cast<Real>(head_.problem.scale);
    Real* x = dstate_.data();
    for (const Real q : head_.q) {
      for (const Real dout : dout_) *x++ += scale * q * dout;
    }
  }

  /// Z + k u^T: dk += X u, dv = X^T k, where u = v.
  void values() {
    const Real* x = dstate_.data();
    for (std::size_t d = 0; d < dk_.size(); ++d) {
      for (std::size_t e = 0; e < dv_.size(); ++e, ++x) {
        dk_[d] += *x * head_.v[e];
        dv_[e] += *x * head_.k[d];
      }
    }
  }

  /// The same where u = beta (v - Z^T k); returns dbeta.
  Real delta_values(const std::vector<Real>& before) {
    std::vector<Real> z = before;
    head_.decay(z);
    const std::vector<Real> missing = head_.missing(z);
    std::vector<Real> du(dv_.size(), Real(0));
    Real dbeta = 0;
    const Real* x = dstate_.data();
    for (std::size_t d = 0; d < dk_.size(); ++d) {
      for (std::size_t e = 0; e < dv_.size(); ++e, ++x) {
        dk_[d] += *x * head_.beta * missing[e];
        du[e] += *x * head_.k[d];
      }
    }
    for (std::size_t e = 0; e < dv_.size(); ++e) {
      dbeta += du[e] * missing[e];
      dv_[e] = head_.beta * du[e];
    }
    std::size_t at = 0;
    for (std::size_t d = 0; d < dk_.size(); ++d) {
      for (std::size_t e = 0; e < dv_.size(); ++e, ++at) {
        dk_[d] -= z[at] * dv_[e];
        dstate_[at] -= head_.k[d] * dv_[e];
      }
    }
    return dbeta;
  }

  void bonus() {
    const auto scale = static_cast<Real>(head_.problem.scale);
    const Real weight = scale * head_.bonus_weight();
    Real sum = 0;
    for (std::size_t e = 0; e < dv_.size(); ++e) {
      sum += scale * head_.v[e] * dout_[e];
      dv_[e] += weight * dout_[e];
    }
    for (std::size_t d = 0; d < dk_.size(); ++d) {
      dq_[d] += head_.bonus[d] * head_.k[d] * sum;
      dk_[d] += head_.bonus[d] * head_.q[d] * sum;
      dbonus_[d] += head_.q[d] * head_.k[d] * sum;
    }
  }

  void token(std::int64_t t, const std::vector<Real>& before, const std::vector<Real>& after) {
    load(t);
    const bool reads_before = static_cast<bool>(head_.problem.bonus);
    queries(reads_before ? before : after);
    if (!reads_before) read_by_output();
    if (head_.problem.beta) {
      const Real dbeta = delta_values(before);
      if (gradients_.dbeta) write(&dbeta, gradients_.dbeta, {head_.batch, t, head_.head});
    } else {
      values();
    }
    std::size_t at = 0;
    for (std::size_t d = 0; d < dk_.size(); ++d) {
      for (std::size_t e = 0; e < dv_.size(); ++e, ++at) dlog_[d] += dstate_[at] * before[at];
      dlog_[d] *= head_.alpha[d];
    }
    head_.decay(dstate_);
    if (reads_before) {
      read_by_output();
      bonus();
    }
    if (head_.starts_at(t)) dstate_ = none_;
    write_rows(t);
    write_dlog(t);
  }

  void write_rows(std::int64_t t) {
    write(dq_.data(), gradients_.dq, {head_.batch, t, head_.head});
    write(dk_.data(), gradients_.dk, {head_.batch, t, head_.head});
    write(dv_.data(), gradients_.dv, {head_.batch, t, head_.head});
  }

  void write_dlog(std::int64_t t) {
    const ConstTensorView& log_decay = head_.problem.log_decay;
    if (!gradients_.dlog_decay || !log_decay) return;
    if (log_decay.geometry.num_axes == 4) return write(dlog_.data(), gradients_.dlog_decay, {head_.batch, t, head_.head});
    Real sum = 0;
    for (const Real one : dlog_) sum += one;
    if (log_decay.geometry.num_axes == 3)
      write(&sum, gradients_.dlog_decay, {head_.batch, t, head_.head});
    else
      dconstant_ += sum;
  }

  /// Every token reads the sum over its document, so X is the sum of scale q dout^T over it; the last document also leaves its state.
  void bidirectional() {
    const std::vector<Real> leaving = dstate_;
    for (std::int64_t first = 0; first < head_.num_tokens;) {
      const std::int64_t end = head_.document_end(first);
      const std::vector<Real> state = head_.document_sum(first, end);
      dstate_ = end == head_.num_tokens ? leaving : none_;
      for (std::int64_t t = first; t < end; ++t) {
        load(t);
        read_by_output();
      }
      for (std::int64_t t = first; t < end; ++t) {
        load(t);
        queries(state);
        values();
        write_rows(t);
      }
      first = end;
    }
  }

  Head<Real> head_;
  ConstTensorView dout_view_;
  const LinearGradients& gradients_;
  std::vector<Real> dstate_;      // X
  const std::vector<Real> none_;  // a state of zeros
  std::vector<Real> dout_, dq_, dk_, dv_, dlog_;
  std::vector<Real> dbonus_;
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
  if (gradients.dbeta) check_axes(who, "dbeta", gradients.dbeta.geometry, {batch, tokens, heads});
  if (gradients.dbonus) check_axes(who, "dbonus", gradients.dbonus.geometry, {heads, key_dim});
  if (gradients.dstate_in && !problem.causal) {
    throw Error(ErrorKind::argument,
                fmt::format("{}: dstate_in is given and causal is false, want neither state_in nor its gradient", who));
  }
  const bool constant = gradients.dlog_decay && gradients.dlog_decay.geometry.num_axes == 1;

  std::vector<Real> dconstants(static_cast<std::size_t>(batch * heads));
  std::vector<std::vector<Real>> dbonuses(static_cast<std::size_t>(batch * heads));
  parallel_for(batch * heads, num_threads, [&](std::int64_t item) {
    HeadBackward<Real> head(problem, dout, dstate_out, gradients, item / heads, item % heads);
    head.run();
    dconstants[static_cast<std::size_t>(item)] = head.dconstant();
    dbonuses[static_cast<std::size_t>(item)] = head.dbonus();
  });
  for (std::int64_t h = 0; h < heads; ++h) {
    Real dconstant = 0;
    std::vector<Real> dbonus(static_cast<std::size_t>(key_dim), Real(0));
    for (std::int64_t b = 0; b < batch; ++b) {
      const auto item = static_cast<std::size_t>(b * heads + h);
      dconstant += dconstants[item];
      for (std::size_t d = 0; d < dbonus.size(); ++d) dbonus[d] += dbonuses[item][d];
    }
    if (constant) write(&dconstant, gradients.dlog_decay, {h});
    if (gradients.dbonus) write(dbonus.data(), gradients.dbonus, {h});
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
