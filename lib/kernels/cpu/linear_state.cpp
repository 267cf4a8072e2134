// linear_state.cpp - what a run of tokens does to the state, and what its outputs do to the state's gradient.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "../parallel.hpp"
#include "delta.hpp"
#include "linear_chunk.hpp"
#include "pack.hpp"
#include "seqccl/error.hpp"
#include "seqccl/kernels.hpp"
#include "tile.hpp"

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

void store_state(const float* from, const TensorView& state, std::int64_t batch, std::int64_t head) {
  float* to = state.as<float>() + batch * state.stride(0) + head * state.stride(1);
  for (std::int64_t d = 0; d < state.extent(2); ++d) std::copy_n(from + d * state.extent(3), state.extent(3), to + d * state.stride(2));
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
    float* state = workspace.take(key_dim * value_dim);  // (Dk, Dv)
    float *k = workspace.take(chunk_tokens * key_dim), *v = workspace.take(chunk_tokens * value_dim);
    std::fill_n(state, key_dim * value_dim, 0.0f);
    for (std::int64_t first = 0; first < tokens; first += chunk_tokens, a.num_threads.note_progress()) {
      const std::int64_t count = std::min(chunk_tokens, tokens - first);
      decay.load(b, h, first, count, {.keys = true});
      pack_rows(a.k, b, h, first, count, 1, k);
      pack_rows(a.v, b, h, first, count, 1, v);
      advance_state(decay, decay.decay_keys(k, k), v, count, key_dim, value_dim, state);
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
    float *q_rows = workspace.take((chunk_tokens + 1) * key_dim), *q = q_rows + shift * key_dim;
    float *dout_rows = workspace.take((chunk_tokens + 1) * value_dim), *dout = dout_rows + shift * value_dim;
    float* dstate = workspace.take(key_dim * value_dim);  // (Dk, Dv)
    std::fill_n(dstate, key_dim * value_dim, 0.0f);
    for (std::int64_t first = (tokens - 1) / chunk_tokens * chunk_tokens; first >= 0 && tokens > 0;
         first -= chunk_tokens, a.num_threads.note_progress()) {
      const std::int64_t count = std::min(chunk_tokens, tokens - first);
      decay.load(b, h, first, count, {.queries = true});
      pack_readers(a.q, b, h, first, count, shift, a.scale, q_rows);
      pack_readers(a.dout, b, h, first, count, shift, 1, dout_rows);
      advance_state(decay, decay.decay_queries(q, q), dout, num_readers(first, count, tokens, shift), key_dim, value_dim, dstate);
      sum.add(decay);
      if (a.before && first == 0) tile().gemm(key_dim, value_dim, 1, q_rows, 1, key_dim, dout_rows, value_dim, dstate, value_dim, true);
    }
    store_state(dstate, a.dstate, b, h);
    sum.store(a.log_sum, b, h);
  });
}

}  // namespace cpu
SEQCCL_END
