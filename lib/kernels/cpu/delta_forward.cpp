// delta_forward.cpp - delta kinds: summaries of runs, those of their gradients, and outputs.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>

#include "../parallel.hpp"
#include "delta.hpp"
#include "delta_chunk.hpp"
#include "pack.hpp"
#include "seqccl/error.hpp"
#include "tile.hpp"

SEQCCL_BEGIN
namespace cpu {
namespace {

using namespace linear;

struct Extents {
  std::int64_t batch, tokens, heads, key_dim, value_dim;
};

void check_delta(const char* who, const Extents& e, const ConstTensorView& k, const ConstTensorView& log_decay,
                 const ConstTensorView& beta) {
  check_view(who, "k", k, e.batch, e.tokens, e.heads, e.key_dim, false);
  check_log_decay(who, log_decay, e.batch, e.tokens, e.heads, e.key_dim);
  check_view(who, "beta", beta, e.batch, e.tokens, e.heads, 1, true);
}

void check_summary(const char* who, const Extents& e, const ConstTensorView& state, const ConstTensorView& log_sum,
                   const ConstTensorView& transition) {
  check_view(who, "state", state, e.batch, e.heads, e.key_dim, e.value_dim, true);
  if (transition) check_view(who, "transition", transition, e.batch, e.heads, e.key_dim, e.key_dim, true);
  if (log_sum) throw Error(ErrorKind::argument, fmt::format("{}: log_sum is given with beta, want transition", who));
}

/// A state (Dk, Dv), zero at first, and beside it the transition (Dk, Dk), the identity at first: one state of Dv + Dk columns. What
/// tokens do to a state they do to each column.
struct SummaryState {
  SummaryState(const Extents& e, bool has_transition, Workspace& workspace)
      : key_dim(e.key_dim), value_dim(e.value_dim), width(e.value_dim + (has_transition ? e.key_dim : 0)) {
    numbers = workspace.take(key_dim * width);
    std::fill_n(numbers, key_dim * width, 0.0f);
    for (std::int64_t d = 0; d < width - value_dim; ++d) numbers[d * width + value_dim + d] = 1;
  }
  void store(const TensorView& state, const TensorView& transition, std::int64_t batch, std::int64_t head) const {
    const auto put = [&](const TensorView& to, std::int64_t first) {
      for (std::int64_t d = 0; d < key_dim; ++d) {
        std::copy_n(numbers + d * width + first, to.extent(3),
                    to.as<float>() + batch * to.stride(0) + head * to.stride(1) + d * to.stride(2));
      }
    };
    put(state, 0);
    if (transition) put(transition, value_dim);
  }
  std::int64_t key_dim, value_dim, width;
  float* numbers;
};

}  // namespace

// (T, E) <- (M_c T, M_c E + E_c): both cross the chunk as states do, E takes in v and T takes in nothing.
void delta_summary(const LinearSummaryArguments& a) {
  const char* who = "linear_summary";
  const Extents e{a.k.extent(0), a.k.extent(1), a.k.extent(2), a.k.extent(3), a.v.extent(3)};
  check_delta(who, e, a.k, a.log_decay, a.beta);
  check_view(who, "v", a.v, e.batch, e.tokens, e.heads, e.value_dim, false);
  check_summary(who, e, a.state, a.log_sum, a.transition);

  parallel_for(e.batch * e.heads, a.num_threads, [&](std::int64_t item) {
    const std::int64_t b = item / e.heads, h = item % e.heads;
    Workspace workspace;
    DeltaChunk chunk(a.k, a.log_decay, a.beta, workspace);
    const SummaryState state(e, static_cast<bool>(a.transition), workspace);
    float* v = workspace.take(chunk_tokens * e.value_dim);
    float *rows = workspace.take(chunk_tokens * state.width), *y = workspace.take(chunk_tokens * state.width);
    for (std::int64_t first = 0; first < e.tokens; first += chunk_tokens, a.num_threads.note_progress()) {
      const std::int64_t count = std::min(chunk_tokens, e.tokens - first);
      chunk.load(b, h, first, count);
      pack_rows(a.v, b, h, first, count, 1, v);
      tile().gemm(count, state.width, e.key_dim, chunk.entering(), e.key_dim, 1, state.numbers, state.width, rows, state.width, false);
      for (std::int64_t t = 0; t < count; ++t) {  // rows = v - K~ S, where T has no v
        float* row = rows + t * state.width;
        for (std::int64_t x = 0; x < e.value_dim; ++x) row[x] = v[t * e.value_dim + x] - row[x];
        for (std::int64_t x = e.value_dim; x < state.width; ++x) row[x] = -row[x];
      }
      chunk.solve(rows, y, rows, state.width);
      chunk.advance(rows, state.width, state.numbers);
    }
    state.store(a.state, a.transition, b, h);
  });
}

// From the last chunk to the first, with X the gradient of the leaving state:
//   dU = A^T dO + K^ X      dR = diag(beta) (I + diag(beta) G)^-T dU      X <- diag(exp(g_C)) X + Q~^T dO - K~^T dR
// dstate is X from zero on; from the identity on, and without dO, X becomes the transpose of the run's transition.
void delta_summary_backward(const LinearSummaryBackwardArguments& a) {
  const char* who = "linear_summary_backward";
  const Extents e{a.q.extent(0), a.q.extent(1), a.q.extent(2), a.q.extent(3), a.dout.extent(3)};
  check_delta(who, e, a.k, a.log_decay, a.beta);
  check_view(who, "q", a.q, e.batch, e.tokens, e.heads, e.key_dim, false);
  check_view(who, "dout", a.dout, e.batch, e.tokens, e.heads, e.value_dim, false);
  check_summary(who, e, a.dstate, a.log_sum, a.transition);
  if (a.before)
    throw Error(ErrorKind::argument, "linear_summary_backward: before is true with beta, want false: no delta kind has a bonus");

  parallel_for(e.batch * e.heads, a.num_threads, [&](std::int64_t item) {
    const std::int64_t b = item / e.heads, h = item % e.heads;
    Workspace workspace;
    DeltaChunk chunk(a.k, a.log_decay, a.beta, workspace);
    const SummaryState x(e, static_cast<bool>(a.transition), workspace);
    float *dout = workspace.take(chunk_tokens * e.value_dim), *scores = workspace.take(chunk_tokens * chunk_tokens);
    float *du = workspace.take(chunk_tokens * x.width), *z = workspace.take(chunk_tokens * x.width);
    for (std::int64_t first = (e.tokens - 1) / chunk_tokens * chunk_tokens; first >= 0 && e.tokens > 0; first -= chunk_tokens) {
      const std::int64_t count = std::min(chunk_tokens, e.tokens - first);
      chunk.load(b, h, first, count);
      chunk.load_queries(a.q, b, h, first, 1);
      pack_rows(a.dout, b, h, first, count, a.scale, dout);
      chunk.scores(scores);
      tile().gemm(count, x.width, e.key_dim, chunk.leaving(), e.key_dim, 1, x.numbers, x.width, du, x.width, false);
      for (std::int64_t i = 0; i < count; i += block_tokens) {
        tile().gemm(std::min(block_tokens, count - i), e.value_dim, count - i, scores + i * chunk_tokens + i, 1, chunk_tokens,
                    dout + i * e.value_dim, e.value_dim, du + i * x.width, x.width, true);
      }
      chunk.solve_transposed(du, z, du, x.width);
      tile().scale(-1, du, count * x.width);
      chunk.decay().decay_state(x.numbers, x.width);
      tile().gemm(e.key_dim, x.width, count, chunk.entering(), 1, e.key_dim, du, x.width, x.numbers, x.width, true);
      tile().gemm(e.key_dim, e.value_dim, count, chunk.entering() + count * e.key_dim, 1, e.key_dim, dout, e.value_dim, x.numbers, x.width,
                  true);
      a.num_threads.note_progress();
    }
    x.store(a.dstate, a.transition, b, h);
  });
}

// out = scale (Q~ S + A U).
void delta_local(const LinearLocalArguments& a) {
  const char* who = "linear_local";
  const Extents e{a.q.extent(0), a.q.extent(1), a.q.extent(2), a.q.extent(3), a.v.extent(3)};
  check_delta(who, e, a.k, a.log_decay, a.beta);
  check_view(who, "q", a.q, e.batch, e.tokens, e.heads, e.key_dim, false);
  check_view(who, "v", a.v, e.batch, e.tokens, e.heads, e.value_dim, false);
  check_view(who, "out", a.out, e.batch, e.tokens, e.heads, e.value_dim, true);
  if (a.state) check_view(who, "state", a.state, e.batch, e.heads, e.key_dim, e.value_dim, true);

  parallel_for(e.batch * e.heads, a.num_threads, [&](std::int64_t item) {
    const std::int64_t b = item / e.heads, h = item % e.heads;
    Workspace workspace;
    DeltaChunk chunk(a.k, a.log_decay, a.beta, workspace);
    float *state = workspace.take(e.key_dim * e.value_dim), *scores = workspace.take(chunk_tokens * chunk_tokens);
    float *read = workspace.take(2 * chunk_tokens * e.value_dim), *y = workspace.take(chunk_tokens * e.value_dim);
    float* rows = workspace.take(chunk_tokens * e.value_dim);
    load_state(a.state, b, h, e.key_dim, e.value_dim, state);
    for (std::int64_t first = 0; first < e.tokens; first += chunk_tokens, a.num_threads.note_progress()) {
      const std::int64_t count = std::min(chunk_tokens, e.tokens - first), size = count * e.value_dim;
      chunk.load(b, h, first, count);
      chunk.load_queries(a.q, b, h, first, a.scale);
      pack_rows(a.v, b, h, first, count, 1, rows);
      tile().gemm(2 * count, e.value_dim, e.key_dim, chunk.entering(), e.key_dim, 1, state, e.value_dim, read, e.value_dim, false);
      for (std::int64_t x = 0; x < size; ++x) rows[x] -= read[x];
      chunk.solve(rows, y, rows, e.value_dim);
      chunk.scores(scores);
      lower_product(scores, rows, count, e.value_dim, read + size, e.value_dim, true);
      store_tokens(read + size, a.out, b, h, first, count);
      if (first + count < e.tokens) chunk.advance(rows, e.value_dim, state);
    }
  });
}

}  // namespace cpu
SEQCCL_END
