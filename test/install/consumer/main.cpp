// main.cpp - a user's program: two ranks as threads compute causal attention with the installed library.
// SPDX-License-Identifier: Apache-2.0
#include <seqccl/seqccl.hpp>

#include <cmath>
#include <cstdio>
#include <vector>

int main() {
  const std::int64_t N = 64, H = 2, D = 8;
  const auto part = seqccl::Partition::zigzag(N, 2);
  bool is_right = true;
  seqccl::run_ranks(2, [&](seqccl::Communicator& comm) {
    const std::int64_t T = part.tokens_on(comm.rank());
    const std::vector<float> ones(static_cast<std::size_t>(T * H * D), 1);
    std::vector<float> out(ones.size()), lse(static_cast<std::size_t>(H * T));
    seqccl::Attention attention{
        comm, {.q_heads = H, .head_dim = D, .partition = part, .mask = seqccl::Mask::causal(), .method = seqccl::Method::ring}};
    const auto in = seqccl::view(ones.data(), seqccl::f32, {1, T, H, D});
    attention.forward(in, in, in, seqccl::view(out.data(), seqccl::f32, {1, T, H, D}), seqccl::view(lse.data(), seqccl::f32, {1, H, T}));
    for (const float value : out)
      if (!(std::abs(value - 1) < 1e-5f)) is_right = false;  // a mean of ones
  });
  std::puts(is_right ? "right" : "wrong");
  return is_right ? 0 : 1;
}
