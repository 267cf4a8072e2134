// linear_output.cpp - outputs of a run of tokens: from its own tokens, and from the state that enters it.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "../parallel.hpp"
#include "linear_chunk.hpp"
#include "pack.hpp"
#include "seqccl/kernels.hpp"
#include "tile.hpp"

SEQCCL_BEGIN
namespace cpu {

using namespace linear;

// Chunk by chunk, A = scores(scale q, k):  out = (exp(g) scale q) state + A v,  then the state advances.
void linear_local(const LinearLocalArguments& a) {
  const char* who = "linear_local";
  const std::int64_t batch = a.q.extent(0), tokens = a.q.extent(1), heads = a.q.extent(2), key_dim = a.q.extent(3);
  const std::int64_t value_dim = a.v.extent(3);
  check_view(who, "q", a.q, batch, tokens, heads, key_dim, false);
  check_view(who, "k", a.k, batch, tokens, heads, key_dim, false);
  check_view(who, "v", a.v, batch, tokens, heads, value_dim, false);
  check_log_decay(who, a.log_decay, batch, tokens, heads, key_dim);
  check_view(who, "out", a.out, batch, tokens, heads, value_dim, true);

  parallel_for(batch * heads, a.num_threads, [&](std::int64_t item) {
    const std::int64_t b = item / heads, h = item % heads;
    Workspace workspace;
    ChunkDecay decay(a.log_decay, key_dim, workspace);
    float* state = workspace.take(key_dim * value_dim);  // (Dk, Dv)
    float *q = workspace.take(chunk_tokens * key_dim), *k = workspace.take(chunk_tokens * key_dim);
    float *v = workspace.take(chunk_tokens * value_dim), *scores = workspace.take(chunk_tokens * chunk_tokens);
    std::fill_n(state, key_dim * value_dim, 0.0f);
    for (std::int64_t first = 0; first < tokens; first += chunk_tokens) {
      const std::int64_t count = std::min(chunk_tokens, tokens - first);
      const bool has_state = first > 0, has_next = first + count < tokens;
      decay.load(b, h, first, count, {.queries = has_state, .keys = has_next, .pairs = true});
      pack_rows(a.q, b, h, first, count, a.scale, q);
      pack_rows(a.k, b, h, first, count, 1, k);
      pack_rows(a.v, b, h, first, count, 1, v);

      float* out = row_at(a.out, b, first, h);  // (C, Dv)
      decay.scores(q, k, scores);
      lower_product(scores, v, count, value_dim, out, a.out.stride(1), false);
      if (has_state) {
        tile().gemm(count, value_dim, key_dim, decay.decay_queries(q, q), key_dim, 1, state, value_dim, out, a.out.stride(1), true);
      }
      if (has_next) advance_state(decay, decay.decay_keys(k, k), v, count, key_dim, value_dim, state);
    }
  });
}

// With G the sum before a chunk: out_t += state^T (scale exp(G + g_t) q_t).
void linear_enter(const LinearEnterArguments& a) {
  const char* who = "linear_enter";
  const std::int64_t batch = a.q.extent(0), tokens = a.q.extent(1), heads = a.q.extent(2), key_dim = a.q.extent(3);
  const std::int64_t value_dim = a.state.extent(3);
  check_view(who, "q", a.q, batch, tokens, heads, key_dim, false);
  check_log_decay(who, a.log_decay, batch, tokens, heads, key_dim);
  check_view(who, "state", a.state, batch, heads, key_dim, value_dim, true);
  check_view(who, "out", a.out, batch, tokens, heads, value_dim, true);

  parallel_for(batch * heads, a.num_threads, [&](std::int64_t item) {
    const std::int64_t b = item / heads, h = item % heads;
    Workspace workspace;
    ChunkDecay decay(a.log_decay, key_dim, workspace);
    float* q = workspace.take(chunk_tokens * key_dim);
    double* sum = workspace.take<double>(decay.width());  // (W) G
    std::fill_n(sum, decay.width(), 0.0);
    const float* state = a.state.as<float>() + b * a.state.stride(0) + h * a.state.stride(1);
    for (std::int64_t first = 0; first < tokens; first += chunk_tokens) {
      const std::int64_t count = std::min(chunk_tokens, tokens - first);
      decay.load(b, h, first, count, {.queries = true});
      pack_rows(a.q, b, h, first, count, a.scale, q);
      decay.decay_queries(q, q);
      decay_rows_by_sum(sum, decay.width(), q, count, key_dim);
      tile().gemm(count, value_dim, key_dim, q, key_dim, 1, state, a.state.stride(2), row_at(a.out, b, first, h), a.out.stride(1), true);
      for (std::int64_t d = 0; d < decay.width(); ++d) sum[d] += decay.log_total()[d];
    }
  });
}

}  // namespace cpu
SEQCCL_END
