// delta_backward.cpp - delta kinds: gradients of a run of tokens, chunk by chunk from the last to the first.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <utility>
#include <vector>

#include "../parallel.hpp"
#include "delta.hpp"
#include "delta_chunk.hpp"
#include "linear_arguments.hpp"
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
    for (RowsOut* rows : {&dq_, &row_, &column_, &leave_}) *rows = workspace_.rows(chunk_tokens, key_dim_);
    for (RowsOut* rows : {&y_, &u_, &z_}) *rows = workspace_.rows(chunk_tokens, value_dim_);
    enter_ = workspace_.rows(2 * chunk_tokens, key_dim_);
    gradients_ = workspace_.rows(2 * chunk_tokens, value_dim_);
    for (RowsOut* pairs : {&dscores_, &dgram_}) *pairs = workspace_.pairs();
    for (RowsOut* states : {&dstate_, &entering_}) *states = workspace_.rows(key_dim_, value_dim_);
    turned_state_ = workspace_.turned(value_dim_, key_dim_);
    turned_updates_ = workspace_.turned(value_dim_, chunk_tokens);
    dbeta_ = {workspace_.take(chunk_tokens), 1};
  }

  /// Writes all gradients but that of a constant decay, which it returns.
  double run() {
    load_state(a_.dleaving, b_, h_, key_dim_, value_dim_, dstate_);
    load_state(a_.state, b_, h_, key_dim_, value_dim_, entering_);
    sweep_back((num_tokens_ + chunk_tokens - 1) / chunk_tokens, key_dim_, workspace_, entering_,
               [&](std::int64_t chunk, Rows from, RowsOut to) {
                 find_updates(chunk, from, nullptr);
                 chunk_.advance(u_, value_dim_, from, to);
               },
               [&](std::int64_t chunk, Rows state) { chunk_backward(chunk, state); });
    return decay_gradient_.constant_sum();
  }

 private:
  /// Loads the chunk, with its queries if given; y and u from the state that enters it.
  void find_updates(std::int64_t chunk, Rows state, const ConstTensorView* q) {
    const std::int64_t first = chunk * chunk_tokens, count = std::min(chunk_tokens, num_tokens_ - first);
    chunk_.load(b_, h_, first, count, q, 1);
    load_tokens(a_.v, b_, h_, first, count, 1, u_);
    product(count, value_dim_, key_dim_, chunk_.entering(), state, z_, false);
    row_ops().combine(count, value_dim_, -1, z_, 1, u_);
    chunk_.solve(u_, y_, u_, value_dim_);
    a_.num_threads.note_progress();
  }

  void chunk_backward(std::int64_t index, Rows state) {
    find_updates(index, state, &a_.q);
    const RowOps& ops = row_ops();
    const std::int64_t first = index * chunk_tokens, count = chunk_.count();
    const ChunkDecay& decay = chunk_.decay();
    const Rows q = chunk_.queries(), k = chunk_.keys();
    const RowsOut dr = gradients_, dout = gradients_ + count;
    load_tokens(a_.dout, b_, h_, first, count, a_.scale, dout);

    // dU, Z, dR = dv
    lower_turned_product(chunk_.scores(), dout, count, value_dim_, dr, false);
    product(count, value_dim_, key_dim_, chunk_.leaving(), dstate_, dr, true);
    chunk_.solve_transposed(dr, z_, dr, value_dim_);
    store_tokens(dr, a_.dv, b_, h_, first, count);
    ops.dots(count, value_dim_, z_, y_, dbeta_.data);
    if (a_.dbeta) store_tokens(dbeta_, a_.dbeta, b_, h_, first, count);
    ops.scale(count, value_dim_, minus_ones, dr, dr);

    // pairs of tokens, at first without (t, t), which has no decay
    turn(count, value_dim_, u_, turned_updates_);
    lower_outer(dout, turned_updates_, count, value_dim_, nullptr, dscores_);
    lower_outer(dr, turned_updates_, count, value_dim_, nullptr, dgram_);
    float diagonal[chunk_tokens];
    for (std::int64_t t = 0; t < count; ++t) {
      diagonal[t] = std::exchange(dscores_.data[t * dscores_.row + t], 0.0F);
      dgram_.data[t * dgram_.row + t] = 0;
    }
    for (const RowsOut rows : {dq_, row_, column_}) std::fill_n(rows.data, count * rows.row, 0.0F);
    decay.add_pairs(dscores_, k, dq_, q, column_);
    decay.add_pairs(dgram_, k, row_, k, column_);

    // from the entering state, and through the leaving one
    turn(key_dim_, value_dim_, state, turned_state_);
    product(2 * count, key_dim_, value_dim_, gradients_, turned_state_, enter_, false);
    const RowsOut enter_k = enter_, enter_q = enter_ + count;
    for (const RowsOut rows : {enter_k, enter_q}) (void)decay.decay_queries(rows, rows);
    turn(key_dim_, value_dim_, dstate_, turned_state_);
    product(count, key_dim_, value_dim_, u_, turned_state_, leave_, false);
    (void)decay.decay_keys(leave_, leave_);

    const bool wants_decay = a_.dlog_decay && decay.width() > 0;
    if (wants_decay) decay_gradient_.passing(decay, state, dstate_, value_dim_);
    if (wants_decay && decay.width() == 1) {
      decay_gradient_.rows(decay, count, k, leave_, q, enter_q, enter_k, 1);
      decay_gradient_.pairs(chunk_.scores(), dscores_, 1);
      decay_gradient_.pairs(chunk_.gram(), dgram_, 1);
    }
    ops.combine(count, key_dim_, 1, enter_q, 1, dq_);
    ops.combine(count, key_dim_, 1, row_, 1, enter_k);  // row_t of dk
    if (wants_decay && decay.width() > 1) {
      std::copy_n(enter_k.data, count * enter_k.row, row_.data);
      ops.combine(count, key_dim_, -1, column_, 1, row_);
      decay_gradient_.rows(decay, count, k, leave_, q, dq_, row_, 1);
    }
    if (wants_decay) decay_gradient_.store(decay, a_.dlog_decay, b_, h_, first, constant_);
    for (const RowsOut rows : {column_, leave_}) ops.combine(count, key_dim_, 1, rows, 1, enter_k);
    ops.scale_add(count, key_dim_, diagonal, k, dq_);
    ops.scale_add(count, key_dim_, diagonal, q, enter_k);
    store_tokens(dq_, a_.dq, b_, h_, first, count);
    store_tokens(enter_k, a_.dk, b_, h_, first, count);

    // the gradient moves to the state that enters
    decay.advance_state(chunk_.entering(), gradients_, 2 * count, value_dim_, dstate_, dstate_);
  }

  const LinearBackwardArguments& a_;
  const std::int64_t b_, h_;
  const bool constant_;
  const std::int64_t num_tokens_ = a_.q.extent(1), key_dim_ = a_.q.extent(3), value_dim_ = a_.v.extent(3);
  Workspace workspace_;
  DeltaChunk chunk_;
  DecayGradient decay_gradient_;
  RowsOut dq_{}, row_{}, column_{}, leave_{};  // (C, Dk)
  RowsOut enter_{};                            // (2 C, Dk): into k, behind it into q
  RowsOut y_{}, u_{}, z_{};                    // (C, Dv)
  RowsOut gradients_{};                        // (2 C, Dv): -dR, behind it dO
  RowsOut dscores_{}, dgram_{};                // (C, C)
  RowsOut dstate_{}, entering_{};              // (Dk, Dv)
  RowsOut turned_state_{}, turned_updates_{};  // (Dv, Dk) (Dv, C)
  RowsOut dbeta_{};                            // (C, 1)
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
