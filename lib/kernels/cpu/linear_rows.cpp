// linear_rows.cpp - SIMD passes over rows of tokens: one source, compiled once per instruction set, picked at run time.
// SPDX-License-Identifier: Apache-2.0
#include "linear_rows.hpp"

#include <algorithm>
#include <cstdint>
#include <limits>

#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)  // see tile.cpp
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "../lib/kernels/cpu/linear_rows.cpp"  // as seen from include/, the folder on the search path
#include <hwy/foreach_target.h>                                  // comes back here once per target

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
SEQCCL_BEGIN
namespace cpu::linear {
namespace HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

using Tag = hn::ScalableTag<float>;
using Vector = hn::Vec<Tag>;
constexpr std::int64_t lanes = HWY_MAX_BYTES / static_cast<int>(sizeof(float));
constexpr int group = 8;                 // vectors of a row that are worked on side by side: enough chains to hide a multiply-add
constexpr std::int64_t max_tokens = 64;  // of decay_gradient

HWY_INLINE Vector load(Rows x, std::int64_t t, std::int64_t at) { return hn::Load(Tag(), x.data + t * x.row + at); }
HWY_INLINE Vector load(RowsOut x, std::int64_t t, std::int64_t at) { return hn::Load(Tag(), x.data + t * x.row + at); }
HWY_INLINE void store(Vector v, RowsOut x, std::int64_t t, std::int64_t at) { hn::Store(v, Tag(), x.data + t * x.row + at); }

void multiply(std::int64_t count, std::int64_t width, Rows a, Rows x, RowsOut y) {
  for (std::int64_t t = 0; t < count; ++t) {
    for (std::int64_t at = 0; at < width; at += lanes) store(hn::Mul(load(a, t, at), load(x, t, at)), y, t, at);
  }
}

void multiply_twice(std::int64_t count, std::int64_t width, Rows a, Rows b, Rows x, RowsOut y) {
  for (std::int64_t t = 0; t < count; ++t) {
    for (std::int64_t at = 0; at < width; at += lanes) store(hn::Mul(load(x, t, at), hn::Mul(load(a, t, at), load(b, t, at))), y, t, at);
  }
}

void multiply_add(std::int64_t count, std::int64_t width, Rows a, Rows x, RowsOut y) {
  for (std::int64_t t = 0; t < count; ++t) {
    for (std::int64_t at = 0; at < width; at += lanes) store(hn::MulAdd(load(a, t, at), load(x, t, at), load(y, t, at)), y, t, at);
  }
}

void combine(std::int64_t count, std::int64_t width, float a, Rows x, float b, RowsOut y) {
  const Vector first = hn::Set(Tag(), a), second = hn::Set(Tag(), b);
  for (std::int64_t t = 0; t < count; ++t) {
    for (std::int64_t at = 0; at < width; at += lanes) store(hn::MulAdd(first, load(x, t, at), hn::Mul(second, load(y, t, at))), y, t, at);
  }
}

void scale(std::int64_t count, std::int64_t width, const float* factor, Rows x, RowsOut y) {
  for (std::int64_t t = 0; t < count; ++t) {
    const Vector times = hn::Set(Tag(), factor[t]);
    for (std::int64_t at = 0; at < width; at += lanes) store(hn::Mul(times, load(x, t, at)), y, t, at);
  }
}

void scale_add(std::int64_t count, std::int64_t width, const float* factor, Rows x, RowsOut y) {
  for (std::int64_t t = 0; t < count; ++t) {
    const Vector times = hn::Set(Tag(), factor[t]);
    for (std::int64_t at = 0; at < width; at += lanes) store(hn::MulAdd(times, load(x, t, at), load(y, t, at)), y, t, at);
  }
}

/// The vector at `at` of a row of `width` numbers; what is behind them counts as zero, whatever it is.
HWY_INLINE Vector load_within(Rows x, std::int64_t t, std::int64_t at, std::int64_t width) {
  const Vector value = load(x, t, at);
  return at + lanes <= width ? value : hn::IfThenElseZero(hn::FirstN(Tag(), static_cast<std::size_t>(width - at)), value);
}

void dots(std::int64_t count, std::int64_t width, Rows x, Rows y, float* to) {
  const Tag d;
  for (std::int64_t t = 0; t < count; ++t) {
    Vector sum0 = hn::Zero(d), sum1 = hn::Zero(d);
    std::int64_t at = 0;
    for (; at + 2 * lanes <= width; at += 2 * lanes) {
      sum0 = hn::MulAdd(load(x, t, at), load(y, t, at), sum0);
      sum1 = hn::MulAdd(load(x, t, at + lanes), load(y, t, at + lanes), sum1);
    }
    for (; at < width; at += lanes) sum0 = hn::MulAdd(load_within(x, t, at, width), load_within(y, t, at, width), sum0);
    to[t] = hn::GetLane(hn::SumOfLanes(d, hn::Add(sum0, sum1)));
  }
}

// --- blocks of a vector gate ------------------------------------------------------------------------------------------

void gate_block(std::int64_t count, std::int64_t width, Rows logs, Rows alpha, RowsOut prefix, RowsOut suffix, float* log_total) {
  const Tag d;
  for (std::int64_t at = 0; at < width; at += lanes) {
    Vector before = hn::Set(d, 1.0F), after = before, sum = hn::Zero(d);
    for (std::int64_t t = 0; t < count; ++t) {
      before = hn::Mul(before, load(alpha, t, at));
      sum = hn::Add(sum, load(logs, t, at));
      store(before, prefix, t, at);
    }
    for (std::int64_t t = count - 1; t >= 0; --t) {
      store(after, suffix, t, at);
      after = hn::Mul(after, load(alpha, t, at));
    }
    hn::Store(sum, d, log_total + at);
  }
}

/// Calls visit<n>(at) for n vectors from `at` on: groups, then single ones.
template <class Visit>
HWY_INLINE void each_group(std::int64_t width, Visit&& visit) {
  std::int64_t at = 0;
  for (; at + group * lanes <= width; at += group * lanes) visit.template operator()<group>(at);
  for (; at + 4 * lanes <= width; at += 4 * lanes) visit.template operator()<4>(at);
  for (; at < width; at += lanes) visit.template operator()<1>(at);
}

/// Column i of a block's pairs, from `n` vectors at `at`: the key passes the tokens behind it and decays on its way.
template <int n>
HWY_INLINE void pass_key(std::int64_t i, std::int64_t count, Rows q, Rows alpha, std::int64_t at, Vector (&key)[n],
                         float* HWY_RESTRICT sums) {
  const Tag d;
  for (std::int64_t t = i; t < count; ++t) {
    Vector sum = hn::Load(d, sums + t * lanes);
#pragma GCC unroll 8
    for (int j = 0; j < n; ++j) {
      if (t > i) key[j] = hn::Mul(key[j], load(alpha, t, at + j * lanes));
      sum = hn::MulAdd(load(q, t, at + j * lanes), key[j], sum);
    }
    hn::Store(sum, d, sums + t * lanes);
  }
}

void pair_scores(std::int64_t count, std::int64_t width, Rows q, Rows k, Rows alpha, RowsOut pairs) {
  const Tag d;
  HWY_ALIGN float sums[16 * lanes];
  for (std::int64_t i = 0; i < count; ++i) {
    for (std::int64_t t = i; t < count; ++t) hn::Store(hn::Zero(d), d, sums + t * lanes);
    const std::int64_t whole = width / lanes * lanes;
    each_group(whole, [&]<int n>(std::int64_t at) {
      Vector key[n];
#pragma GCC unroll 8
      for (int j = 0; j < n; ++j) key[j] = load(k, i, at + j * lanes);
      pass_key<n>(i, count, q, alpha, at, key, sums);
    });
    if (whole < width) {
      Vector key[1] = {load_within(k, i, whole, width)};
      pass_key<1>(i, count, q, alpha, whole, key, sums);
    }
    for (std::int64_t t = i; t < count; ++t) pairs.data[t * pairs.row + i] = hn::GetLane(hn::SumOfLanes(d, hn::Load(d, sums + t * lanes)));
  }
}

void pair_rows(std::int64_t count, std::int64_t width, Rows pairs, Rows x, Rows alpha, RowsOut y) {
  const Tag d;
  each_group(width, [&]<int n>(std::int64_t at) {
    for (std::int64_t t = 0; t < count; ++t) {
      const float* weight = pairs.data + t * pairs.row;
      Vector sum[n];
#pragma GCC unroll 8
      for (int j = 0; j < n; ++j) sum[j] = hn::Mul(hn::Set(d, weight[0]), load(x, 0, at + j * lanes));
      for (std::int64_t i = 1; i <= t; ++i) {  // Horner's rule
        const Vector times = hn::Set(d, weight[i]);
#pragma GCC unroll 8
        for (int j = 0; j < n; ++j) sum[j] = hn::MulAdd(times, load(x, i, at + j * lanes), hn::Mul(load(alpha, i, at + j * lanes), sum[j]));
      }
#pragma GCC unroll 8
      for (int j = 0; j < n; ++j) store(hn::Add(load(y, t, at + j * lanes), sum[j]), y, t, at + j * lanes);
    }
  });
}

void pair_columns(std::int64_t count, std::int64_t width, Rows pairs, Rows x, Rows alpha, RowsOut y) {
  const Tag d;
  each_group(width, [&]<int n>(std::int64_t at) {
    for (std::int64_t i = 0; i < count; ++i) {
      const float* weight = pairs.data + i;
      Vector sum[n];
#pragma GCC unroll 8
      for (int j = 0; j < n; ++j) sum[j] = hn::Mul(hn::Set(d, weight[(count - 1) * pairs.row]), load(x, count - 1, at + j * lanes));
      for (std::int64_t t = count - 2; t >= i; --t) {
        const Vector times = hn::Set(d, weight[t * pairs.row]);
#pragma GCC unroll 8
        for (int j = 0; j < n; ++j)
          sum[j] = hn::MulAdd(times, load(x, t, at + j * lanes), hn::Mul(load(alpha, t + 1, at + j * lanes), sum[j]));
      }
#pragma GCC unroll 8
      for (int j = 0; j < n; ++j) store(hn::Add(load(y, i, at + j * lanes), sum[j]), y, i, at + j * lanes);
    }
  });
}

// --- the gradient of log_decay ----------------------------------------------------------------------------------------

#if HWY_TARGET == HWY_SCALAR
constexpr std::int64_t step = 1;
#else
constexpr std::int64_t step = lanes / 2;  // a vector of double holds half as many numbers
#endif

void decay_gradient(std::int64_t count, std::int64_t width, Rows logs, const double* start, Rows k, Rows leave, Rows q, Rows x, Rows y,
                    float sign, RowsOut to) {
  const hn::FixedTag<double, step> wide;
  const hn::FixedTag<float, step> d;
  HWY_ALIGN double sums[max_tokens * step];
  const auto product = [&](Rows a, Rows b, std::int64_t t, std::int64_t at) {
    return hn::Mul(hn::Load(d, a.data + t * a.row + at), hn::Load(d, b.data + t * b.row + at));
  };
  const auto nothing = hn::Set(d, -std::numeric_limits<float>::infinity()), factor = hn::Set(d, sign);
  for (std::int64_t at = 0; at < width; at += step) {
    auto sum = hn::LoadU(wide, start + at);
    for (std::int64_t i = 0; i < count; ++i) {
      hn::Store(sum, wide, sums + i * step);
      sum = hn::Add(sum, hn::PromoteTo(wide, product(k, leave, i, at)));
    }
    sum = hn::Zero(wide);
    for (std::int64_t t = count - 1; t >= 0; --t) {
      sum = hn::Add(sum, hn::PromoteTo(wide, product(q, x, t, at)));
      sum = hn::Add(sum, hn::PromoteTo(wide, hn::Mul(factor, product(k, y, t, at))));
      const auto result = hn::DemoteTo(d, hn::Add(sum, hn::Load(wide, sums + t * step)));
      const auto log = hn::Load(d, logs.data + t * logs.row + at);
      hn::Store(hn::IfThenZeroElse(hn::Eq(log, nothing), result), d, to.data + t * to.row + at);
    }
  }
}

}  // namespace

const RowOps& row_table() {
  static const RowOps ops{.multiply = multiply,
                          .multiply_twice = multiply_twice,
                          .multiply_add = multiply_add,
                          .combine = combine,
                          .scale = scale,
                          .scale_add = scale_add,
                          .dots = dots,
                          .gate_block = gate_block,
                          .pair_scores = pair_scores,
                          .pair_rows = pair_rows,
                          .pair_columns = pair_columns,
                          .decay_gradient = decay_gradient};
  return ops;
}

}  // namespace HWY_NAMESPACE
}  // namespace cpu::linear
SEQCCL_END
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
SEQCCL_BEGIN
namespace cpu::linear {

HWY_EXPORT(row_table);

const RowOps& row_ops() {
  static const RowOps& ops = HWY_DYNAMIC_DISPATCH(row_table)();
  return ops;
}

}  // namespace cpu::linear
SEQCCL_END
#endif
