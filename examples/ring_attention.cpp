// ring_attention.cpp - causal attention of 512 tokens over 4 ranks, which are threads of this process.
// SPDX-License-Identifier: Apache-2.0
#include <seqccl/seqccl.hpp>

#include <cmath>
#include <cstdio>
#include <vector>

int main() {
  constexpr std::int64_t N = 512, P = 4, T = N / P, Hq = 8, Hkv = 2, D = 64;
  std::vector<double> checksum(P);
  std::string explanation;

  seqccl::run_ranks(P, [&](seqccl::Communicator& comm) {
    const auto partition = seqccl::Partition::zigzag(N, comm.size());
    std::vector<float> q(T * Hq * D), k(T * Hkv * D), v(T * Hkv * D), out(T * Hq * D), lse(Hq * T);
    const auto positions = partition.position_ids(comm.rank());  // which tokens this rank holds
    const auto fill = [&](std::vector<float>& x, double frequency) {
      const std::size_t row = x.size() / T;
      for (std::size_t i = 0; i < x.size(); ++i)
        x[i] = static_cast<float>(std::sin(frequency * static_cast<double>(positions[i / row]) + static_cast<double>(i % row)));
    };
    fill(q, 0.1), fill(k, 0.2), fill(v, 0.3);

    seqccl::Attention attention(comm, {.q_heads = Hq,
                                       .kv_heads = Hkv,
                                       .head_dim = D,
                                       .partition = partition,
                                       .mask = seqccl::Mask::causal(),
                                       .method = seqccl::Method::ring});
    attention.forward(seqccl::view(q.data(), seqccl::f32, {1, T, Hq, D}), seqccl::view(k.data(), seqccl::f32, {1, T, Hkv, D}),
                      seqccl::view(v.data(), seqccl::f32, {1, T, Hkv, D}), seqccl::view(out.data(), seqccl::f32, {1, T, Hq, D}),
                      seqccl::view(lse.data(), seqccl::f32, {1, Hq, T}));

    for (const float number : out) checksum[comm.rank()] += std::abs(number);
    if (comm.rank() == 0) explanation = attention.explain();
  });

  double sum = 0;
  for (const double share : checksum) sum += share;
  std::printf("sum of |out| over %d ranks: %.3f\n%s", static_cast<int>(P), sum, explanation.c_str());
  return std::isfinite(sum) && sum > 0 ? 0 : 1;
}
