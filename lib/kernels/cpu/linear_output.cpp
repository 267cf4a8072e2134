// linear_output.cpp - outputs of a run of tokens: from its own tokens, and from the state that enters it.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "../parallel.hpp"
#include "delta.hpp"
#include "linear_arguments.hpp"
#include "linear_bonus.hpp"
#include "linear_decay.hpp"
#include "pack.hpp"
#include "seqccl/error.hpp"
#include "seqccl/kernels.hpp"
#include "tile.hpp"

SEQCCL_BEGIN
namespace cpu {
namespace {

using namespace linear;

/// Rows of out (B, T, H, Dv) of one batch and head as a product may write them: in place if they are whole vectors, else in scratch.
class OutputRows {
 public:
  OutputRows(const TensorView& out, std::int64_t batch, std::int64_t head, Workspace& workspace)
      : out_(out), batch_(batch), head_(head), direct_(out.extent(3) % panel_ops().lanes == 0) {
    if (!direct_) scratch_ = workspace.rows(chunk_tokens, out.extent(3));
  }
  [[nodiscard]] bool direct() const noexcept { return direct_; }
  [[nodiscard]] RowsOut rows(std::int64_t first, std::int64_t count) const {
    return direct_ && count > 0 ? RowsOut{row_at(out_, batch_, first, head_), out_.stride(1)} : scratch_;
  }
  void store(Rows rows, std::int64_t first, std::int64_t count) const {
    if (!direct_) store_tokens(rows, out_, batch_, head_, first, count);
  }
  void add(Rows rows, std::int64_t first, std::int64_t count) const {
    for (std::int64_t t = 0; t < count && !direct_; ++t)
      tile().axpy(1, rows.data + t * rows.row, row_at(out_, batch_, first + t, head_), out_.extent(3));
  }

 private:
  const TensorView& out_;
  std::int64_t batch_, head_;
  bool direct_;
  RowsOut scratch_{};
};

}  // namespace

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
    const RowsOut state = workspace.rows(key_dim, value_dim), pairs = workspace.pairs();
    const RowsOut rows = workspace.rows(chunk_tokens + 1, key_dim), q = rows + shift;
    const RowsOut k = workspace.rows(chunk_tokens, key_dim), v = workspace.rows(chunk_tokens, value_dim);
    const Bonus bonus(a.bonus, h, key_dim, workspace);
    const OutputRows output(a.out, b, h, workspace);
    load_state(a.state, b, h, key_dim, value_dim, state);
    for (std::int64_t first = 0; first < tokens; first += chunk_tokens, a.num_threads.note_progress()) {
      const std::int64_t count = std::min(chunk_tokens, tokens - first), readers = num_readers(first, count, tokens, shift);
      const bool has_state = first > 0 || a.state, has_next = first + count < tokens;
      decay.load(b, h, first, count, {.queries = has_state, .keys = has_next, .pairs = true});
      load_readers(a.q, b, h, first, count, shift, a.scale, rows);
      load_tokens(a.k, b, h, first, count, 1, k);
      load_tokens(a.v, b, h, first, count, 1, v);

      if (a.bonus && first == 0) {
        const RowsOut out = output.rows(0, 1);
        product(1, value_dim, key_dim, rows, state, out, false);
        output.store(out, 0, 1);
      }
      float weights[chunk_tokens];
      if (a.bonus) bonus.weights(rows, k, count, weights);
      const RowsOut out = output.rows(first + shift, readers);  // (C, Dv)
      const Scores scores[] = {{q, pairs}};
      decay.scores(k, scores);
      lower_product(pairs, v, readers, value_dim, out, false);
      if (has_state) product(readers, value_dim, key_dim, decay.decay_queries(q, q), state, out, true);
      output.store(out, first + shift, readers);
      for (std::int64_t t = 0; t < count && a.bonus; ++t)
        tile().axpy(weights[t], v.data + t * v.row, row_at(a.out, b, first + t, h), value_dim);
      if (has_next) decay.advance_state(decay.decay_keys(k, k), v, count, value_dim, state, state);
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
    const RowsOut rows = workspace.rows(chunk_tokens + 1, key_dim), q = rows + shift;
    const OutputRows output(a.out, b, h, workspace);
    double* sum = workspace.take<double>(decay.width());  // (W) G
    float* scratch = workspace.take(key_dim);
    std::fill_n(sum, decay.width(), 0.0);
    RowsOut state = a.transposed ? workspace.rows(value_dim, key_dim) : workspace.rows(key_dim, value_dim);
    load_state(a.state, b, h, a.transposed ? value_dim : key_dim, a.transposed ? key_dim : value_dim, state);
    if (a.transposed) {
      const RowsOut turned = workspace.turned(key_dim, value_dim);
      turn(value_dim, key_dim, state, turned);
      state = turned;
    }
    const auto add = [&](Rows from, std::int64_t first, std::int64_t count) {
      const RowsOut out = output.rows(first, count);
      product(count, value_dim, key_dim, from, state, out, output.direct());
      output.add(out, first, count);
    };
    for (std::int64_t first = 0; first < tokens; first += chunk_tokens, a.num_threads.note_progress()) {
      const std::int64_t count = std::min(chunk_tokens, tokens - first);
      decay.load(b, h, first, count, {.queries = true});
      load_readers(a.q, b, h, first, count, shift, a.scale, rows);
      if (a.before && first == 0) add(rows, 0, 1);
      decay.decay_queries(q, q);
      decay_rows_by_sum(sum, decay.width(), q, count, key_dim, scratch);
      add(q, first + shift, num_readers(first, count, tokens, shift));
      for (std::int64_t d = 0; d < decay.width(); ++d) sum[d] += decay.log_total()[d];
    }
  });
}

}  // namespace cpu
SEQCCL_END
