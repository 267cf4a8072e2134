// linear_sweep.hpp - what gradients of linear kinds share: chunks from last to first with their entering states, and dlog_decay.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>

#include "linear_decay.hpp"

SEQCCL_BEGIN
namespace cpu::linear {

/// Calls visit(chunk, state) from the last chunk to the first, `state` being what enters it. advance(chunk, from, to) takes a state across
/// a chunk; `to` may be `from`. States are kept at the start of each group of chunks and, for the group at hand, of each chunk: about
/// sqrt(chunks) of both. They have key_dim rows, as `entering` has.
template <class Advance, class Visit>
void sweep_back(std::int64_t num_chunks, std::int64_t key_dim, Workspace& workspace, Rows entering, Advance&& advance, Visit&& visit) {
  const std::int64_t group = std::max<std::int64_t>(64, std::llround(std::sqrt(static_cast<double>(num_chunks))));
  const std::int64_t num_groups = (num_chunks + group - 1) / group;
  const RowsOut checkpoints{workspace.take(num_groups * key_dim * entering.row), entering.row};
  const RowsOut states{workspace.take(std::min(group, num_chunks) * key_dim * entering.row), entering.row};
  if (num_groups > 0) std::copy_n(entering.data, key_dim * entering.row, checkpoints.data);
  for (std::int64_t g = 0; g + 1 < num_groups; ++g) {
    Rows from = checkpoints + g * key_dim;
    const RowsOut next = checkpoints + (g + 1) * key_dim;
    for (std::int64_t chunk = g * group; chunk < (g + 1) * group; ++chunk, from = next) advance(chunk, from, next);
  }
  for (std::int64_t g = num_groups - 1; g >= 0; --g) {
    const std::int64_t first = g * group, end = std::min(num_chunks, first + group);
    std::copy_n((checkpoints + g * key_dim).data, key_dim * entering.row, states.data);
    for (std::int64_t chunk = first; chunk + 1 < end; ++chunk)
      advance(chunk, states + (chunk - first) * key_dim, states + (chunk - first + 1) * key_dim);
    for (std::int64_t chunk = end - 1; chunk >= first; --chunk) visit(chunk, states + (chunk - first) * key_dim);
  }
}

/// Gradient of log_decay in one chunk. A decay acts on all that passes its token s: from the entering state S or a token i < s to a token
/// t >= s or the leaving state, whose gradient is X. Nothing cancels in this form but the pairs of a vector gate, within one chunk.
///
///     dlog_decay_s = exp(g_C) rowsum(S X) + sum_(i<s) k_i leave_i + sum_(t>=s) (q_t x_t + sign k_t y_t) + sum_(i<s<=t) pair(t, i)
///
/// Each sum over d for a scalar gate. Call passing, then rows, then pairs (scalar gate only), then store.
class DecayGradient {
 public:
  DecayGradient(std::int64_t width, std::int64_t key_dim, Workspace& workspace) : width_(width), key_dim_(key_dim) {
    if (width == 0) return;
    start_ = workspace.take<double>(round_up(width, 16));
    row_sums_ = workspace.take(key_dim);
    rounded_ = workspace.rows(chunk_tokens, width);
  }

  /// From S to X, both (Dk, Dv).
  void passing(const ChunkDecay& decay, Rows state, Rows dleaving, std::int64_t value_dim) {
    row_ops().dots(key_dim_, value_dim, state, dleaving, row_sums_);
    if (width_ == 1) start_[0] = decay.total()[0] * std::accumulate(row_sums_, row_sums_ + key_dim_, 0.0);
    for (std::int64_t d = 0; d < width_ && width_ > 1; ++d) start_[d] = static_cast<double>(decay.total()[d]) * row_sums_[d];
  }
  /// From tokens i to X, and from S to tokens t, rows of Dk. y may be absent, for a scalar gate. For a vector gate x and y contain more
  /// that a running sum from the last token shall add.
  void rows(const ChunkDecay& decay, std::int64_t count, Rows k, Rows leave, Rows q, Rows x, Rows y, float sign) {
    count_ = count;
    if (width_ > 1) return row_ops().decay_gradient(count, width_, decay.logs(), start_, k, leave, q, x, y, sign, rounded_);
    float leaving[chunk_tokens], entering[chunk_tokens], keys[chunk_tokens] = {};
    row_ops().dots(count, key_dim_, k, leave, leaving);
    row_ops().dots(count, key_dim_, q, x, entering);
    if (y.data != nullptr) row_ops().dots(count, key_dim_, k, y, keys);
    double sum = start_[0];
    for (std::int64_t i = 0; i < count; sum += leaving[i], ++i) dlogs_[i] = sum;
    sum = 0;
    for (std::int64_t t = count - 1; t >= 0; --t) dlogs_[t] += sum += entering[t] + static_cast<double>(sign) * keys[t];
  }
  /// Pairs of a scalar gate: pair(t, i) = sign weights_ti gradients_ti, (C, C).
  void pairs(Rows weights, Rows gradients, double sign) {
    constexpr std::int64_t step = 4;  // rows side by side: each has a sum that waits for itself
    for (std::int64_t t = 0; t < count_; t += step) {
      double sum[step] = {};
      for (std::int64_t s = 1; s < std::min(count_, t + step); ++s) {
        double all = 0;
        for (std::int64_t row = t; row < std::min(count_, t + step); ++row) {
          if (s > row) continue;
          const std::int64_t at = row * weights.row + s - 1;
          all += sum[row - t] += static_cast<double>(weights.data[at]) * gradients.data[at];
        }
        dlogs_[s] += sign * all;
      }
    }
  }
  /// Writes the chunk's rows of dlog_decay, or adds them up for a constant decay. alpha = 0 stays 0 when log alpha moves: no gradient
  /// there, whatever rounding left in a sum of pairs.
  void store(const ChunkDecay& decay, const TensorView& dlog_decay, std::int64_t batch, std::int64_t head, std::int64_t first,
             bool constant) {
    for (std::int64_t s = 0; s < count_ && width_ == 1; ++s) {
      if (decay.logs().data[s] == -std::numeric_limits<float>::infinity()) dlogs_[s] = 0;
      if (constant) constant_sum_ += dlogs_[s];
      rounded_.data[s * rounded_.row] = static_cast<float>(dlogs_[s]);
    }
    if (!constant) store_tokens(rounded_, dlog_decay, batch, head, first, count_);
  }
  [[nodiscard]] double constant_sum() const noexcept { return constant_sum_; }

 private:
  std::int64_t width_, key_dim_, count_ = 0;
  double* start_ = nullptr;     // (W)
  float* row_sums_ = nullptr;   // (Dk)
  double dlogs_[chunk_tokens];  // of a scalar gate
  RowsOut rounded_{};           // (C, W)
  double constant_sum_ = 0;
};

}  // namespace cpu::linear
SEQCCL_END
