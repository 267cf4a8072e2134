// linear_output.cpp - outputs of a run of tokens: from its own tokens, and from the state that enters it.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "../parallel.hpp"
#include "delta.hpp"
#include "linear_chunk.hpp"
#include "pack.hpp"
#include "seqccl/error.hpp"
#include "seqccl/kernels.hpp"
#include "tile.hpp"

SEQCCL_BEGIN
namespace cpu {

using namespace linear;

// Chunk by chunk, A = scores(scale q, k):  out = (exp(g) scale q) state + A v,  then the state advances. With a bonus all but its
// own weights are those of one token further on.
void linear_local(const LinearLocalArguments& a) {
  const char* who = "linear_local";
  if (a.beta && a.bonus) throw Error(ErrorKind::argument, "linear_local: beta and bonus are both given, want one kind: delta or RWKV6");
  if (a.beta) return delta_local(a);
  const std::int64_t batch = a.q.extent(0), tokens = a.q.extent(1), heads = a.q.extent(2), key_dim = a.q.extent(3);
  const std::int64_t value_dim = a.v.extent(3);
  check_view(who, "q", a.q, batch, tokens, heads, key_dim, false);
  check_view(who, "k", a.k, batch, tokens, heads, key_dim, false);
  check_view(who, "v", a.v, batch, tokens, heads, value_dim, false);
  check_log_decay(who, a.log_decay, batch, tokens, heads, key_dim);
  check_view(who, "out", a.out, batch, tokens, heads, value_dim, true);
  check_bonus(who, a.bonus, batch, tokens, heads, key_dim);
  if (a.state) check_view(who, "state", a.state, batch, heads, key_dim, value_dim, true);
  const std::int64_t shift = a.bonus ? 1 : 0;

  parallel_for(batch * heads, a.num_threads, [&](std::int64_t item) {
    const std::int64_t b = item / heads, h = item % heads;
    Workspace workspace;
    ChunkDecay decay(a.log_decay, key_dim, workspace);
    float* state = workspace.take(key_dim * value_dim);  // (Dk, Dv)
    float *rows = workspace.take((chunk_tokens + 1) * key_dim), *q = rows + shift * key_dim, *k = workspace.take(chunk_tokens * key_dim);
    float *v = workspace.take(chunk_tokens * value_dim), *scores = workspace.take(chunk_tokens * chunk_tokens);
    float *scratch = workspace.take(key_dim), weights[chunk_tokens];
    load_state(a.state, b, h, key_dim, value_dim, state);
    for (std::int64_t first = 0; first < tokens; first += chunk_tokens, a.num_threads.note_progress()) {
      const std::int64_t count = std::min(chunk_tokens, tokens - first), readers = num_readers(first, count, tokens, shift);
      const bool has_state = first > 0 || a.state, has_next = first + count < tokens;
      decay.load(b, h, first, count, {.queries = has_state, .keys = has_next, .pairs = true});
      pack_readers(a.q, b, h, first, count, shift, a.scale, rows);
      pack_rows(a.k, b, h, first, count, 1, k);
      pack_rows(a.v, b, h, first, count, 1, v);

      if (a.bonus) bonus_weights(rows, k, row_at<float>(a.bonus, b, first, h), count, key_dim, scratch, weights);
      if (a.bonus && first == 0) {
        tile().gemm(1, value_dim, key_dim, rows, key_dim, 1, state, value_dim, row_at(a.out, b, 0, h), a.out.stride(1), false);
      }
      float* out = row_at(a.out, b, first + shift, h);  // (C, Dv)
      decay.scores(q, k, scores);
      lower_product(scores, v, readers, value_dim, out, a.out.stride(1), false);
      if (has_state) {
        tile().gemm(readers, value_dim, key_dim, decay.decay_queries(q, q), key_dim, 1, state, value_dim, out, a.out.stride(1), true);
      }
      for (std::int64_t t = 0; t < count && a.bonus; ++t)
        tile().axpy(weights[t], v + t * value_dim, row_at(a.out, b, first + t, h), value_dim);
      if (has_next) advance_state(decay, decay.decay_keys(k, k), v, count, key_dim, value_dim, state);
    }
  });
}

// With G the sum before a chunk: out_t += state^T (scale exp(G + g_t) q_t), or exp(G + g_(t-1)).
void linear_enter(const LinearEnterArguments& a) {
  const char* who = "linear_enter";
  const std::int64_t batch = a.q.extent(0), tokens = a.q.extent(1), heads = a.q.extent(2), key_dim = a.q.extent(3);
  const std::int64_t value_dim = a.out.extent(3), shift = a.before ? 1 : 0;
  check_view(who, "q", a.q, batch, tokens, heads, key_dim, false);
  check_log_decay(who, a.log_decay, batch, tokens, heads, key_dim);
  check_view(who, "state", a.state, batch, heads, a.transposed ? value_dim : key_dim, a.transposed ? key_dim : value_dim, true);
  check_view(who, "out", a.out, batch, tokens, heads, value_dim, true);
  if (a.transposed && a.log_decay)
    throw Error(ErrorKind::argument, "linear_enter: log_decay is given and transposed is true, want one of them");

  parallel_for(batch * heads, a.num_threads, [&](std::int64_t item) {
    const std::int64_t b = item / heads, h = item % heads;
    Workspace workspace;
    ChunkDecay decay(a.log_decay, key_dim, workspace);
    float *rows = workspace.take((chunk_tokens + 1) * key_dim), *q = rows + shift * key_dim;
    double* sum = workspace.take<double>(decay.width());  // (W) G
    std::fill_n(sum, decay.width(), 0.0);
    const float* state = a.state.as<float>() + b * a.state.stride(0) + h * a.state.stride(1);
    std::int64_t state_row = a.state.stride(2);
    if (a.transposed) {
      float *dense = workspace.take(key_dim * value_dim), *turned = workspace.take(key_dim * value_dim);
      load_state(a.state, b, h, value_dim, key_dim, dense);
      transpose(dense, value_dim, key_dim, turned, value_dim);
      state = turned, state_row = value_dim;
    }
    const auto add = [&](const float* from, std::int64_t first, std::int64_t count) {
      tile().gemm(count, value_dim, key_dim, from, key_dim, 1, state, state_row, row_at(a.out, b, first, h), a.out.stride(1), true);
    };
    for (std::int64_t first = 0; first < tokens; first += chunk_tokens, a.num_threads.note_progress()) {
      const std::int64_t count = std::min(chunk_tokens, tokens - first);
      decay.load(b, h, first, count, {.queries = true});
      pack_readers(a.q, b, h, first, count, shift, a.scale, rows);
      if (a.before && first == 0) add(rows, 0, 1);
      decay.decay_queries(q, q);
      decay_rows_by_sum(sum, decay.width(), q, count, key_dim);
      add(q, first + shift, num_readers(first, count, tokens, shift));
      for (std::int64_t d = 0; d < decay.width(); ++d) sum[d] += decay.log_total()[d];
    }
  });
}

}  // namespace cpu
SEQCCL_END
