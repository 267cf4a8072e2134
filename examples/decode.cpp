// decode.cpp - 40 tokens are decoded one by one over a key/value cache that 4 ranks share, against one softmax over all of it.
// SPDX-License-Identifier: Apache-2.0
#include <seqccl/seqccl.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

namespace {
constexpr std::int64_t N = 40, Hq = 4, Hkv = 2, D = 8;

float number(double frequency, std::int64_t t, std::int64_t i) { return static_cast<float>(std::sin(frequency * double(t) + double(i))); }

/// Number d of head h of the result for the last token so far, t.
double serial(std::int64_t t, std::int64_t h, std::int64_t d) {
  double sum = 0, weights = 0;
  for (std::int64_t j = 0; j <= t; ++j) {
    double score = 0;
    for (std::int64_t i = 0; i < D; ++i)
      score += double(number(0.1, t, h * D + i)) * double(number(0.2, j, h / (Hq / Hkv) * D + i)) / std::sqrt(double(D));
    weights += std::exp(score);
    sum += std::exp(score) * double(number(0.3, j, h / (Hq / Hkv) * D + d));
  }
  return sum / weights;
}
}  // namespace

int main() {
  std::vector<double> worst(4);
  seqccl::run_ranks(4, [&](seqccl::Communicator& comm) {
    std::vector<float> k_cache(N * Hkv * D), v_cache(N * Hkv * D);  // room for all tokens; a rank holds a quarter of them
    std::vector<std::int64_t> lengths = {0};
    const seqccl::DecodeCache cache = {.k = seqccl::view(k_cache.data(), seqccl::f32, {1, N, Hkv, D}),
                                       .v = seqccl::view(v_cache.data(), seqccl::f32, {1, N, Hkv, D}),
                                       .lengths = lengths};
    seqccl::Decode decode(comm, {.q_heads = Hq, .kv_heads = Hkv, .head_dim = D});
    for (std::int64_t t = 0; t < N; ++t) {  // every rank has the new token; its owner stores it
      std::vector<float> q(Hq * D), k(Hkv * D), v(Hkv * D), out(Hq * D), lse(Hq);
      for (std::int64_t i = 0; i < Hq * D; ++i) q[i] = number(0.1, t, i);
      for (std::int64_t i = 0; i < Hkv * D; ++i) k[i] = number(0.2, t, i), v[i] = number(0.3, t, i);
      const auto view = [](std::vector<float>& x, std::int64_t heads) { return seqccl::view(x.data(), seqccl::f32, {1, 1, heads, D}); };
      const std::vector<seqccl::Rank> owners = {seqccl::decode_owner(t, comm.size())};
      decode.append(view(q, Hq), view(k, Hkv), view(v, Hkv), owners, cache, view(out, Hq),
                    seqccl::view(lse.data(), seqccl::f32, {1, Hq, 1}));
      for (std::int64_t i = 0; i < Hq * D; ++i)
        worst[comm.rank()] = std::max(worst[comm.rank()], std::abs(out[i] - serial(t, i / D, i % D)));
    }
  });
  const double error = *std::max_element(worst.begin(), worst.end());
  std::printf("largest error against one softmax: %.2e\n", error);
  return error < 1e-5 ? 0 : 1;
}
