// linear_state.cpp - what a run of tokens does to the state, and what its outputs do to the state's gradient.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "../parallel.hpp"
#include "delta.hpp"
#include "linear_arguments.hpp"
#include "linear_decay.hpp"
#include "seqccl/kernels.hpp"

SEQCCL_BEGIN
namespace cpu {
namespace {

using namespace linear;

/// log_sum of one batch and head as it grows over a run: in double, because a run may have millions of tokens.
struct RunningSum {
  RunningSum(std::int64_t width_, Workspace& workspace) : width(width_), sums(workspace.take<double>(width_)) {
    std::fill_n(sums, width, 0.0);
  }
  void add(const ChunkDecay& decay) {
    for (std::int64_t d = 0; d < decay.width(); ++d) sums[d] += decay.log_total()[d];
  }
  void store(const TensorView& log_sum, std::int64_t batch, std::int64_t head) const {
    if (!log_sum) return;
    float* to = log_sum.as<float>() + batch * log_sum.stride(0) + head * log_sum.stride(1);
    for (std::int64_t d = 0; d < width; ++d) to[d * log_sum.stride(2)] = static_cast<float>(sums[d]);
  }
  std::int64_t width;
  double* sums;  // (W)
};

/// Width of a run's log_sum; if the tensor is there, it must have it. A run without decay, or without tokens, has sums of zero.
std::int64_t log_sum_width(const char* who, const ConstTensorView& log_decay, const ConstTensorView& log_sum, std::int64_t batch,
                           std::int64_t heads) {
  const std::int64_t width = log_decay ? log_decay.extent(3) : log_sum ? log_sum.extent(2) : 0;
  if (log_sum) check_view(who, "log_sum", log_sum, batch, heads, width, 1, true);
  return width;
}

}  // namespace

// Chunk by chunk: state <- diag(exp(g_C)) state + sum_i (exp(g_C - g_i) k_i) v_i^T.
void linear_summary(const LinearSummaryArguments& a) {
  const char* who = "linear_summary";
  if (a.beta || a.transition) return delta_summary(a);
  const std::int64_t batch = a.k.extent(0), tokens = a.k.extent(1), heads = a.k.extent(2), key_dim = a.k.extent(3);
  const std::int64_t value_dim = a.v.extent(3);
  check_view(who, "k", a.k, batch, tokens, heads, key_dim, false);
  check_view(who, "v", a.v, batch, tokens, heads, value_dim, false);
  check_log_decay(who, a.log_decay, batch, tokens, heads, key_dim);
  check_view(who, "state", a.state, batch, heads, key_dim, value_dim, true);
  const std::int64_t sum_width = log_sum_width(who, a.log_decay, a.log_sum, batch, heads);

  parallel_for(batch * heads, a.num_threads, [&](std::int64_t item) {
    const std::int64_t b = item / heads, h = item % heads;
    Workspace workspace;
    ChunkDecay decay(a.log_decay, key_dim, workspace);
    RunningSum sum(sum_width, workspace);
    const RowsOut state = workspace.rows(key_dim, value_dim);
    const RowsOut k = workspace.rows(chunk_tokens, key_dim), v = workspace.rows(chunk_tokens, value_dim);
    load_state({}, b, h, key_dim, value_dim, state);
    for (std::int64_t first = 0; first < tokens; first += chunk_tokens, a.num_threads.note_progress()) {
      const std::int64_t count = std::min(chunk_tokens, tokens - first);
      decay.load(b, h, first, count, {.keys = true});
      load_tokens(a.k, b, h, first, count, 1, k);
      load_tokens(a.v, b, h, first, count, 1, v);
      decay.advance_state(decay.decay_keys(k, k), v, count, value_dim, state, state);
      sum.add(decay);
    }
    store_state(state, a.state, b, h);
    sum.store(a.log_sum, b, h);
  });
}

// From the last chunk to the first: dstate <- diag(exp(g_C)) dstate + sum_t (scale exp(g_t) q_t) dout_t^T, or exp(g_(t-1)).
void linear_summary_backward(const LinearSummaryBackwardArguments& a) {
  const char* who = "linear_summary_backward";
  if (a.beta || a.transition) return delta_summary_backward(a);
  const std::int64_t batch = a.q.extent(0), tokens = a.q.extent(1), heads = a.q.extent(2), key_dim = a.q.extent(3);
  const std::int64_t value_dim = a.dout.extent(3), shift = a.before ? 1 : 0;
  check_view(who, "q", a.q, batch, tokens, heads, key_dim, false);
  check_view(who, "dout", a.dout, batch, tokens, heads, value_dim, false);
  check_log_decay(who, a.log_decay, batch, tokens, heads, key_dim);
  check_view(who, "dstate", a.dstate, batch, heads, key_dim, value_dim, true);
  const std::int64_t sum_width = log_sum_width(who, a.log_decay, a.log_sum, batch, heads);

  parallel_for(batch * heads, a.num_threads, [&](std::int64_t item) {
    const std::int64_t b = item / heads, h = item % heads;
    Workspace workspace;
    ChunkDecay decay(a.log_decay, key_dim, workspace);
    RunningSum sum(sum_width, workspace);
    const RowsOut q_rows = workspace.rows(chunk_tokens + 1, key_dim), q = q_rows + shift;
    const RowsOut dout_rows = workspace.rows(chunk_tokens + 1, value_dim), dout = dout_rows + shift;
    const RowsOut dstate = workspace.rows(key_dim, value_dim);
    load_state({}, b, h, key_dim, value_dim, dstate);
    for (std::int64_t first = (tokens - 1) / chunk_tokens * chunk_tokens; first >= 0 && tokens > 0;
         first -= chunk_tokens, a.num_threads.note_progress()) {
      const std::int64_t count = std::min(chunk_tokens, tokens - first);
      decay.load(b, h, first, count, {.queries = true});
      load_readers(a.q, b, h, first, count, shift, a.scale, q_rows);
      load_readers(a.dout, b, h, first, count, shift, 1, dout_rows);
      decay.advance_state(decay.decay_queries(q, q), dout, num_readers(first, count, tokens, shift), value_dim, dstate, dstate);
      sum.add(decay);
      if (a.before && first == 0) turned_product(key_dim, value_dim, 1, q_rows, dout_rows, dstate, true);
    }
    store_state(dstate, a.dstate, b, h);
    sum.store(a.log_sum, b, h);
  });
}

}  // namespace cpu
SEQCCL_END
