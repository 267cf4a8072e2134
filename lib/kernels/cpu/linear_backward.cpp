// linear_backward.cpp - gradients of a run of tokens: states forward over the chunks, gradients back from the last chunk to the first.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <utility>
#include <vector>

#include "../parallel.hpp"
#include "delta.hpp"
#include "linear_arguments.hpp"
#include "linear_bonus.hpp"
#include "linear_sweep.hpp"
#include "seqccl/error.hpp"
#include "seqccl/kernels.hpp"

SEQCCL_BEGIN
namespace cpu {
namespace {

using namespace linear;

/// The gradients of one batch and head. With S the state that enters a chunk, X the gradient of the state that leaves it,
/// dO = scale dout, A = scores(q, k), dA = lower(dO v^T), k^_i = exp(g_C - g_i) k_i, q~_t = exp(g_t) q_t:
///
///     dv = k^ X + A^T dO
///     dq_t = enter_t + sum_(i<=t) dA_ti r(t,i) k_i        enter_t = exp(g_t) (dO S^T)_t
///     dk_i = leave_i + sum_(t>=i) dA_ti r(t,i) q_t        leave_i = exp(g_C - g_i) (v X^T)_i
///     gradient of S = diag(exp(g_C)) X + q~^T dO
///
/// dlog_decay: DecayGradient. The pairs of a scalar gate are A_ti dA_ti themselves; those of a vector gate are never formed for each d, so
/// there a running sum of q dq - k dk does it, over the pairs of one chunk. The pairs (t, t) have no decay and stay out of it: under
/// strong decay they would leave their rounding errors.
///
/// With a bonus u all this holds with q, dO, dq one token further on, and with s_t = v_t . dO_t each token adds to its own
///
///     dq += s u k    dk += s u q    du += s q k    dv += (sum_d q_d u_d k_d) dO        and the first has dq += S dO
class HeadGradients {
 public:
  HeadGradients(const LinearBackwardArguments& arguments, std::int64_t batch, std::int64_t head, bool constant_decay)
      : a_(arguments),
        b_(batch),
        h_(head),
        constant_(constant_decay),
        decay_(a_.log_decay, key_dim_, workspace_),
        decay_gradient_(decay_.width(), key_dim_, workspace_),
        bonus_(a_.bonus, h_, key_dim_, workspace_) {
    for (RowsOut* rows : {&q_rows_, &k_, &keys_, &dq_, &dk_, &leave_}) *rows = workspace_.rows(chunk_tokens + 1, key_dim_);
    for (RowsOut* rows : {&v_, &dout_rows_, &dv_}) *rows = workspace_.rows(chunk_tokens + 1, value_dim_);
    q_ = q_rows_ + shift_;
    dout_ = dout_rows_ + shift_;
    for (RowsOut* pairs : {&scores_, &dscores_}) *pairs = workspace_.pairs();
    for (RowsOut* states : {&dstate_, &entering_}) *states = workspace_.rows(key_dim_, value_dim_);
    turned_state_ = workspace_.turned(value_dim_, key_dim_);
    turned_values_ = workspace_.turned(value_dim_, chunk_tokens);
    if (shift_ == 0) return;
    carry_ = workspace_.rows(1, key_dim_);
    dbonus_ = workspace_.take<double>(key_dim_);
    std::fill_n(carry_.data, carry_.row, 0.0F);
    std::fill_n(dbonus_, key_dim_, 0.0);
  }

  /// Writes dq, dk, dv and dlog_decay, and what is summed over tokens: shares[0] = dlog_decay of a constant decay, then dbonus.
  void run(double* shares) {
    if (num_chunks_ == 0) return;
    load_state(a_.dleaving, b_, h_, key_dim_, value_dim_, dstate_);
    load_state(a_.state, b_, h_, key_dim_, value_dim_, entering_);
    sweep_back(
        num_chunks_, key_dim_, workspace_, entering_, [&](std::int64_t chunk, Rows from, RowsOut to) { advance(chunk, from, to); },
        [&](std::int64_t chunk, Rows state) { chunk_backward(chunk, state); });
    shares[0] = decay_gradient_.constant_sum();
    if (shift_ == 0) return;
    first_reader();
    std::copy_n(dbonus_, key_dim_, shares + 1);
  }

 private:
  [[nodiscard]] std::int64_t count_of(std::int64_t chunk) const { return std::min(chunk_tokens, num_tokens_ - chunk * chunk_tokens); }

  void advance(std::int64_t chunk, Rows from, RowsOut to) {
    const std::int64_t first = chunk * chunk_tokens, count = count_of(chunk);
    decay_.load(b_, h_, first, count, {.keys = true});
    load_tokens(a_.k, b_, h_, first, count, 1, k_);
    load_tokens(a_.v, b_, h_, first, count, 1, v_);
    decay_.advance_state(decay_.decay_keys(k_, k_), v_, count, value_dim_, from, to);
    a_.num_threads.note_progress();
  }

  /// `state` enters the chunk.
  void chunk_backward(std::int64_t chunk, Rows state) {
    const std::int64_t first = chunk * chunk_tokens, count = count_of(chunk);
    decay_.load(b_, h_, first, count, {.queries = true, .keys = true, .pairs = true});
    load_readers(a_.q, b_, h_, first, count, shift_, 1, q_rows_);
    load_tokens(a_.k, b_, h_, first, count, 1, k_);
    load_tokens(a_.v, b_, h_, first, count, 1, v_);
    load_readers(a_.dout, b_, h_, first, count, shift_, a_.scale, dout_rows_);

    // dv
    const Scores scores[] = {{q_, scores_}};
    decay_.scores(k_, scores);
    lower_turned_product(scores_, dout_, count, value_dim_, dv_, false);
    product(count, value_dim_, key_dim_, decay_.decay_keys(k_, keys_), dstate_, dv_, true);

    turn(count, value_dim_, v_, turned_values_);
    lower_outer(dout_, turned_values_, count, value_dim_, nullptr, dscores_);
    if (decay_.width() > 1)
      vector_keys_and_queries(first, count, state);
    else
      keys_and_queries(first, count, state);
    if (shift_ == 1) bonus_backward(count);
    store_tokens(dq_, a_.dq, b_, h_, first + shift_, num_readers(first, count, num_tokens_, shift_));
    store_tokens(dk_, a_.dk, b_, h_, first, count);
    store_tokens(dv_, a_.dv, b_, h_, first, count);

    // the gradient moves to the state that enters
    decay_.advance_state(decay_.decay_queries(q_, q_), dout_, count, value_dim_, dstate_, dstate_);
    a_.num_threads.note_progress();
  }

  /// dq = enter and leave = leave_, for a start.
  void through_states(std::int64_t count, Rows state, RowsOut leave) {
    turn(key_dim_, value_dim_, state, turned_state_);
    product(count, key_dim_, value_dim_, dout_, turned_state_, dq_, false);
    decay_.decay_queries(dq_, dq_);
    turn(key_dim_, value_dim_, dstate_, turned_state_);
    product(count, key_dim_, value_dim_, v_, turned_state_, leave, false);
    decay_.decay_keys(leave, leave);
  }

  /// dq, dk and dlog_decay of a scalar gate, or of none.
  void keys_and_queries(std::int64_t first, std::int64_t count, Rows state) {
    through_states(count, state, dk_);
    if (a_.dlog_decay && decay_.width() == 1) {
      decay_gradient_.passing(decay_, state, dstate_, value_dim_);
      decay_gradient_.rows(decay_, count, k_, dk_, q_, dq_, {}, 1);
      decay_gradient_.pairs(scores_, dscores_, 1);
      decay_gradient_.store(decay_, a_.dlog_decay, b_, h_, first, constant_);
    }
    decay_.add_pairs(dscores_, k_, dq_, q_, dk_);
  }

  /// The same of a vector gate. Its running sum must not see the pairs (t, t).
  void vector_keys_and_queries(std::int64_t first, std::int64_t count, Rows state) {
    through_states(count, state, leave_);
    float diagonal[chunk_tokens];
    for (std::int64_t t = 0; t < count; ++t) diagonal[t] = std::exchange(dscores_.data[t * dscores_.row + t], 0.0F);
    std::fill_n(dk_.data, count * dk_.row, 0.0F);
    decay_.add_pairs(dscores_, k_, dq_, q_, dk_);
    if (a_.dlog_decay) {
      decay_gradient_.passing(decay_, state, dstate_, value_dim_);
      decay_gradient_.rows(decay_, count, k_, leave_, q_, dq_, dk_, -1);
      decay_gradient_.store(decay_, a_.dlog_decay, b_, h_, first, constant_);
    }
    row_ops().scale_add(count, key_dim_, diagonal, k_, dq_);
    row_ops().scale_add(count, key_dim_, diagonal, q_, dk_);
    row_ops().combine(count, key_dim_, 1, leave_, 1, dk_);
  }

  /// What the bonus adds to dq, dk, dv of a chunk. dq of its first token belongs to the chunk before, which comes next.
  void bonus_backward(std::int64_t count) {
    float weights[chunk_tokens], s[chunk_tokens];
    bonus_.weights(q_rows_, k_, count, weights);
    row_ops().dots(count, value_dim_, v_, dout_rows_, s);
    row_ops().scale_add(count, value_dim_, weights, dout_rows_, dv_);
    bonus_.backward(q_rows_, k_, s, count, dq_, dk_, carry_.data, dbonus_);
  }

  /// dq of the run's first token, which reads the entering state.
  void first_reader() {
    turn(key_dim_, value_dim_, entering_, turned_state_);  // (Dv, Dk)
    product(1, key_dim_, value_dim_, dout_rows_, turned_state_, carry_, true);
    store_tokens(carry_, a_.dq, b_, h_, 0, 1);
  }

  const LinearBackwardArguments& a_;
  const std::int64_t b_, h_;
  const bool constant_;
  const std::int64_t num_tokens_ = a_.q.extent(1), key_dim_ = a_.q.extent(3), value_dim_ = a_.v.extent(3);
  const std::int64_t num_chunks_ = (num_tokens_ + chunk_tokens - 1) / chunk_tokens;
  Workspace workspace_;
  ChunkDecay decay_;
  DecayGradient decay_gradient_;
  const std::int64_t shift_ = a_.bonus ? 1 : 0;  // see load_readers
  const Bonus bonus_;
  double* dbonus_ = nullptr;                            // (Dk)
  RowsOut carry_{};                                     // (Dk): what the bonus of the token behind the chunk adds to its dq
  RowsOut q_rows_{}, dout_rows_{};                      // (C + shift, Dk) (C + shift, Dv): of the tokens
  RowsOut q_{}, k_{}, keys_{}, dq_{}, dk_{}, leave_{};  // (C, Dk)
  RowsOut v_{}, dout_{}, dv_{};                         // (C, Dv)
  RowsOut scores_{}, dscores_{};                        // (C, C)
  RowsOut dstate_{}, entering_{};                       // (Dk, Dv)
  RowsOut turned_state_{}, turned_values_{};            // (Dv, Dk) (Dv, C)
};

}  // namespace

void linear_backward(const LinearBackwardArguments& a) {
  const char* who = "linear_backward";
  if (a.beta && a.bonus) throw Error(ErrorKind::argument, "linear_backward: beta and bonus are both given, want one kind: delta or RWKV6");
  if (a.beta) return delta_backward(a);
  const std::int64_t batch = a.q.extent(0), tokens = a.q.extent(1), heads = a.q.extent(2), key_dim = a.q.extent(3);
  const std::int64_t value_dim = a.v.extent(3);
  check_view(who, "q", a.q, batch, tokens, heads, key_dim, false);
  check_view(who, "k", a.k, batch, tokens, heads, key_dim, false);
  check_view(who, "v", a.v, batch, tokens, heads, value_dim, false);
  check_view(who, "dout", a.dout, batch, tokens, heads, value_dim, false);
  check_log_decay(who, a.log_decay, batch, tokens, heads, key_dim);
  check_bonus(who, a.bonus, batch, tokens, heads, key_dim);
  if (a.dbonus && !a.bonus) throw Error(ErrorKind::argument, "linear_backward: dbonus is given and bonus is not, want both");
  if (a.dbonus) check_view(who, "dbonus", a.dbonus, 1, 1, heads, key_dim, true);
  if (a.state) check_view(who, "state", a.state, batch, heads, key_dim, value_dim, true);
  if (a.dleaving) check_view(who, "dleaving", a.dleaving, batch, heads, key_dim, value_dim, true);
  check_view(who, "dq", a.dq, batch, tokens, heads, key_dim, false);
  check_view(who, "dk", a.dk, batch, tokens, heads, key_dim, false);
  check_view(who, "dv", a.dv, batch, tokens, heads, value_dim, false);

  if (a.dlog_decay && !a.log_decay && tokens > 0)  // an empty run's may have no address
    throw Error(ErrorKind::argument, "linear_backward: dlog_decay is given and log_decay is not, want both");
  const bool constant = a.dlog_decay && is_constant(a.log_decay, a.dlog_decay, batch, tokens);
  if (a.dlog_decay && constant) check_view(who, "dlog_decay", a.dlog_decay, 1, 1, heads, 1, true);
  if (a.dlog_decay && !constant) {
    check_view(who, "dlog_decay", a.dlog_decay, batch, tokens, heads, a.log_decay ? a.log_decay.extent(3) : a.dlog_decay.extent(3), true);
  }

  const std::int64_t num_shares = a.bonus ? 1 + key_dim : 1;
  std::vector<double> shares(static_cast<std::size_t>(batch * heads * num_shares));
  parallel_for(batch * heads, a.num_threads,
               [&](std::int64_t item) { HeadGradients(a, item / heads, item % heads, constant).run(shares.data() + item * num_shares); });
  const auto store = [&](const TensorView& to, std::int64_t first) {  // summed over the batch
    for (std::int64_t h = 0; h < heads; ++h) {
      float* row = to.as<float>() + h * to.stride(2);
      for (std::int64_t d = 0; d < to.extent(3); ++d) {
        double sum = 0;
        for (std::int64_t b = 0; b < batch; ++b) sum += shares[static_cast<std::size_t>((b * heads + h) * num_shares + first + d)];
        row[d] = static_cast<float>(a.add_constant ? row[d] + sum : sum);
      }
    }
  };
  if (constant) store(a.dlog_decay, 0);
  if (a.dbonus) store(a.dbonus, 1);
}

}  // namespace cpu
SEQCCL_END
