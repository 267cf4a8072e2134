// linear_state.cpp - what a run of tokens does to the state, what its outputs do to the state's gradient, and one step of a scan.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "../parallel.hpp"
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

float* state_of(const TensorView& state, std::int64_t batch, std::int64_t head) {
  return state.as<float>() + batch * state.stride(0) + head * state.stride(1);
}

}  // namespace

// Chunk by chunk: state <- diag(exp(g_C)) state + sum_i (exp(g_C - g_i) k_i) v_i^T.
void linear_summary(const LinearSummaryArguments& a) {
  const char* who = "linear_summary";
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
    for (std::int64_t first = 0; first < tokens; first += chunk_tokens) {
      const std::int64_t count = std::min(chunk_tokens, tokens - first);
      decay.load(b, h, first, count, {.keys = true});
      pack_rows(a.k, b, h, first, count, 1, k);
      pack_rows(a.v, b, h, first, count, 1, v);
      advance_state(decay, decay.decay_keys(k, k), v, count, key_dim, value_dim, state);
      sum.add(decay);
    }
    float* to = state_of(a.state, b, h);
    for (std::int64_t d = 0; d < key_dim; ++d) std::copy_n(state + d * value_dim, value_dim, to + d * a.state.stride(2));
    sum.store(a.log_sum, b, h);
  });
}

// With G the sum before a chunk: dstate = sum over chunks of sum_t (scale exp(G + g_t) q_t) dout_t^T.
void linear_summary_backward(const LinearSummaryBackwardArguments& a) {
  const char* who = "linear_summary_backward";
  const std::int64_t batch = a.q.extent(0), tokens = a.q.extent(1), heads = a.q.extent(2), key_dim = a.q.extent(3);
  const std::int64_t value_dim = a.dout.extent(3);
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
    float *q = workspace.take(chunk_tokens * key_dim), *dout = workspace.take(chunk_tokens * value_dim);
    float* dstate = state_of(a.dstate, b, h);
    for (std::int64_t d = 0; d < key_dim; ++d) std::fill_n(dstate + d * a.dstate.stride(2), value_dim, 0.0f);
    for (std::int64_t first = 0; first < tokens; first += chunk_tokens) {
      const std::int64_t count = std::min(chunk_tokens, tokens - first);
      decay.load(b, h, first, count, {.queries = true});
      pack_rows(a.q, b, h, first, count, a.scale, q);
      pack_rows(a.dout, b, h, first, count, 1, dout);
      decay.decay_queries(q, q);
      decay_rows_by_sum(sum.sums, decay.width(), q, count, key_dim);
      tile().gemm(key_dim, value_dim, count, q, 1, key_dim, dout, value_dim, dstate, a.dstate.stride(2), true);
      sum.add(decay);
    }
    sum.store(a.log_sum, b, h);
  });
}

// state <- diag(exp(repeat log_sum)) state + update.
void state_step(const StateStepArguments& a) {
  const char* who = "state_step";
  const std::int64_t batch = a.state.extent(0), heads = a.state.extent(1), key_dim = a.state.extent(2), value_dim = a.state.extent(3);
  check_view(who, "state", a.state, batch, heads, key_dim, value_dim, true);
  if (a.update) check_view(who, "update", a.update, batch, heads, key_dim, value_dim, true);
  if (a.log_sum) check_view(who, "log_sum", a.log_sum, batch, heads, a.log_sum.extent(2) == 1 ? 1 : key_dim, 1, true);

  parallel_for(batch * heads, a.num_threads, [&](std::int64_t item) {
    const std::int64_t b = item / heads, h = item % heads;
    for (std::int64_t d = 0; d < key_dim; ++d) {
      float* row = state_of(a.state, b, h) + d * a.state.stride(2);
      if (a.log_sum && a.repeat != 0) {  // NOTE: 0 times -inf would be NaN
        const std::int64_t at = a.log_sum.extent(2) == 1 ? 0 : d * a.log_sum.stride(2);
        const double log_sum = a.log_sum.as<float>()[b * a.log_sum.stride(0) + h * a.log_sum.stride(1) + at];
        tile().scale(static_cast<float>(std::exp(a.repeat * log_sum)), row, value_dim);
      }
      if (a.update) {
        const auto* add = a.update.as<float>() + b * a.update.stride(0) + h * a.update.stride(1) + d * a.update.stride(2);
        tile().axpy(1, add, row, value_dim);
      }
    }
  });
}

}  // namespace cpu
SEQCCL_END
