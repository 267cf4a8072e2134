// linear_sweep.hpp - what gradients of linear kinds share: chunks from last to first with their entering states, and dlog_decay.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <limits>
#include <vector>

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
class DecayGradient {
 public:
  DecayGradient(std::int64_t width, std::int64_t key_dim, Workspace& workspace) : width_(width), key_dim_(key_dim) {
    for (double** rows : {&before_, &from_, &dlogs_}) *rows = workspace.take<double>((chunk_tokens + 1) * width);
    rounded_ = workspace.take(chunk_tokens * width);
  }

  void begin(std::int64_t count) {
    count_ = count;
    for (double* rows : {before_, from_}) std::fill_n(rows, (count + 1) * width_, 0.0);
    std::fill_n(dlogs_, count * width_, 0.0);
  }
  /// From S to X.
  void add_passing(const ChunkDecay& decay, const float* state, const float* dleaving, std::int64_t value_dim) {
    for (std::int64_t d = 0; d < key_dim_; ++d) {
      const std::int64_t at = width_ == 1 ? 0 : d;
      before_[at] += std::exp(decay.log_total()[at]) * tile().dot(state + d * value_dim, dleaving + d * value_dim, value_dim);
    }
  }
  /// sign x_t y_t per token, of what leaves towards X (seen by later tokens' decays) ...
  void add_leaving(const float* x, const float* y) {
    for (std::int64_t t = 0; t < count_; ++t) add_dots(x + t * key_dim_, y + t * key_dim_, 1, before_ + (t + 1) * width_);
  }
  /// ... and of what comes from S, or of rows and columns of pairs (seen by decays up to t).
  void add_entering(const float* x, const float* y, float sign) {
    for (std::int64_t t = 0; t < count_; ++t) add_dots(x + t * key_dim_, y + t * key_dim_, sign, from_ + t * width_);
  }
  /// Pairs of a scalar gate: value_ti = its weight times the weight's gradient, i < t.
  void add_pairs(const float* weights, const float* gradients, float sign) {
    for (std::int64_t t = 0; t < count_; ++t) {
      double sum = 0;
      for (std::int64_t s = 1; s <= t; ++s) {
        sum += static_cast<double>(weights[t * chunk_tokens + s - 1]) * gradients[t * chunk_tokens + s - 1];
        dlogs_[s] += sign * sum;
      }
    }
  }
  /// The result (C, W). alpha = 0 stays 0 when log alpha moves: no gradient there, whatever rounding left in a sum of pairs.
  const float* finish(const float* logs) {
    for (std::int64_t d = 0; d < width_; ++d) {
      double sum = 0;
      for (std::int64_t s = 0; s < count_; ++s) dlogs_[s * width_ + d] += sum += before_[s * width_ + d];
      sum = 0;
      for (std::int64_t s = count_ - 1; s >= 0; --s) dlogs_[s * width_ + d] += sum += from_[s * width_ + d];
    }
    for (std::int64_t x = 0; x < count_ * width_; ++x)
      rounded_[x] = logs[x] == -std::numeric_limits<float>::infinity() ? 0.0f : static_cast<float>(dlogs_[x]);
    return rounded_;
  }

 private:
  void add_dots(const float* x, const float* y, float sign, double* sum) const {
    if (width_ == 1)
      sum[0] += sign * tile().dot(x, y, key_dim_);
    else
      for (std::int64_t d = 0; d < key_dim_; ++d) sum[d] += sign * x[d] * y[d];
  }

  std::int64_t width_, key_dim_, count_ = 0;
  double *before_, *from_, *dlogs_;  // (C + 1, W) (C + 1, W) (C, W)
  float* rounded_;                   // (C, W)
};

}  // namespace cpu::linear
SEQCCL_END
