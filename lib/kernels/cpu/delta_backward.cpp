// delta_backward.cpp - delta kinds: gradients of a run of tokens, chunk by chunk from the last to the first.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <utility>
#include <vector>

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
/// A = scores(q, k), and G, y, u of DeltaChunk:
///
///     dU = A^T dO + K^ X          Z = (I + diag(beta) G)^-T dU          dR = diag(beta) Z
///     dv = dR     dbeta_t = z_t y_t     dG_ti = -dR_t u_i (i < t)     dA_ti = dO_t u_i (i <= t)
///     dq_t = exp(g_t) (dO S^T)_t + sum_(i<=t) dA_ti r(t,i) k_i
///     dk_t = row_t + column_t:
///       row_t    = -exp(g_t) (dR S^T)_t + sum_(i<t) dG_ti r(t,i) k_i
///       column_i = exp(g_C - g_i) (U X^T)_i + sum_(t>=i) dA_ti r(t,i) q_t + sum_(t>i) dG_ti r(t,i) k_t
///     gradient of S = diag(exp(g_C)) X + Q~^T dO - K~^T dR
///
/// -dR and dO lie behind each other as k and q do, so that one product serves both.
class DeltaGradients {
 public:
  DeltaGradients(const LinearBackwardArguments& arguments, std::int64_t batch, std::int64_t head, bool constant_decay)
      : a_(arguments),
        b_(batch),
        h_(head),
        constant_(constant_decay),
        chunk_(a_.k, a_.log_decay, a_.beta, workspace_),
        decay_gradient_(chunk_.decay().width(), key_dim_, workspace_) {
    for (float** rows : {&dq_, &row_, &column_, &leave_}) *rows = workspace_.take(chunk_tokens * key_dim_);
    for (float** rows : {&y_, &u_, &z_}) *rows = workspace_.take(chunk_tokens * value_dim_);
    enter_ = workspace_.take(2 * chunk_tokens * key_dim_);
    gradients_ = workspace_.take(2 * chunk_tokens * value_dim_);
    for (float** pairs : {&scores_, &dscores_, &dgram_}) *pairs = workspace_.take(chunk_tokens * chunk_tokens);
    for (float** states : {&dstate_, &transposed_}) *states = workspace_.take(std::max(key_dim_, chunk_tokens) * value_dim_);
    entering_ = workspace_.take(key_dim_ * value_dim_);
    dbeta_ = workspace_.take(chunk_tokens);
  }

  /// Writes all gradients but that of a constant decay, which it returns.
  double run() {
    load_state(a_.dleaving, b_, h_, key_dim_, value_dim_, dstate_);
    load_state(a_.state, b_, h_, key_dim_, value_dim_, entering_);
    sweep_back((num_tokens_ + chunk_tokens - 1) / chunk_tokens, key_dim_ * value_dim_, workspace_, entering_,
               [&](std::int64_t chunk, float* state) {
                 find_updates(chunk, state);
                 chunk_.advance(u_, value_dim_, state);
               },
               [&](std::int64_t chunk, const float* state) { chunk_backward(chunk, state); });
    return decay_gradient_.constant_sum();
  }

 private:
  /// Loads the chunk, but not its queries; y and u from the state that enters it.
  void find_updates(std::int64_t chunk, const float* state) {
    const std::int64_t first = chunk * chunk_tokens, count = std::min(chunk_tokens, num_tokens_ - first);
    chunk_.load(b_, h_, first, count);
    pack_rows(a_.v, b_, h_, first, count, 1, u_);
    tile().gemm(count, value_dim_, key_dim_, chunk_.entering(), key_dim_, 1, state, value_dim_, z_, value_dim_, false);
    for (std::int64_t x = 0; x < count * value_dim_; ++x) u_[x] -= z_[x];
    chunk_.solve(u_, y_, u_, value_dim_);
    a_.num_threads.note_progress();
  }

  void chunk_backward(std::int64_t index, const float* state) {
    find_updates(index, state);
    const std::int64_t first = index * chunk_tokens, count = chunk_.count();
    const ChunkDecay& decay = chunk_.decay();
    const float *q = chunk_.queries(), *k = chunk_.keys();
    float *dr = gradients_, *dout = gradients_ + count * value_dim_;
    chunk_.load_queries(a_.q, b_, h_, first, 1);
    pack_rows(a_.dout, b_, h_, first, count, a_.scale, dout);

    // dU, Z, dR = dv
    chunk_.scores(scores_);
    lower_transposed_product(scores_, dout, count, value_dim_, dr, false);
    tile().gemm(count, value_dim_, key_dim_, chunk_.leaving(), key_dim_, 1, dstate_, value_dim_, dr, value_dim_, true);
    chunk_.solve_transposed(dr, z_, dr, value_dim_);
    store_tokens(dr, a_.dv, b_, h_, first, count);
    for (std::int64_t t = 0; t < count; ++t) dbeta_[t] = tile().dot(z_ + t * value_dim_, y_ + t * value_dim_, value_dim_);
    if (a_.dbeta) store_tokens(dbeta_, a_.dbeta, b_, h_, first, count);
    tile().scale(-1, dr, count * value_dim_);

    // pairs of tokens, at first without (t, t), which has no decay
    transpose(u_, count, value_dim_, transposed_, chunk_tokens);  // (Dv, C)
    lower_outer(dout, transposed_, count, value_dim_, dscores_);
    lower_outer(dr, transposed_, count, value_dim_, dgram_);
    float diagonal[chunk_tokens];
    for (std::int64_t t = 0; t < count; ++t) {
      diagonal[t] = std::exchange(dscores_[t * chunk_tokens + t], 0.0f);
      dgram_[t * chunk_tokens + t] = 0;
    }
    for (float* rows : {dq_, row_, column_}) std::fill_n(rows, count * key_dim_, 0.0f);
    decay.add_rows(dscores_, k, dq_);
    decay.add_rows(dgram_, k, row_);
    decay.add_columns(dscores_, q, column_);
    decay.add_columns(dgram_, k, column_);

    // from the entering state, and through the leaving one
    transpose(state, key_dim_, value_dim_, transposed_, key_dim_);  // (Dv, Dk)
    tile().gemm(2 * count, key_dim_, value_dim_, gradients_, value_dim_, 1, transposed_, key_dim_, enter_, key_dim_, false);
    float *enter_k = enter_, *enter_q = enter_ + count * key_dim_;
    for (float* rows : {enter_k, enter_q}) decay.decay_queries(rows, rows);
    transpose(dstate_, key_dim_, value_dim_, transposed_, key_dim_);
    tile().gemm(count, key_dim_, value_dim_, u_, value_dim_, 1, transposed_, key_dim_, leave_, key_dim_, false);
    decay.decay_keys(leave_, leave_);

    const std::int64_t size = count * key_dim_;
    const bool wants_decay = a_.dlog_decay && decay.width() > 0;
    if (wants_decay) {
      decay_gradient_.passing(decay, state, dstate_, value_dim_);
      decay_gradient_.leaving(k, leave_, count);
    }
    if (wants_decay && decay.width() == 1) {
      decay_gradient_.entering(q, enter_q, k, enter_k);
      decay_gradient_.pairs(scores_, dscores_, 1);
      decay_gradient_.pairs(chunk_.minus_gram(), dgram_, -1);
    }
    for (std::int64_t x = 0; x < size; ++x) {
      dq_[x] += enter_q[x];
      row_[x] += enter_k[x];
      enter_k[x] = row_[x] - column_[x];
      row_[x] += column_[x] + leave_[x];
    }
    if (wants_decay && decay.width() > 1) decay_gradient_.entering(q, dq_, k, enter_k);
    if (wants_decay) decay_gradient_.store(decay, a_.dlog_decay, b_, h_, first, constant_);
    for (std::int64_t t = 0; t < count; ++t) {
      tile().axpy(diagonal[t], k + t * key_dim_, dq_ + t * key_dim_, key_dim_);
      tile().axpy(diagonal[t], q + t * key_dim_, row_ + t * key_dim_, key_dim_);
    }
    store_tokens(dq_, a_.dq, b_, h_, first, count);
    store_tokens(row_, a_.dk, b_, h_, first, count);

    // the gradient moves to the state that enters
    decay.decay_state(dstate_, value_dim_);
    tile().gemm(key_dim_, value_dim_, 2 * count, chunk_.entering(), 1, key_dim_, gradients_, value_dim_, dstate_, value_dim_, true);
  }

  const LinearBackwardArguments& a_;
  const std::int64_t b_, h_;
  const bool constant_;
  const std::int64_t num_tokens_ = a_.q.extent(1), key_dim_ = a_.q.extent(3), value_dim_ = a_.v.extent(3);
  Workspace workspace_;
  DeltaChunk chunk_;
  DecayGradient decay_gradient_;
  float *dq_ = nullptr, *row_ = nullptr, *column_ = nullptr, *leave_ = nullptr;  // (C, Dk)
  float* enter_ = nullptr;                                                       // (2 C, Dk): into k, behind it into q
  float *y_ = nullptr, *u_ = nullptr, *z_ = nullptr;                             // (C, Dv)
  float* gradients_ = nullptr;                                                   // (2 C, Dv): -dR, behind it dO
  float *scores_ = nullptr, *dscores_ = nullptr, *dgram_ = nullptr;              // (C, C)
  float *dstate_ = nullptr, *entering_ = nullptr, *transposed_ = nullptr;        // (Dk, Dv), the last also (Dv, Dk) or (Dv, C)
  float* dbeta_ = nullptr;                                                       // (C)
};

}  // namespace

void delta_backward(const LinearBackwardArguments& a) {
  const char* who = "linear_backward";
  const std::int64_t batch = a.q.extent(0), tokens = a.q.extent(1), heads = a.q.extent(2), key_dim = a.q.extent(3);
  const std::int64_t value_dim = a.v.extent(3);
  check_view(who, "q", a.q, batch, tokens, heads, key_dim, false);
  check_view(who, "k", a.k, batch, tokens, heads, key_dim, false);
  check_view(who, "v", a.v, batch, tokens, heads, value_dim, false);
  check_view(who, "dout", a.dout, batch, tokens, heads, value_dim, false);
  check_log_decay(who, a.log_decay, batch, tokens, heads, key_dim);
  check_view(who, "beta", a.beta, batch, tokens, heads, 1, true);
  if (a.state) check_view(who, "state", a.state, batch, heads, key_dim, value_dim, true);
  if (a.dleaving) check_view(who, "dleaving", a.dleaving, batch, heads, key_dim, value_dim, true);
  check_view(who, "dq", a.dq, batch, tokens, heads, key_dim, false);
  check_view(who, "dk", a.dk, batch, tokens, heads, key_dim, false);
  check_view(who, "dv", a.dv, batch, tokens, heads, value_dim, false);
  if (a.dbeta) check_view(who, "dbeta", a.dbeta, batch, tokens, heads, 1, true);
  if (a.dlog_decay && !a.log_decay)
    throw Error(ErrorKind::argument, "linear_backward: dlog_decay is given and log_decay is not, want both");
  const bool constant = a.dlog_decay && is_constant(a.log_decay, a.dlog_decay, batch, tokens);
  if (a.dlog_decay) {
    const std::int64_t width = constant ? 1 : a.log_decay.extent(3);
    check_view(who, "dlog_decay", a.dlog_decay, constant ? 1 : batch, constant ? 1 : tokens, heads, width, true);
  }

  std::vector<double> shares(static_cast<std::size_t>(batch * heads));
  parallel_for(batch * heads, a.num_threads, [&](std::int64_t item) {
    shares[static_cast<std::size_t>(item)] = DeltaGradients(a, item / heads, item % heads, constant).run();
  });
  for (std::int64_t h = 0; h < heads && constant; ++h) {
    double sum = 0;
    for (std::int64_t b = 0; b < batch; ++b) sum += shares[static_cast<std::size_t>(b * heads + h)];
    float* to = row_at(a.dlog_decay, 0, 0, h);
    *to = static_cast<float>(a.add_constant ? *to + sum : sum);
  }
}

}  // namespace cpu
SEQCCL_END
