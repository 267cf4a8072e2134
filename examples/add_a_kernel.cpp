// add_a_kernel.cpp - your own attend kernel in a method of the library: write it, put it in the spec, compare with the reference.
// SPDX-License-Identifier: Apache-2.0
#include <seqccl/kernels.hpp>
#include <seqccl/seqccl.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <stdexcept>
#include <utility>
#include <vector>

namespace {

using namespace seqccl;
using Numbers = std::vector<float>;

constexpr float infinity = std::numeric_limits<float>::infinity();

const float* row(const ConstTensorView& x, std::int64_t b, std::int64_t t, std::int64_t h) {
  return x.as<float>() + b * x.stride(0) + t * x.stride(1) + h * x.stride(2);
}
float* row(const TensorView& x, std::int64_t b, std::int64_t t, std::int64_t h) {
  return x.as<float>() + b * x.stride(0) + t * x.stride(1) + h * x.stride(2);
}

// S = scale q k^T where a slice shows the pair,    lse = log sum_j exp S_ij,    out_i = sum_j exp(S_ij - lse_i) v_j
//
// Fresh results only: every row of out and lse is overwritten, with 0 and -inf where a query sees no key. Merging is the library's.
void plain_loops(const AttendArguments& a) {
  if (a.q.dtype != f32 || a.sinks || a.softcap != 0) throw std::invalid_argument("plain_loops: want f32, no sinks, no softcap");
  const std::int64_t Dk = a.q.extent(3), Dv = a.v.extent(3);
  std::vector<std::pair<std::int64_t, float>> seen;  // key row, score
  for (std::int64_t b = 0; b < a.q.extent(0); ++b)
    for (std::int64_t i = 0; i < a.q.extent(1); ++i)
      for (std::int64_t h = 0; h < a.q.extent(2); ++h) {
        const std::int64_t kv = a.heads.kv_head(static_cast<std::int32_t>(h));
        seen.clear();
        for (const BandSlice& slice : a.slices) {
          if ((slice.batch >= 0 && slice.batch != b) || i < slice.q_first || i >= slice.q_first + slice.q_count) continue;
          const std::int64_t first = std::max(slice.k_first, i + slice.low),
                             end = std::min(slice.k_first + slice.k_count, i + slice.high + 1);
          for (std::int64_t j = first; j < end; ++j) {
            float score = 0;
            for (std::int64_t d = 0; d < Dk; ++d) score += row(a.q, b, i, h)[d] * row(a.k, b, j, kv)[d];
            seen.emplace_back(j, a.scale * score);
          }
        }
        float high = -infinity, sum = 0;
        for (const auto& [j, score] : seen) high = std::max(high, score);
        for (const auto& [j, score] : seen) sum += std::exp(score - high);
        float* out = row(a.out, b, i, h);
        *row(a.lse, b, i, h) = seen.empty() ? -infinity : high + std::log(sum);
        std::fill(out, out + Dv, 0.0F);
        for (const auto& [j, score] : seen)
          for (std::int64_t d = 0; d < Dv; ++d) out[d] += std::exp(score - high) / sum * row(a.v, b, j, kv)[d];
      }
}

Numbers numbers(std::int64_t count, double frequency) {
  Numbers result(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < result.size(); ++i) result[i] = static_cast<float>(2 * std::sin(frequency * static_cast<double>(i % 9973)));
  return result;
}

bool agree(const Numbers& got, const Numbers& want) {
  return std::equal(got.begin(), got.end(), want.begin(), want.end(), [](float a, float b) { return std::abs(a - b) < 1e-5F; });
}

}  // namespace

int main() {
  constexpr std::int64_t N = 61, P = 4, Hq = 4, Hkv = 2, D = 16;
  const Numbers q = numbers(N * Hq * D, 0.7), k = numbers(N * Hkv * D, 1.3), v = numbers(N * Hkv * D, 2.1);
  const ConstTensorView whole_q = view(q.data(), f32, {1, N, Hq, D}), whole_k = view(k.data(), f32, {1, N, Hkv, D}),
                        whole_v = view(v.data(), f32, {1, N, Hkv, D});

  AttentionSpec spec;
  spec.q_heads = Hq;
  spec.kv_heads = Hkv;
  spec.head_dim = D;
  spec.partition = Partition::zigzag(N, P);
  spec.mask = Mask::causal() & Mask::documents({20, 41});
  spec.kernel = {.name = "plain_loops", .accumulates = false, .run = plain_loops};

  const std::vector<BandSlice> slices = spec.mask.bind(N, 1);
  Numbers exact(N * Hq * D), exact_lse(Hq * N);
  reference::attend({whole_q, whole_k, whole_v, {}, slices, spec.scale_or_default()}, view(exact.data(), f32, {1, N, Hq, D}),
                    view(exact_lse.data(), f32, {1, Hq, N}));

  bool right = true;
  for (const Method method : {Method::ring, Method::kv_all_gather, Method::head_swap, Method::token_ring}) {
    spec.method = method;
    Numbers gathered(N * Hq * D), gathered_lse(Hq * N);
    run_ranks(P, [&](Communicator& comm) {
      const std::int64_t T = spec.partition.tokens_on(comm.rank());
      Numbers mine_q(T * Hq * D), mine_k(T * Hkv * D), mine_v(T * Hkv * D), out(T * Hq * D), lse(Hq * T);
      const TensorView my_q = view(mine_q.data(), f32, {1, T, Hq, D}), my_k = view(mine_k.data(), f32, {1, T, Hkv, D}),
                       my_v = view(mine_v.data(), f32, {1, T, Hkv, D}), my_out = view(out.data(), f32, {1, T, Hq, D});
      spec.partition.shard(whole_q, comm.rank(), my_q);
      spec.partition.shard(whole_k, comm.rank(), my_k);
      spec.partition.shard(whole_v, comm.rank(), my_v);
      Attention attention(comm, spec);
      attention.forward(my_q, my_k, my_v, my_out, view(lse.data(), f32, {1, Hq, T}));
      spec.partition.unshard(my_out, comm.rank(), view(gathered.data(), f32, {1, N, Hq, D}));  // ranks write different tokens
      for (std::int64_t h = 0; h < Hq; ++h)
        for (std::int64_t t = 0; t < T; ++t)
          gathered_lse[static_cast<std::size_t>(h * N + spec.partition.global_position(comm.rank(), t))] =
              lse[static_cast<std::size_t>(h * T + t)];
    });
    const bool is_right = agree(gathered, exact) && agree(gathered_lse, exact_lse);
    std::printf("%-14s %s\n", name(method), is_right ? "right" : "WRONG");
    right = right && is_right;
  }
  return right ? 0 : 1;
}
