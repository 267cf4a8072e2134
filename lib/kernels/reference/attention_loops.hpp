// attention_loops.hpp - softmax attention as obvious loops, written once for sums in double (the truth) and in float (the bar).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "../parallel.hpp"
#include "seqccl/kernels.hpp"

SEQCCL_BEGIN
namespace reference {

/// Element number `offset` (in elements, from the start of memory) of a view of any dtype.
[[nodiscard]] inline double load(const ConstTensorView& view, std::int64_t offset) {
  switch (view.dtype) {
    case DType::f32:
      return view.as<float>()[offset];
    case DType::f16:
      return static_cast<float>(view.as<Float16>()[offset]);
    case DType::bf16:
      return static_cast<float>(view.as<BFloat16>()[offset]);
    case DType::f64:
      return view.as<double>()[offset];
  }
  return 0;
}
inline void store(const TensorView& view, std::int64_t offset, double value) {
  switch (view.dtype) {
    case DType::f32:
      view.as<float>()[offset] = static_cast<float>(value);
      return;
    case DType::f16:
      view.as<Float16>()[offset] = Float16(static_cast<float>(value));
      return;
    case DType::bf16:
      view.as<BFloat16>()[offset] = BFloat16(static_cast<float>(value));
      return;
    case DType::f64:
      view.as<double>()[offset] = value;
      return;
  }
}

/// A (B, N, H, D) tensor read once into Sum: every head its own (N, D) matrix.
template <class Sum>
class Heads {
 public:
  explicit Heads(const ConstTensorView& from) : num_tokens_(from.extent(1)), num_heads_(from.extent(2)), size_(from.extent(3)) {
    values_.reserve(static_cast<std::size_t>(from.geometry.num_elements()));
    for (std::int64_t b = 0; b < from.extent(0); ++b)
      for (std::int64_t h = 0; h < num_heads_; ++h)
        for (std::int64_t i = 0; i < num_tokens_; ++i)
          for (std::int64_t d = 0; d < size_; ++d)
            values_.push_back(
                static_cast<Sum>(load(from, b * from.stride(0) + i * from.stride(1) + h * from.stride(2) + d * from.stride(3))));
  }
  [[nodiscard]] const Sum* row(std::int64_t b, std::int64_t h, std::int64_t i) const {
    return values_.data() + ((b * num_heads_ + h) * num_tokens_ + i) * size_;
  }

 private:
  std::int64_t num_tokens_, num_heads_, size_;
  std::vector<Sum> values_;
};

template <class Sum>
[[nodiscard]] Sum dot(const Sum* x, const Sum* y, std::int64_t size) {
  Sum sum = 0;
  for (std::int64_t d = 0; d < size; ++d) sum += x[d] * y[d];
  return sum;
}

/// Calls visit(j) for every key j that query i of batch row b sees.
template <class Visit>
void for_each_key(std::span<const BandSlice> slices, std::int64_t b, std::int64_t i, std::int64_t num_keys, Visit&& visit) {
  for (const BandSlice& slice : slices) {
    if ((slice.batch != -1 && slice.batch != b) || i < slice.q_first || i >= slice.q_first + slice.q_count) continue;
    const std::int64_t end = std::min({slice.k_first + slice.k_count, i + slice.high + 1, num_keys});
    for (std::int64_t j = std::max(slice.k_first, i + slice.low); j < end; ++j) visit(j);
  }
}
/// Calls visit(i) for every query i of batch row b that sees key j.
template <class Visit>
void for_each_query(std::span<const BandSlice> slices, std::int64_t b, std::int64_t j, std::int64_t num_queries, Visit&& visit) {
  for (const BandSlice& slice : slices) {
    if ((slice.batch != -1 && slice.batch != b) || j < slice.k_first || j >= slice.k_first + slice.k_count) continue;
    const std::int64_t end = std::min({slice.q_first + slice.q_count, j - slice.low + 1, num_queries});
    for (std::int64_t i = std::max(slice.q_first, j - slice.high); i < end; ++i) visit(i);
  }
}

template <class Sum>
class AttentionLoops {
 public:
  explicit AttentionLoops(const Attention& problem)
      : problem_(problem),
        dk_(problem.q.extent(3)),
        dv_(problem.v.extent(3)),
        num_queries_(problem.q.extent(1)),
        num_keys_(problem.k.extent(1)),
        num_heads_(problem.q.extent(2)),
        group_(problem.k.extent(2) == 0 ? 1 : num_heads_ / problem.k.extent(2)),
        q_(problem.q),
        k_(problem.k),
        v_(problem.v) {}

  /// out = softmax(S) v,  lse = log sum_j e^S_j,   S_j = softcap(scale q k_j) of one query; out has Dv numbers. Returns lse.
  Sum row(std::int64_t b, std::int64_t h, std::int64_t i, Sum* out) const {
    constexpr Sum infinity = std::numeric_limits<Sum>::infinity();
    std::vector<Sum> scores;
    std::vector<std::int64_t> keys;
    Sum high = problem_.sinks ? sink(h) : -infinity;
    for_each_key(problem_.slices, b, i, num_keys_, [&](std::int64_t j) {
      keys.push_back(j);
      scores.push_back(cap(raw_score(b, h, i, j)));
      high = scores.back() <= high ? high : scores.back();  // NaN wins
    });
    std::fill(out, out + dv_, Sum{0});
    if (high == -infinity) return -infinity;
    Sum total = problem_.sinks ? std::exp(sink(h) - high) : Sum{0};
    for (std::size_t n = 0; n < keys.size(); ++n) {
      const Sum p = std::exp(scores[n] - high);
      const Sum* value = v_.row(b, h / group_, keys[n]);
      total += p;
      for (std::int64_t d = 0; d < dv_; ++d) out[d] += p * value[d];
    }
    for (std::int64_t d = 0; d < dv_; ++d) out[d] /= total;
    return high + std::log(total);
  }

  void forward(const TensorView& out, const TensorView& lse, std::span<const std::int64_t> rows, int num_threads) const {
    const auto num_rows = rows.empty() ? num_queries_ : static_cast<std::int64_t>(rows.size());
    parallel_for(batch() * num_heads_ * num_rows, num_threads, [&](std::int64_t item) {
      const std::int64_t b = item / num_rows / num_heads_, h = item / num_rows % num_heads_;
      const std::int64_t i = rows.empty() ? item % num_rows : rows[static_cast<std::size_t>(item % num_rows)];
      std::vector<Sum> row_out(static_cast<std::size_t>(dv_));
      const Sum row_lse = row(b, h, i, row_out.data());
      for (std::int64_t d = 0; d < dv_; ++d) store(out, offset(out, b, i, h) + d * out.stride(3), row_out[d]);
      store(lse, b * lse.stride(0) + h * lse.stride(1) + i * lse.stride(2), row_lse);
    });
  }

  /// p = e^(S - lse),  delta = dout out,  ds = p (dout v^T - delta) softcap'(S) scale,  dq = ds k,  dk = ds^T q,  dv = p^T dout,
  /// dsink = - sum p_sink delta. Nothing of size N x N is stored: p is computed once for dq and once for dk, dv.
  void backward(const ConstTensorView& dout_view, const TensorView& dq, const TensorView& dk, const TensorView& dv,
                const TensorView& dsinks, int num_threads) const {
    const Heads<Sum> dout(dout_view);
    const auto num_rows = static_cast<std::size_t>(batch() * num_heads_ * num_queries_);
    std::vector<Sum> lse(num_rows), delta(num_rows);
    const auto index = [&](std::int64_t b, std::int64_t h, std::int64_t i) { return (b * num_heads_ + h) * num_queries_ + i; };
    struct Pair {
      Sum p, ds;
    };
    const auto pair = [&](std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j) -> Pair {
      const Sum score = cap(raw_score(b, h, i, j)), row_lse = lse[index(b, h, i)];
      if (row_lse == -std::numeric_limits<Sum>::infinity()) return {0, 0};
      const Sum p = std::exp(score - row_lse);
      const Sum dp = dot(dout.row(b, h, i), v_.row(b, h / group_, j), dv_);
      return {p, p * (dp - delta[index(b, h, i)]) * cap_slope(score) * static_cast<Sum>(problem_.scale)};
    };
    parallel_for(static_cast<std::int64_t>(num_rows), num_threads, [&](std::int64_t item) {
      const std::int64_t b = item / num_queries_ / num_heads_, h = item / num_queries_ % num_heads_, i = item % num_queries_;
      std::vector<Sum> out(static_cast<std::size_t>(dv_)), sum(static_cast<std::size_t>(dk_));
      lse[item] = row(b, h, i, out.data());
      delta[item] = dot(dout.row(b, h, i), out.data(), dv_);
      for_each_key(problem_.slices, b, i, num_keys_, [&](std::int64_t j) {
        const Sum ds = pair(b, h, i, j).ds;
        const Sum* key = k_.row(b, h / group_, j);
        for (std::int64_t d = 0; d < dk_; ++d) sum[d] += ds * key[d];
      });
      for (std::int64_t d = 0; d < dk_; ++d) store(dq, offset(dq, b, i, h) + d * dq.stride(3), sum[d]);
    });
    const std::int64_t kv_heads = problem_.k.extent(2);
    parallel_for(batch() * kv_heads * num_keys_, num_threads, [&](std::int64_t item) {
      const std::int64_t b = item / num_keys_ / kv_heads, kv = item / num_keys_ % kv_heads, j = item % num_keys_;
      std::vector<Sum> sum_k(static_cast<std::size_t>(dk_)), sum_v(static_cast<std::size_t>(dv_));
      for (std::int64_t h = kv * group_; h < (kv + 1) * group_; ++h) {
        for_each_query(problem_.slices, b, j, num_queries_, [&](std::int64_t i) {
          const auto [p, ds] = pair(b, h, i, j);
          const Sum *query = q_.row(b, h, i), *gradient = dout.row(b, h, i);
          for (std::int64_t d = 0; d < dk_; ++d) sum_k[d] += ds * query[d];
          for (std::int64_t d = 0; d < dv_; ++d) sum_v[d] += p * gradient[d];
        });
      }
      for (std::int64_t d = 0; d < dk_; ++d) store(dk, offset(dk, b, j, kv) + d * dk.stride(3), sum_k[d]);
      for (std::int64_t d = 0; d < dv_; ++d) store(dv, offset(dv, b, j, kv) + d * dv.stride(3), sum_v[d]);
    });
    if (!dsinks || !problem_.sinks) return;
    for (std::int64_t h = 0; h < num_heads_; ++h) {
      Sum sum = 0;
      for (std::int64_t b = 0; b < batch(); ++b) {
        for (std::int64_t i = 0; i < num_queries_; ++i) {
          if (lse[index(b, h, i)] != -std::numeric_limits<Sum>::infinity())
            sum -= std::exp(sink(h) - lse[index(b, h, i)]) * delta[index(b, h, i)];
        }
      }
      store(dsinks, h * dsinks.stride(0), sum);
    }
  }

 private:
  [[nodiscard]] std::int64_t batch() const { return problem_.q.extent(0); }
  [[nodiscard]] Sum sink(std::int64_t h) const { return static_cast<Sum>(load(problem_.sinks, h * problem_.sinks.stride(0))); }
  [[nodiscard]] static std::int64_t offset(const ConstTensorView& view, std::int64_t b, std::int64_t i, std::int64_t h) {
    return b * view.stride(0) + i * view.stride(1) + h * view.stride(2);
  }
  [[nodiscard]] Sum raw_score(std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j) const {
    return static_cast<Sum>(problem_.scale) * dot(q_.row(b, h, i), k_.row(b, h / group_, j), dk_);
  }
  [[nodiscard]] Sum cap(Sum score) const {
    const auto softcap = static_cast<Sum>(problem_.softcap);
    return softcap == 0 ? score : softcap * std::tanh(score / softcap);
  }
  /// Derivative of softcap at the capped score: 1 - tanh^2.
  [[nodiscard]] Sum cap_slope(Sum capped) const {
    const auto softcap = static_cast<Sum>(problem_.softcap);
    return softcap == 0 ? Sum{1} : 1 - (capped / softcap) * (capped / softcap);
  }

  const Attention& problem_;
  std::int64_t dk_, dv_, num_queries_, num_keys_, num_heads_, group_;
  Heads<Sum> q_, k_, v_;
};

}  // namespace reference
SEQCCL_END
