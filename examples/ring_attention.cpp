// ring_attention.cpp - causal attention of 512 tokens and its gradients over 4 ranks, which are threads of this process.
// SPDX-License-Identifier: Apache-2.0
#include <seqccl/seqccl.hpp>

#include <cmath>
#include <cstdio>
#include <numeric>
#include <string>
#include <vector>

int main() {
  constexpr std::int64_t N = 512, P = 4, T = N / P, Hq = 8, Hkv = 2, D = 64;
  std::vector<double> with_out(P), with_v(P);  // <dout, out> and <dv, v>, every rank's share
  std::string explanation;

  seqccl::run_ranks(P, [&](seqccl::Communicator& comm) {
    const auto partition = seqccl::Partition::zigzag(N, comm.size());
    std::vector<float> q(T * Hq * D), k(T * Hkv * D), v(T * Hkv * D), out(T * Hq * D), lse(Hq * T);
    std::vector<float> dout(q.size()), dq(q.size()), dk(k.size()), dv(v.size());
    const auto positions = partition.position_ids(comm.rank());  // which tokens this rank holds
    const auto fill = [&](std::vector<float>& x, double frequency) {
      const std::size_t row = x.size() / T;
      for (std::size_t i = 0; i < x.size(); ++i)
        x[i] = static_cast<float>(std::sin(frequency * static_cast<double>(positions[i / row]) + static_cast<double>(i % row)));
    };
    fill(q, 0.1), fill(k, 0.2), fill(v, 0.3), fill(dout, 0.4);
    const auto view = [&](std::vector<float>& x, std::int64_t heads) { return seqccl::view(x.data(), seqccl::f32, {1, T, heads, D}); };
    const auto lse_view = seqccl::view(lse.data(), seqccl::f32, {1, Hq, T});

    seqccl::Attention attention(comm, {.q_heads = Hq,
                                       .kv_heads = Hkv,
                                       .head_dim = D,
                                       .partition = partition,
                                       .mask = seqccl::Mask::causal(),
                                       .method = seqccl::Method::ring});
    attention.forward(view(q, Hq), view(k, Hkv), view(v, Hkv), view(out, Hq), lse_view);
    attention.backward(view(dout, Hq), view(q, Hq), view(k, Hkv), view(v, Hkv), view(out, Hq), lse_view, view(dq, Hq), view(dk, Hkv),
                       view(dv, Hkv));

    with_out[comm.rank()] = std::inner_product(out.begin(), out.end(), dout.begin(), 0.0);
    with_v[comm.rank()] = std::inner_product(v.begin(), v.end(), dv.begin(), 0.0);
    if (comm.rank() == 0) explanation = attention.explain();
  });

  const double given = std::accumulate(with_out.begin(), with_out.end(), 0.0),
               returned = std::accumulate(with_v.begin(), with_v.end(), 0.0);
  std::printf("<dout, out> %.5f = <dv, v> %.5f, as out is linear in v\n%s", given, returned, explanation.c_str());
  return std::abs(given - returned) < 1e-5 * std::abs(given) ? 0 : 1;
}
