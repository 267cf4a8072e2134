// delta_forward.cpp - delta kinds: summaries of runs, their gradients, and outputs.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "../parallel.hpp"
#include "delta.hpp"
#include "delta_chunk.hpp"
#include "pack.hpp"
#include "tile.hpp"

SEQCCL_BEGIN
namespace cpu {

using namespace linear;

namespace {

struct Extents {
  std::int64_t batch, tokens, heads, key_dim, value_dim;
};

void check_common(const char* who, const Extents& e, const ConstTensorView& k, const ConstTensorView& log_decay,
                  const ConstTensorView& beta) {
  check_view(who, "k", k, e.batch, e.tokens, e.heads, e.key_dim, false);
  check_log_decay(who, log_decay, e.batch, e.tokens, e.heads, e.key_dim);
  check_view(who, "beta", beta, e.batch, e.tokens, e.heads, 1, true);
}

/// Rows of two blocks side by side: a state and a transition are one state of Dv + Dk columns.
struct Joined {
  std::int64_t value_dim, key_dim, width;
  Joined(std::int64_t dv, std::int64_t dk, bool has_transition) : value_dim(dv), key_dim(dk), width(dv + (has_transition ? dk : 0)) {}

  /// (Dk, Dv + Dk): zero, and the identity.
  void begin(float* state) const {
    std::fill_n(state, key_dim * width, 0.0f);
    for (std::int64_t d = 0; d < key_dim && width > value_dim; ++d) state[d * width + value_dim + d] = 1;
  }
  /// (C, Dv + Dk): rows of x, and zeros.
  void load_rows(const ConstTensorView& x, std::int64_t batch, std::int64_t head, std::int64_t first, std::int64_t count, float factor,
                 float* packed, float* rows) const {
    pack_rows(x, batch, head, first, count, factor, packed);
    std::fill_n(rows, count * width, 0.0f);
    for (std::int64_t t = 0; t < count; ++t) std::copy_n(packed + t * value_dim, value_dim, rows + t * width);
  }
  void store(const float* state, std::int64_t batch, std::int64_t head, const TensorView& values, const TensorView& transition) const {
    const auto put = [&](const TensorView& to, std::int64_t first, std::int64_t count) {
      for (std::int64_t d = 0; d < key_dim; ++d)
        std::copy_n(state + d * width + first, count, to.as<float>() + batch * to.stride(0) + head * to.stride(1) + d * to.stride(2));
    };
    put(values, 0, value_dim);
    if (transition) put(transition, value_dim, key_dim);
  }
};

}  // namespace

// Both are states that cross the run: E begins at zero and takes in v, T begins at the identity and takes in nothing.
void delta_summary(const LinearSummaryArguments& a) {
  const char* who = "linear_summary";
  const Extents e{a.k.extent(0), a.k.extent(1), a.k.extent(2), a.k.extent(3), a.v.extent(3)};
  check_common(who, e, a.k, a.log_decay, a.beta);
  check_view(who, "v", a.v, e.batch, e.tokens, e.heads, e.value_dim, false);
  check_view(who, "state", a.state, e.batch, e.heads, e.key_dim, e.value_dim, true);
  if (a.transition) check_view(who, "transition", a.transition, e.batch, e.heads, e.key_dim, e.key_dim, true);
  const Joined joined(e.value_dim, e.key_dim, static_cast<bool>(a.transition));

  parallel_for(e.batch * e.heads, a.num_threads, [&](std::int64_t item) {
    const std::int64_t b = item / e.heads, h = item % e.heads;
    Workspace workspace;
    DeltaChunk chunk(a.k, a.log_decay, a.beta, workspace);
    float* state = workspace.take(e.key_dim * joined.width);
    float *packed = workspace.take(chunk_tokens * e.value_dim), *rows = workspace.take(chunk_tokens * joined.width),
          *u = workspace.take(chunk_tokens * joined.width);
    joined.begin(state);
    for (std::int64_t first = 0; first < e.tokens; first += chunk_tokens) {
      const std::int64_t count = std::min(chunk_tokens, e.tokens - first);
      chunk.load(b, h, first, count);
      joined.load_rows(a.v, b, h, first, count, 1, packed, rows);
      chunk.subtract_entering(state, joined.width, rows);
      chunk.solve(rows, u, joined.width);
      chunk.advance(u, joined.width, state);
    }
    joined.store(state, b, h, a.state, a.transition);
  });
}

// From the last chunk to the first: the gradient of a leaving state becomes that of the entering one. dstate begins at zero and takes in
// dout; the transition begins at the identity and takes in nothing, so that it ends as the transpose of the run's.
void delta_summary_backward(const LinearSummaryBackwardArguments& a) {
  const char* who = "linear_summary_backward";
  const Extents e{a.q.extent(0), a.q.extent(1), a.q.extent(2), a.q.extent(3), a.dout.extent(3)};
  check_common(who, e, a.k, a.log_decay, a.beta);
  check_view(who, "q", a.q, e.batch, e.tokens, e.heads, e.key_dim, false);
  check_view(who, "dout", a.dout, e.batch, e.tokens, e.heads, e.value_dim, false);
  check_view(who, "dstate", a.dstate, e.batch, e.heads, e.key_dim, e.value_dim, true);
  if (a.transition) check_view(who, "transition", a.transition, e.batch, e.heads, e.key_dim, e.key_dim, true);
  const Joined joined(e.value_dim, e.key_dim, static_cast<bool>(a.transition));

  parallel_for(e.batch * e.heads, a.num_threads, [&](std::int64_t item) {
    const std::int64_t b = item / e.heads, h = item % e.heads;
    Workspace workspace;
    DeltaChunk chunk(a.k, a.log_decay, a.beta, workspace);
    float* dstate = workspace.take(e.key_dim * joined.width);
    float *packed = workspace.take(chunk_tokens * e.value_dim), *dout = workspace.take(chunk_tokens * joined.width),
          *rows = workspace.take(chunk_tokens * joined.width);
    float *q = workspace.take(chunk_tokens * e.key_dim), *scores = workspace.take(chunk_tokens * chunk_tokens);
    joined.begin(dstate);
    for (std::int64_t first = (e.tokens - 1) / chunk_tokens * chunk_tokens; first >= 0 && e.tokens > 0; first -= chunk_tokens) {
      const std::int64_t count = std::min(chunk_tokens, e.tokens - first);
      chunk.load(b, h, first, count);
      pack_rows(a.q, b, h, first, count, 1, q);
      joined.load_rows(a.dout, b, h, first, count, a.scale, packed, dout);
      chunk.decay().scores(q, chunk.keys(), scores);
      lower_transposed_product(scores, dout, count, joined.width, rows, false);
      tile().gemm(count, joined.width, e.key_dim, chunk.leaving_keys(), e.key_dim, 1, dstate, joined.width, rows, joined.width, true);
      chunk.solve_transposed(rows, joined.width);
      for (std::int64_t t = 0; t < count; ++t) tile().scale(chunk.beta()[t], rows + t * joined.width, joined.width);
      chunk.retreat(rows, joined.width, dstate);
      const float* queries = chunk.decay().decay_queries(q, q);
      tile().gemm(e.key_dim, joined.width, count, queries, 1, e.key_dim, dout, joined.width, dstate, joined.width, true);
    }
    joined.store(dstate, b, h, a.dstate, a.transition);
  });
}

// out = scale (Q~ S + A U), A = scores(q, k).
void delta_local(const LinearLocalArguments& a) {
  const char* who = "linear_local";
  const Extents e{a.q.extent(0), a.q.extent(1), a.q.extent(2), a.q.extent(3), a.v.extent(3)};
  check_common(who, e, a.k, a.log_decay, a.beta);
  check_view(who, "q", a.q, e.batch, e.tokens, e.heads, e.key_dim, false);
  check_view(who, "v", a.v, e.batch, e.tokens, e.heads, e.value_dim, false);
  check_view(who, "out", a.out, e.batch, e.tokens, e.heads, e.value_dim, true);
  if (a.state) check_view(who, "state", a.state, e.batch, e.heads, e.key_dim, e.value_dim, true);

  parallel_for(e.batch * e.heads, a.num_threads, [&](std::int64_t item) {
    const std::int64_t b = item / e.heads, h = item % e.heads;
    Workspace workspace;
    DeltaChunk chunk(a.k, a.log_decay, a.beta, workspace);
    float* state = workspace.take(e.key_dim * e.value_dim);
    float *rows = workspace.take(chunk_tokens * e.value_dim), *u = workspace.take(chunk_tokens * e.value_dim);
    float *q = workspace.take(chunk_tokens * e.key_dim), *scores = workspace.take(chunk_tokens * chunk_tokens);
    load_state(a.state, b, h, e.key_dim, e.value_dim, state);
    for (std::int64_t first = 0; first < e.tokens; first += chunk_tokens) {
      const std::int64_t count = std::min(chunk_tokens, e.tokens - first);
      chunk.load(b, h, first, count);
      pack_rows(a.q, b, h, first, count, a.scale, q);
      pack_rows(a.v, b, h, first, count, 1, rows);
      chunk.subtract_entering(state, e.value_dim, rows);
      chunk.solve(rows, u, e.value_dim);
      float* out = row_at(a.out, b, first, h);
      chunk.decay().scores(q, chunk.keys(), scores);
      lower_product(scores, u, count, e.value_dim, out, a.out.stride(1), false);
      const float* queries = chunk.decay().decay_queries(q, q);
      tile().gemm(count, e.value_dim, e.key_dim, queries, e.key_dim, 1, state, e.value_dim, out, a.out.stride(1), true);
      if (first + count < e.tokens) chunk.advance(u, e.value_dim, state);
    }
  });
}

}  // namespace cpu
SEQCCL_END
