// delta_forward.cpp - delta kinds: summaries of runs, those of their gradients, and outputs.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>

#include "../parallel.hpp"
#include "delta.hpp"
#include "delta_chunk.hpp"
#include "linear_arguments.hpp"
#include "seqccl/error.hpp"

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
    numbers = workspace.rows(key_dim, width);
    std::fill_n(numbers.data, key_dim * numbers.row, 0.0F);
    for (std::int64_t d = 0; d < width - value_dim; ++d) numbers.data[d * numbers.row + value_dim + d] = 1;
  }
  void store(const TensorView& state, const TensorView& transition, std::int64_t batch, std::int64_t head) const {
    const auto put = [&](const TensorView& to, std::int64_t first) {
      for (std::int64_t d = 0; d < key_dim; ++d) {
        std::copy_n(numbers.data + d * numbers.row + first, to.extent(3),
                    to.as<float>() + batch * to.stride(0) + head * to.stride(1) + d * to.stride(2));
      }
    };
    put(state, 0);
    if (transition) put(transition, value_dim);
  }
  std::int64_t key_dim, value_dim, width;
  RowsOut numbers{};  // (Dk, width)
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
    const RowsOut v = workspace.rows(chunk_tokens, state.width);  // zero where T has no v
    const RowsOut rows = workspace.rows(chunk_tokens, state.width), y = workspace.rows(chunk_tokens, state.width);
    std::fill_n(v.data, chunk_tokens * v.row, 0.0F);
    for (std::int64_t first = 0; first < e.tokens; first += chunk_tokens, a.num_threads.note_progress()) {
      const std::int64_t count = std::min(chunk_tokens, e.tokens - first);
      chunk.load(b, h, first, count);
      load_tokens(a.v, b, h, first, count, 1, v);
      product(count, state.width, e.key_dim, chunk.entering(), state.numbers, rows, false);
      row_ops().combine(count, state.width, 1, v, -1, rows);  // v - K~ S
      chunk.solve(rows, y, rows, state.width);
      chunk.advance(rows, state.width, state.numbers, state.numbers);
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
    const RowsOut dout = workspace.rows(chunk_tokens, e.value_dim);
    const RowsOut du = workspace.rows(chunk_tokens, x.width), z = workspace.rows(chunk_tokens, x.width);
    for (std::int64_t first = (e.tokens - 1) / chunk_tokens * chunk_tokens; first >= 0 && e.tokens > 0; first -= chunk_tokens) {
      const std::int64_t count = std::min(chunk_tokens, e.tokens - first);
      chunk.load(b, h, first, count, &a.q, 1);
      load_tokens(a.dout, b, h, first, count, a.scale, dout);
      product(count, x.width, e.key_dim, chunk.leaving(), x.numbers, du, false);
      // Up to the next whole vector dout is zero, and so is what it adds to the columns of T.
      lower_turned_product(chunk.scores(), dout, count, e.value_dim, du, true);
      chunk.solve_transposed(du, z, du, x.width);
      row_ops().scale(count, x.width, minus_ones, du, du);
      chunk.decay().advance_state(chunk.entering(), du, count, x.width, x.numbers, x.numbers);
      turned_product(e.key_dim, e.value_dim, count, chunk.entering() + count, dout, x.numbers, true);
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
    const RowsOut state = workspace.rows(e.key_dim, e.value_dim), read = workspace.rows(2 * chunk_tokens, e.value_dim);
    const RowsOut rows = workspace.rows(chunk_tokens, e.value_dim), y = workspace.rows(chunk_tokens, e.value_dim);
    load_state(a.state, b, h, e.key_dim, e.value_dim, state);
    for (std::int64_t first = 0; first < e.tokens; first += chunk_tokens, a.num_threads.note_progress()) {
      const std::int64_t count = std::min(chunk_tokens, e.tokens - first);
      chunk.load(b, h, first, count, &a.q, a.scale);
      load_tokens(a.v, b, h, first, count, 1, rows);
      product(2 * count, e.value_dim, e.key_dim, chunk.entering(), state, read, false);
      row_ops().combine(count, e.value_dim, -1, read, 1, rows);
      chunk.solve(rows, y, rows, e.value_dim);
      lower_product(chunk.scores(), rows, count, e.value_dim, read + count, true);
      store_tokens(read + count, a.out, b, h, first, count);
      if (first + count < e.tokens) chunk.advance(rows, e.value_dim, state, state);
    }
  });
}

}  // namespace cpu
SEQCCL_END
