// attend.cpp - attend and attend_backward as a fraction of the FMA peak of a core, measured in turns with it.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/rows.hpp"
#include "seqccl/kernels.hpp"
#include "seqccl/mask.hpp"

namespace seqccl::bench {
namespace {

enum class Shape { full, causal, window };

struct Problem {
  std::int64_t num_queries, num_keys, q_heads, kv_heads, dk, dv;
  Shape shape = Shape::full;
  DType dtype = f32;
};

/// Operands of one layer and the pairs that the mask shows.
struct Layer {
  Problem p;
  std::vector<float> q, k, v, dout, out, lse, delta, dq, dk, dv;
  std::vector<BFloat16> q16, k16, v16;
  std::vector<BandSlice> slices;

  explicit Layer(const Problem& problem)
      : p(problem),
        q(numbers(p.num_queries * p.q_heads * p.dk, 1)),
        k(numbers(p.num_keys * p.kv_heads * p.dk, 2)),
        v(numbers(p.num_keys * p.kv_heads * p.dv, 3)),
        dout(numbers(p.num_queries * p.q_heads * p.dv, 4)),
        out(dout.size()),
        lse(static_cast<std::size_t>(p.num_queries * p.q_heads)),
        delta(lse.size()),
        dq(q.size()),
        dk(k.size()),
        dv(v.size()) {
    BandSlice slice{0, p.num_queries, 0, p.num_keys};
    if (p.shape != Shape::full) slice.high = p.num_keys - p.num_queries;
    if (p.shape == Shape::window) slice.low = slice.high - 1023;
    slices.push_back(slice);
    const auto narrow = [](const std::vector<float>& from) { return std::vector<BFloat16>(from.begin(), from.end()); };
    if (p.dtype == bf16) q16 = narrow(q), k16 = narrow(k), v16 = narrow(v);
  }
  [[nodiscard]] double pairs() const {
    double sum = 0;
    for (std::int64_t i = 0; i < p.num_queries; ++i) {
      const BandSlice& s = slices.front();
      const std::int64_t first = std::max<std::int64_t>(0, i + s.low), end = std::min(p.num_keys, i + s.high + 1);
      sum += static_cast<double>(std::max<std::int64_t>(0, end - first));
    }
    return sum * static_cast<double>(p.q_heads);
  }
  [[nodiscard]] AttendArguments forward(int num_threads) {
    AttendArguments a;
    const void *q_data = q.data(), *k_data = k.data(), *v_data = v.data();
    if (p.dtype == bf16) q_data = q16.data(), k_data = k16.data(), v_data = v16.data();
    a.q = view(q_data, p.dtype, {1, p.num_queries, p.q_heads, p.dk});
    a.k = view(k_data, p.dtype, {1, p.num_keys, p.kv_heads, p.dk});
    a.v = view(v_data, p.dtype, {1, p.num_keys, p.kv_heads, p.dv});
    a.out = view(out.data(), f32, {1, p.num_queries, p.q_heads, p.dv});
    a.lse = view(lse.data(), f32, {1, p.num_queries, p.q_heads, 1});
    a.slices = slices;
    a.heads.group = static_cast<std::int32_t>(p.q_heads / p.kv_heads);
    a.scale = 1 / std::sqrt(static_cast<float>(p.dk));
    a.fresh = true;
    a.num_threads = num_threads;
    return a;
  }
  [[nodiscard]] AttendBackwardArguments backward(int num_threads) {
    const AttendArguments f = forward(num_threads);
    AttendBackwardArguments a;
    a.q = f.q, a.k = f.k, a.v = f.v;
    a.dout = view(static_cast<const void*>(dout.data()), f32, {1, p.num_queries, p.q_heads, p.dv});
    a.lse = view(static_cast<const void*>(lse.data()), f32, {1, p.num_queries, p.q_heads, 1});
    a.delta = view(static_cast<const void*>(delta.data()), f32, {1, p.num_queries, p.q_heads, 1});
    a.dq = view(dq.data(), f32, {1, p.num_queries, p.q_heads, p.dk});
    a.dk = view(dk.data(), f32, {1, p.num_keys, p.kv_heads, p.dk});
    a.dv = view(dv.data(), f32, {1, p.num_keys, p.kv_heads, p.dv});
    a.slices = slices, a.heads = f.heads, a.scale = f.scale, a.fresh_dq = a.fresh_dkv = true, a.num_threads = num_threads;
    return a;
  }
};

Prepared forward(const Problem& problem, int num_threads) {
  const auto layer = std::make_shared<Layer>(problem);
  const double flops = 2.0 * layer->pairs() * static_cast<double>(problem.dk + problem.dv);
  return {flops, [layer, arguments = layer->forward(num_threads)] { cpu::attend(arguments); }};
}

Prepared backward(const Problem& problem, int num_threads) {
  const auto layer = std::make_shared<Layer>(problem);
  cpu::attend(layer->forward(num_threads));
  const double flops = 2.0 * layer->pairs() * static_cast<double>(3 * problem.dk + 2 * problem.dv);
  return {flops, [layer, arguments = layer->backward(num_threads)] { cpu::attend_backward(arguments); }};
}

}  // namespace

std::vector<KernelRow> attend_rows() {
  std::vector<KernelRow> rows;
  const auto add = [&](const std::string& name, Prepared (*prepare)(const Problem&, int), const Problem& problem, int num_threads = 1) {
    rows.push_back({name, num_threads, [=] { return prepare(problem, num_threads); }});
  };
  for (const std::int64_t d : {32, 64, 80, 96, 128, 192, 256}) {
    const Problem full{1024, 1024, 4, 4, d, d};
    const std::string size = "/D" + std::to_string(d);
    add("forward/full" + size, forward, full);
    add("backward/full" + size, backward, full);
  }
  for (const std::int64_t d : {64, 128}) {
    const std::string size = "/D" + std::to_string(d);
    add("forward/full/S4096" + size, forward, {4096, 4096, 1, 1, d, d});
    add("forward/causal/S4096" + size, forward, {4096, 4096, 2, 2, d, d, Shape::causal});
    add("backward/causal/S4096" + size, backward, {4096, 4096, 2, 2, d, d, Shape::causal});
    add("forward/causal/S4096/group4" + size, forward, {4096, 4096, 4, 1, d, d, Shape::causal});
    add("forward/window/S4096" + size, forward, {4096, 4096, 2, 2, d, d, Shape::window});
    add("forward/causal/S256/group4" + size, forward, {256, 256, 8, 2, d, d, Shape::causal});
    add("forward/full/bf16" + size, forward, {1024, 1024, 4, 4, d, d, Shape::full, bf16});
    add("forward/decode/group4" + size, forward, {1, 8192, 8, 2, d, d});
    add("forward/decode/group1" + size, forward, {1, 8192, 4, 4, d, d});
    add("forward/full/threads2" + size, forward, {2048, 2048, 2, 2, d, d}, 2);
    add("backward/full/threads2/one_head" + size, backward, {2048, 2048, 1, 1, d, d}, 2);
    add("forward/decode/threads2" + size, forward, {1, 32768, 4, 1, d, d}, 2);
  }
  add("forward/full/Dk192_Dv128", forward, {1024, 1024, 4, 4, 192, 128});
  return rows;
}

}  // namespace seqccl::bench
