// linear_sweep.hpp - what gradients of linear kinds share: chunks from last to first with their entering states, and dlog_decay.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "linear_chunk.hpp"
#include "tile.hpp"

SEQCCL_BEGIN
namespace cpu::linear {

/// Calls visit(chunk, state) from the last chunk to the first, `state` being what enters it. advance(chunk, state) takes a state across a
/// chunk. States are kept at the start of each group of chunks and, for the group at hand, of each chunk: about sqrt(chunks) of both.
template <class Advance, class Visit>
void sweep_back(std::int64_t num_chunks, std::int64_t state_size, Workspace& workspace, const float* entering, Advance&& advance,
                Visit&& visit) {
  const std::int64_t group = std::max<std::int64_t>(64, std::llround(std::sqrt(static_cast<double>(num_chunks))));
  const std::int64_t num_groups = (num_chunks + group - 1) / group;
  float* checkpoints = workspace.take(num_groups * state_size);
  float* states = workspace.take(std::min(group, num_chunks) * state_size);
  if (num_groups > 0) std::copy_n(entering, state_size, checkpoints);
  for (std::int64_t g = 0; g + 1 < num_groups; ++g) {
    float* next = checkpoints + (g + 1) * state_size;
    std::copy_n(next - state_size, state_size, next);
    for (std::int64_t chunk = g * group; chunk < (g + 1) * group; ++chunk) advance(chunk, next);
  }
  for (std::int64_t g = num_groups - 1; g >= 0; --g) {
    const std::int64_t first = g * group, end = std::min(num_chunks, first + group);
    std::copy_n(checkpoints + g * state_size, state_size, states);
    for (std::int64_t chunk = first; chunk + 1 < end; ++chunk) {
      float* leaving = states + (chunk - first + 1) * state_size;
      std::copy_n(leaving - state_size, state_size, leaving);
      advance(chunk, leaving);
    }
    for (std::int64_t chunk = end - 1; chunk >= first; --chunk) visit(chunk, states + (chunk - first) * state_size);
  }
}

/// Gradient of log_decay in one chunk. A decay acts on all that passes its token s: from the entering state S or a token i < s to a token
/// t >= s or the leaving state, whose gradient is X. Nothing cancels in this form but the pairs of a vector gate, within one chunk.
///
///     dlog_decay_s = exp(g_C) rowsum(S X) + sum_(i<s) leaving_i + sum_(t>=s) entering_t + sum_(i<s<=t) pair(t, i)
///
/// Each sum over d for a scalar gate. Call passing, leaving, entering, in this order, then pairs, then store.
class DecayGradient {
 public:
  DecayGradient(std::int64_t width, std::int64_t key_dim, Workspace& workspace) : width_(width), key_dim_(key_dim) {
    dlogs_ = workspace.take<double>(chunk_tokens * width);
    sum_ = workspace.take<double>(width);
    rounded_ = workspace.take(chunk_tokens * width);
  }

  /// From S to X, both (Dk, Dv).
  void passing(const ChunkDecay& decay, const float* state, const float* dleaving, std::int64_t value_dim) {
    std::fill_n(sum_, width_, 0.0);
    for (std::int64_t d = 0; d < key_dim_; ++d) {
      const std::int64_t at = width_ == 1 ? 0 : d;
      sum_[at] += std::exp(decay.log_total()[at]) * tile().dot(state + d * value_dim, dleaving + d * value_dim, value_dim);
    }
  }
  /// From token i to X: leaving_i = x_i y_i, rows of Dk.
  void leaving(const float* x, const float* y, std::int64_t count) {
    count_ = count;
    for (std::int64_t i = 0; i < count; ++i) {
      std::copy_n(sum_, width_, dlogs_ + i * width_);
      add_products(x + i * key_dim_, y + i * key_dim_);
    }
  }
  /// From S to token t: entering_t = q_t x_t + sign k_t y_t. x, y may contain more that a running sum from the last token shall add.
  void entering(const float* q, const float* x, const float* k = nullptr, const float* y = nullptr, float sign = 1) {
    std::fill_n(sum_, width_, 0.0);
    for (std::int64_t t = count_ - 1; t >= 0; --t) {
      add_products(q + t * key_dim_, x + t * key_dim_);
      if (k != nullptr) add_products(k + t * key_dim_, y + t * key_dim_, sign);
      for (std::int64_t d = 0; d < width_; ++d) dlogs_[t * width_ + d] += sum_[d];
    }
  }
  /// Pairs of a scalar gate: pair(t, i) = sign weights_ti gradients_ti, (C, C).
  void pairs(const float* weights, const float* gradients, double sign) {
    for (std::int64_t t = 0; t < count_; ++t) {
      double sum = 0;
      for (std::int64_t s = 1; s <= t; ++s) {
        sum += static_cast<double>(weights[t * chunk_tokens + s - 1]) * gradients[t * chunk_tokens + s - 1];
        dlogs_[s] += sign * sum;
      }
    }
  }
  /// Writes the chunk's rows of dlog_decay, or adds them up for a constant decay. alpha = 0 stays 0 when log alpha moves: no gradient
  /// there, whatever rounding left in a sum of pairs.
  void store(const ChunkDecay& decay, const TensorView& dlog_decay, std::int64_t batch, std::int64_t head, std::int64_t first,
             bool constant) {
    for (std::int64_t x = 0; x < count_ * width_; ++x) {
      if (decay.logs()[x] == -std::numeric_limits<float>::infinity()) dlogs_[x] = 0;
      if (constant) constant_sum_ += dlogs_[x];
      rounded_[x] = static_cast<float>(dlogs_[x]);
    }
    if (!constant) store_tokens(rounded_, dlog_decay, batch, head, first, count_);
  }
  [[nodiscard]] double constant_sum() const noexcept { return constant_sum_; }

 private:
  void add_products(const float* x, const float* y, float sign = 1) {
    if (width_ == 1)
      sum_[0] += sign * tile().dot(x, y, key_dim_);
    else
      for (std::int64_t d = 0; d < key_dim_; ++d) sum_[d] += sign * x[d] * y[d];
  }

  std::int64_t width_, key_dim_, count_ = 0;
  double *dlogs_, *sum_;  // (C, W) (W)
  float* rounded_;        // (C, W)
  double constant_sum_ = 0;
};

}  // namespace cpu::linear
SEQCCL_END
