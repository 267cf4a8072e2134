// attention_case.hpp - random softmax attention problems of odd shapes, and what is right and what is good enough for them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <ostream>
#include <random>
#include <vector>

#include "seqccl/kernels.hpp"
#include "support/tensor.hpp"

namespace seqccl::test {

enum class Shape { full, causal, window, documents, random, per_batch, none };

struct AttentionCase {
  std::int64_t batch = 1, num_queries = 1, num_keys = 1, q_heads = 1, kv_heads = 1, dk = 8, dv = 8;
  DType dtype = f32;
  Shape shape = Shape::full;
  float softcap = 0;
  bool sinks = false;
  std::uint64_t seed = 1;

  friend std::ostream& operator<<(std::ostream& out, const AttentionCase& c) {
    return out << "B" << c.batch << " Tq" << c.num_queries << " Tk" << c.num_keys << " Hq" << c.q_heads << " Hkv" << c.kv_heads << " Dk"
               << c.dk << " Dv" << c.dv << " " << name(c.dtype) << " shape" << static_cast<int>(c.shape) << " softcap" << c.softcap
               << " sinks" << c.sinks;
  }
};

/// Disjoint slices: queries are cut into runs, keys into runs per query run; some rectangles stay out, others get a band.
inline void add_random_slices(const AttentionCase& c, std::int64_t batch, std::mt19937_64& random, std::vector<BandSlice>& slices) {
  const auto upto = [&](std::int64_t n) { return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(n + 1)); };
  for (std::int64_t q = 0; q < c.num_queries;) {
    const std::int64_t q_count = std::min(1 + upto(70), c.num_queries - q);
    for (std::int64_t k = 0; k < c.num_keys;) {
      const std::int64_t k_count = std::min(1 + upto(90), c.num_keys - k);
      BandSlice slice{q, q_count, k, k_count, -unbounded, unbounded, batch};
      if (upto(2) == 0) slice.low = k - q - upto(40);
      if (upto(2) == 0) slice.high = k - q + upto(40);
      if (upto(3) != 0) slices.push_back(slice);
      k += k_count;
    }
    q += q_count;
  }
  std::shuffle(slices.begin(), slices.end(), random);
}

inline std::vector<BandSlice> make_slices(const AttentionCase& c) {
  std::mt19937_64 random(c.seed);
  const std::int64_t shift = c.num_keys - c.num_queries;  // the last query sits at the last key
  std::vector<BandSlice> slices;
  switch (c.shape) {
    case Shape::full:
      slices.push_back({0, c.num_queries, 0, c.num_keys});
      break;
    case Shape::causal:
      slices.push_back({0, c.num_queries, 0, c.num_keys, -unbounded, shift});
      break;
    case Shape::window:
      slices.push_back({0, c.num_queries, 0, c.num_keys, shift - 20, shift + 3});
      break;
    case Shape::documents:
      for (std::int64_t first = 0; first < std::min(c.num_queries, c.num_keys); first += 13) {
        const std::int64_t count = std::min<std::int64_t>(13, std::min(c.num_queries, c.num_keys) - first);
        slices.push_back({first, count, first, count, -unbounded, 0});
      }
      break;
    case Shape::random:
      add_random_slices(c, -1, random, slices);
      break;
    case Shape::per_batch:
      for (std::int64_t b = 0; b < c.batch; ++b) add_random_slices(c, b, random, slices);
      break;
    case Shape::none:
      break;
  }
  return slices;
}

/// Inputs, slices, and results in double ("right") and by the obvious loops in float ("plain").
struct AttentionProblem {
  AttentionCase shape;
  HostTensor q, k, v, dout, sinks;
  std::vector<BandSlice> slices;
  double scale;

  explicit AttentionProblem(const AttentionCase& c)
      : shape(c),
        q(random_tensor(c.dtype, {c.batch, c.num_queries, c.q_heads, c.dk}, c.seed)),
        k(random_tensor(c.dtype, {c.batch, c.num_keys, c.kv_heads, c.dk}, c.seed + 100)),
        v(random_tensor(c.dtype, {c.batch, c.num_keys, c.kv_heads, c.dv}, c.seed + 200)),
        dout(random_tensor(c.dtype, {c.batch, c.num_queries, c.q_heads, c.dv}, c.seed + 300)),
        sinks(random_tensor(f32, {1, 1, c.q_heads, 1}, c.seed + 400)),
        slices(make_slices(c)),
        scale(static_cast<float>(1 / std::sqrt(static_cast<double>(c.dk)))) {}

  [[nodiscard]] reference::Attention reference_problem() const {
    reference::Attention problem{.q = q.view(), .k = k.view(), .v = v.view(), .slices = slices, .scale = scale, .softcap = shape.softcap};
    if (shape.sinks) problem.sinks = view(static_cast<const void*>(sinks.bytes.data()), f32, {shape.q_heads});
    return problem;
  }
  [[nodiscard]] AttendArguments arguments() const {
    AttendArguments a{.q = q.view(),
                      .k = k.view(),
                      .v = v.view(),
                      .slices = slices,
                      .heads = heads(),
                      .scale = static_cast<float>(scale),
                      .softcap = shape.softcap,
                      .fresh = true};
    if (shape.sinks) a.sinks = sinks.view();
    return a;
  }
  [[nodiscard]] HeadMap heads() const { return {0, 0, static_cast<std::int32_t>(shape.q_heads / shape.kv_heads)}; }
  [[nodiscard]] HostTensor new_out() const { return {f32, {shape.batch, shape.num_queries, shape.q_heads, shape.dv}}; }
  [[nodiscard]] HostTensor new_lse() const { return {f32, {shape.batch, shape.num_queries, shape.q_heads, 1}}; }
};

/// (B, T, H, 1) view of memory that holds (B, H, T).
inline TensorView as_token_major(HostTensor& lse) {
  TensorView result = lse.view();
  const auto& s = lse.geometry.shape;
  result.geometry.num_axes = 4;
  result.geometry.shape = {s[0], s[2], s[1], 1};
  result.geometry.strides = {s[1] * s[2], 1, s[2], 1};
  return result;
}

struct Forward {
  HostTensor out, lse;  // (B, T, H, D), (B, T, H, 1)
};
template <class Run>
Forward reference_forward(const AttentionProblem& p, DType dtype, Run&& run) {
  Forward result{HostTensor(dtype, {p.shape.batch, p.shape.num_queries, p.shape.q_heads, p.shape.dv}),
                 HostTensor(dtype, {p.shape.batch, p.shape.num_queries, p.shape.q_heads, 1})};
  TensorView lse = result.lse.view();  // as (B, H, T)
  const auto strides = lse.geometry.strides;
  lse.geometry.num_axes = 3;
  lse.geometry.shape = {p.shape.batch, p.shape.q_heads, p.shape.num_queries};
  lse.geometry.strides = {strides[0], strides[2], strides[1]};
  run(p.reference_problem(), result.out.view(), lse);
  return result;
}
inline Forward right_forward(const AttentionProblem& p) {
  return reference_forward(p, DType::f64,
                           [](const auto& problem, TensorView out, TensorView lse) { reference::attend(problem, out, lse); });
}
inline Forward plain_forward(const AttentionProblem& p) {
  return reference_forward(p, f32, [](const auto& problem, TensorView out, TensorView lse) { reference::attend_plain(problem, out, lse); });
}

/// Good enough: at most twice the error of the plain loops plus 4 eps, and below the cap. Results are f32, so eps is that of f32
/// whatever the inputs are.
inline ::testing::AssertionResult close(const HostTensor& got, const HostTensor& plain, const HostTensor& right, double cap = 2e-6) {
  const Distance error = distance(got, right), bar = distance(plain, right);
  const double slack = 4 * epsilon(f32);
  if (error.max <= 2 * bar.max + slack * error.reference_max && error.relative_rms <= 2 * bar.relative_rms + slack &&
      error.relative_rms <= cap)
    return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "max " << error.max << " (plain " << bar.max << "), relative RMS " << error.relative_rms
                                       << " (plain " << bar.relative_rms << "), largest " << error.reference_max;
}

/// Every mask, size, head count and dtype at least once, the lengths around a tile's edge in pairs, and every mask over several tiles.
inline std::vector<AttentionCase> odd_cases() {
  constexpr std::int64_t lengths[] = {1, 3, 17, 64, 65, 130}, sizes[] = {1, 8, 33, 64, 80, 128};
  constexpr std::int64_t heads[][2] = {{2, 2}, {4, 1}, {8, 1}, {6, 3}, {3, 1}};
  constexpr DType types[] = {f32, f16, bf16};
  std::vector<AttentionCase> cases;
  std::uint64_t n = 0;
  for (const std::int64_t num_queries : lengths) {
    for (const std::int64_t num_keys : lengths) {
      const auto& head = heads[n % 5];
      cases.push_back({.batch = 1 + static_cast<std::int64_t>(n % 2),
                       .num_queries = num_queries,
                       .num_keys = num_keys,
                       .q_heads = head[0],
                       .kv_heads = head[1],
                       .dk = sizes[n % 6],
                       .dv = sizes[(n + n / 6) % 6],
                       .dtype = types[n / 2 % 3],
                       .shape = static_cast<Shape>(n % 6),
                       .softcap = n % 4 == 3 ? 5.0F : 0.0F,
                       .sinks = n % 3 == 1,
                       .seed = n});
      ++n;
    }
  }
  for (const Shape shape : {Shape::full, Shape::causal, Shape::window, Shape::documents, Shape::random, Shape::per_batch, Shape::none}) {
    cases.push_back({.batch = 2,
                     .num_queries = 300,
                     .num_keys = 280,
                     .q_heads = 4,
                     .kv_heads = 2,
                     .dk = 24,
                     .dv = 16,
                     .dtype = types[n % 3],
                     .shape = shape,
                     .softcap = n % 2 == 0 ? 0.0F : 30.0F,
                     .sinks = n % 5 == 0,
                     .seed = n});
    ++n;
  }
  return cases;
}

}  // namespace seqccl::test
