// linear_attention.cpp - a gated linear layer of 300 tokens over 4 ranks, which are threads, against the recurrence token by token.
// SPDX-License-Identifier: Apache-2.0
#include <seqccl/seqccl.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

namespace {
constexpr std::int64_t N = 300, H = 2, D = 8;

/// Number i of token t: any smooth numbers will do.
float number(double frequency, std::int64_t t, std::int64_t i) { return static_cast<float>(std::sin(frequency * double(t) + double(i))); }
float log_decay(std::int64_t t, std::int64_t h) { return -0.05f * (1 + number(0.7, t, h)); }

/// S_t = exp(log_decay_t) S_(t-1) + k_t v_t^T, out_t = S_t^T q_t.
std::vector<double> serial() {
  std::vector<double> out(N * H * D), state(H * D * D);
  for (std::int64_t t = 0; t < N; ++t)
    for (std::int64_t h = 0; h < H; ++h)
      for (std::int64_t i = 0; i < D; ++i)
        for (std::int64_t j = 0; j < D; ++j) {
          double& s = state[(h * D + i) * D + j];
          s = std::exp(double(log_decay(t, h))) * s + double(number(0.2, t, h * D + i)) * double(number(0.3, t, h * D + j));
          out[(t * H + h) * D + j] += s * double(number(0.1, t, h * D + i));
        }
  return out;
}
}  // namespace

int main() {
  const std::vector<double> wanted = serial();
  std::vector<double> worst(4);
  seqccl::run_ranks(4, [&](seqccl::Communicator& comm) {
    const auto partition = seqccl::Partition::contiguous(N, comm.size());
    const auto positions = partition.position_ids(comm.rank());  // which tokens this rank holds
    const auto T = static_cast<std::int64_t>(positions.size());
    std::vector<float> q(T * H * D), k(T * H * D), v(T * H * D), gate(T * H), out(T * H * D);
    for (std::int64_t t = 0; t < T; ++t) {
      for (std::int64_t i = 0; i < H * D; ++i) {
        const std::int64_t at = t * H * D + i;
        q[at] = number(0.1, positions[t], i), k[at] = number(0.2, positions[t], i), v[at] = number(0.3, positions[t], i);
      }
      for (std::int64_t h = 0; h < H; ++h) gate[t * H + h] = log_decay(positions[t], h);
    }
    const auto view = [&](std::vector<float>& x) { return seqccl::view(x.data(), seqccl::f32, {1, T, H, D}); };
    seqccl::LinearAttention layer(
        comm, {.heads = H, .head_dim = D, .partition = partition, .kind = seqccl::LinearKind::scalar_gate, .scan = seqccl::Scan::chain});
    layer.forward({.q = view(q), .k = view(k), .v = view(v), .log_decay = seqccl::view(gate.data(), seqccl::f32, {1, T, H})},
                  {.out = view(out)});
    for (std::int64_t i = 0; i < T * H * D; ++i)
      worst[comm.rank()] = std::max(worst[comm.rank()], std::abs(out[i] - wanted[positions[i / (H * D)] * H * D + i % (H * D)]));
  });
  const double error = *std::max_element(worst.begin(), worst.end());
  std::printf("largest error against the recurrence: %.2e\n", error);
  return error < 1e-4 ? 0 : 1;
}
