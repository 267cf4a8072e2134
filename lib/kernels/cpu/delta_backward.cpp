// delta_backward.cpp - delta kinds: gradients of a run of tokens, chunk by chunk from the last to the first.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <utility>

#include "../parallel.hpp"
#include "delta.hpp"
#include "delta_chunk.hpp"
#include "linear_sweep.hpp"
#include "pack.hpp"
#include "seqccl/error.hpp"

SEQCCL_BEGIN
namespace cpu {
namespace {

using namespace linear;

/// The gradients of one batch and head. With S the state that enters a chunk, X the gradient of the state that leaves it, dO = scale dout,
/// A = scores(q, k), G the chunk's strict Gram matrix, y_t = v_t - k~_t^T S - sum_(i<t) G_ti u_i, u_t = beta_t y_t:
///
///     dU = A^T dO + K^ X          Z = (I + diag(beta) G)^-T dU          dR = diag(beta) Z
///     dv = dR     dbeta_t = z_t y_t     dG_ti = -dR_t u_i (i < t)     dA_ti = dO_t u_i (i <= t)
///     dq_t = exp(g_t) (dO S^T)_t + sum_(i<=t) dA_ti r(t,i) k_i
///     dk_t = -exp(g_t) (dR S^T)_t + sum_(i<t) dG_ti r(t,i) k_i
///            + exp(g_C - g_t) (U X^T)_t + sum_(s>=t) dA_st r(s,t) q_s + sum_(s>t) dG_st r(s,t) k_s
///     gradient of S = diag(exp g_C) X + Q~^T dO - K~^T dR
class DeltaGradients {
 public:
  DeltaGradients(const LinearBackwardArguments& arguments, std::int64_t batch, std::int64_t head)
      : a_(arguments),
        b_(batch),
        h_(head),
        chunk_(a_.k, a_.log_decay, a_.beta, workspace_),
        decay_gradient_(chunk_.decay().width(), key_dim_, workspace_) {
    for (float** rows : {&q_, &dq_, &row_, &column_, &enter_q_, &enter_k_, &leave_}) *rows = workspace_.take(chunk_tokens * key_dim_);
    for (float** rows : {&y_, &u_, &du_, &dout_}) *rows = workspace_.take(chunk_tokens * value_dim_);
    for (float** pairs : {&scores_, &dscores_, &dgram_}) *pairs = workspace_.take(chunk_tokens * chunk_tokens);
    for (float** states : {&dstate_, &transposed_}) *states = workspace_.take(std::max(key_dim_, chunk_tokens) * value_dim_);
    entering_ = workspace_.take(key_dim_ * value_dim_);
    dbeta_ = workspace_.take(chunk_tokens);
  }

  void run() {
    const std::int64_t num_chunks = (num_tokens_ + chunk_tokens - 1) / chunk_tokens;
    load_state(a_.dleaving, b_, h_, key_dim_, value_dim_, dstate_);
    load_state(a_.state, b_, h_, key_dim_, value_dim_, entering_);
    sweep_back(
        num_chunks, key_dim_ * value_dim_, workspace_, entering_,
        [&](std::int64_t chunk, float* state) {
          find_updates(chunk, state);
          chunk_.advance(u_, value_dim_, state);
        },
        [&](std::int64_t chunk, const float* state) { chunk_backward(chunk, state); });
  }

 private:
  /// Loads the chunk; y and u from the state that enters it.
  void find_updates(std::int64_t chunk, const float* state) {
    const std::int64_t first = chunk * chunk_tokens, count = std::min(chunk_tokens, num_tokens_ - first);
    chunk_.load(b_, h_, first, count);
    pack_rows(a_.v, b_, h_, first, count, 1, y_);
    chunk_.subtract_entering(state, value_dim_, y_);
    chunk_.solve(y_, u_, value_dim_);
  }

  /// to (C, Dk) = rows (C, Dv) state^T.
  void times_transposed(const float* rows, const float* state, float* to) {
    transpose(state, key_dim_, value_dim_, transposed_, key_dim_);  // (Dv, Dk)
    tile().gemm(chunk_.count(), key_dim_, value_dim_, rows, value_dim_, 1, transposed_, key_dim_, to, key_dim_, false);
  }
  /// pairs_ti = factor x_t . u_i for i <= t.
  void pairs_with_updates(const float* x, float* pairs) {
    transpose(u_, chunk_.count(), value_dim_, transposed_, chunk_tokens);  // (Dv, C)
    lower_outer(x, transposed_, chunk_.count(), value_dim_, pairs);
  }

  void chunk_backward(std::int64_t index, const float* state) {
    find_updates(index, state);
    const std::int64_t first = index * chunk_tokens, count = chunk_.count();
    const ChunkDecay& decay = chunk_.decay();
    pack_rows(a_.q, b_, h_, first, count, 1, q_);
    pack_rows(a_.dout, b_, h_, first, count, a_.scale, dout_);

    // dU, Z, dR = dv
    decay.scores(q_, chunk_.keys(), scores_);
    lower_transposed_product(scores_, dout_, count, value_dim_, du_, false);
    tile().gemm(count, value_dim_, key_dim_, chunk_.leaving_keys(), key_dim_, 1, dstate_, value_dim_, du_, value_dim_, true);
    chunk_.solve_transposed(du_, value_dim_);
    for (std::int64_t t = 0; t < count; ++t) {
      dbeta_[t] = tile().dot(du_ + t * value_dim_, y_ + t * value_dim_, value_dim_);
      tile().scale(chunk_.beta()[t], du_ + t * value_dim_, value_dim_);
    }
    const float* dr = du_;
    store_tokens(dr, a_.dv, b_, h_, first, count);
    if (a_.dbeta) store_tokens(dbeta_, a_.dbeta, b_, h_, first, count);

    // pairs, without (t, t) at first: those have no decay
    pairs_with_updates(dout_, dscores_);
    pairs_with_updates(dr, dgram_);
    float diagonal[chunk_tokens];
    for (std::int64_t t = 0; t < count; ++t) {
      diagonal[t] = std::exchange(dscores_[t * chunk_tokens + t], 0.0f);
      dgram_[t * chunk_tokens + t] = 0;
      for (std::int64_t i = 0; i < t; ++i) dgram_[t * chunk_tokens + i] = -dgram_[t * chunk_tokens + i];
    }
    for (float* rows : {dq_, row_, column_}) std::fill_n(rows, count * key_dim_, 0.0f);
    decay.add_rows(dscores_, chunk_.keys(), dq_);
    decay.add_rows(dgram_, chunk_.keys(), row_);
    decay.add_columns(dscores_, q_, column_);
    decay.add_columns(dgram_, chunk_.keys(), column_);

    // from the entering state, and through the leaving one
    times_transposed(dout_, state, enter_q_);
    decay.decay_queries(enter_q_, enter_q_);
    times_transposed(dr, state, enter_k_);
    decay.decay_queries(enter_k_, enter_k_);
    tile().scale(-1, enter_k_, count * key_dim_);
    times_transposed(u_, dstate_, leave_);
    decay.decay_keys(leave_, leave_);

    if (a_.dlog_decay) decay_backward(first, state);
    for (std::int64_t t = 0; t < count; ++t) {
      tile().axpy(diagonal[t], chunk_.keys() + t * key_dim_, dq_ + t * key_dim_, key_dim_);
      tile().axpy(diagonal[t], q_ + t * key_dim_, column_ + t * key_dim_, key_dim_);
    }
    tile().axpy(1, enter_q_, dq_, count * key_dim_);
    for (const float* part : {static_cast<const float*>(column_), static_cast<const float*>(enter_k_), static_cast<const float*>(leave_)})
      tile().axpy(1, part, row_, count * key_dim_);
    store_tokens(dq_, a_.dq, b_, h_, first, count);
    store_tokens(row_, a_.dk, b_, h_, first, count);

    // the gradient moves to the state that enters
    chunk_.retreat(dr, value_dim_, dstate_);
    tile().gemm(key_dim_, value_dim_, count, decay.decay_queries(q_, q_), 1, key_dim_, dout_, value_dim_, dstate_, value_dim_, true);
  }

  void decay_backward(std::int64_t first, const float* state) {
    decay_gradient_.begin(chunk_.count());
    decay_gradient_.add_passing(chunk_.decay(), state, dstate_, value_dim_);
    decay_gradient_.add_leaving(chunk_.keys(), leave_);
    decay_gradient_.add_entering(q_, enter_q_, 1);
    decay_gradient_.add_entering(chunk_.keys(), enter_k_, 1);
    if (chunk_.decay().width() == 1) {
      decay_gradient_.add_pairs(scores_, dscores_, 1);
      decay_gradient_.add_pairs(chunk_.minus_gram(), dgram_, -1);
    } else {
      decay_gradient_.add_entering(q_, dq_, 1);
      decay_gradient_.add_entering(chunk_.keys(), row_, 1);
      decay_gradient_.add_entering(chunk_.keys(), column_, -1);
    }
    store_tokens(decay_gradient_.finish(chunk_.decay().logs()), a_.dlog_decay, b_, h_, first, chunk_.count());
  }

  const LinearBackwardArguments& a_;
  const std::int64_t b_, h_;
  const std::int64_t num_tokens_ = a_.q.extent(1), key_dim_ = a_.q.extent(3), value_dim_ = a_.v.extent(3);
  Workspace workspace_;
  DeltaChunk chunk_;
  DecayGradient decay_gradient_;
  float *q_ = nullptr, *dq_ = nullptr, *row_ = nullptr, *column_ = nullptr;  // (C, Dk)
  float *enter_q_ = nullptr, *enter_k_ = nullptr, *leave_ = nullptr;         // (C, Dk)
  float *y_ = nullptr, *u_ = nullptr, *du_ = nullptr, *dout_ = nullptr;      // (C, Dv)
  float *scores_ = nullptr, *dscores_ = nullptr, *dgram_ = nullptr;          // (C, C)
  float *dstate_ = nullptr, *entering_ = nullptr, *transposed_ = nullptr;    // (Dk, Dv), the last also (Dv, Dk) or (Dv, C)
  float* dbeta_ = nullptr;                                                   // (C)
};

}  // namespace

void delta_backward(const LinearBackwardArguments& a) {
  const char* who = "linear_backward";
  const std::int64_t batch = a.q.extent(0), tokens = a.q.extent(1), heads = a.q.extent(2), key_dim = a.q.extent(3);
  const std::int64_t value_dim = a.v.extent(3);
  for (const auto& [name, view] : {std::pair{"q", a.q}, {"k", a.k}, {"dq", ConstTensorView(a.dq)}, {"dk", ConstTensorView(a.dk)}})
    check_view(who, name, view, batch, tokens, heads, key_dim, false);
  for (const auto& [name, view] : {std::pair{"v", a.v}, {"dout", a.dout}, {"dv", ConstTensorView(a.dv)}})
    check_view(who, name, view, batch, tokens, heads, value_dim, false);
  check_log_decay(who, a.log_decay, batch, tokens, heads, key_dim);
  check_view(who, "beta", a.beta, batch, tokens, heads, 1, true);
  if (a.dbeta) check_view(who, "dbeta", a.dbeta, batch, tokens, heads, 1, true);
  if (a.dlog_decay && !a.log_decay)
    throw Error(ErrorKind::argument, "linear_backward: dlog_decay is given and log_decay is not, want both");
  if (a.dlog_decay) check_view(who, "dlog_decay", a.dlog_decay, batch, tokens, heads, a.log_decay.extent(3), true);
  if (a.state) check_view(who, "state", a.state, batch, heads, key_dim, value_dim, true);
  if (a.dleaving) check_view(who, "dleaving", a.dleaving, batch, heads, key_dim, value_dim, true);
  parallel_for(batch * heads, a.num_threads, [&](std::int64_t item) { DeltaGradients(a, item / heads, item % heads).run(); });
}

}  // namespace cpu
SEQCCL_END
