// one_layer.hpp - a small softmax layer on one rank, and what a call threw.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <optional>

#include "collectives/plans.hpp"
#include "cuda_layers/on_device.hpp"
#include "support/ranks.hpp"

namespace seqccl::test {

inline AttentionSpec ring_spec(int num_ranks, Method method = Method::ring) {
  AttentionSpec spec = small_spec(Partition::zigzag(8 * num_ranks, num_ranks), Mask::causal());
  spec.dtype = bf16, spec.method = method;
  return spec;
}

struct OneLayer {
  explicit OneLayer(const AttentionSpec& spec, Communicator& comm, Place& on) : place(on), attention(comm, spec) {
    const std::int64_t T = spec.partition.tokens_on(comm.rank());
    q = random_tensor(spec.dtype, {1, T, spec.q_heads, spec.head_dim}, 1 + static_cast<std::uint64_t>(comm.rank()));
    other = random_tensor(spec.dtype, {1, T, spec.num_kv_heads(), spec.head_dim}, 90 + static_cast<std::uint64_t>(comm.rank()));
    k = v = random_tensor(spec.dtype, {1, T, spec.num_kv_heads(), spec.head_dim}, 50 + static_cast<std::uint64_t>(comm.rank()));
    out = HostTensor(spec.dtype, {1, T, spec.q_heads, spec.head_dim});
    lse = HostTensor(f32, {1, spec.q_heads, T});
  }
  void forward() { forward_with(k); }
  /// `keys`: k or other, so that what an earlier run left is wrong.
  void forward_with(const HostTensor& keys) {
    attention.forward(place.in(q.view()), place.in(keys.view()), place.in(v.view()), place.out(out.view()), place.out(lse.view()));
  }
  /// As a program that stays on the device.
  void wait() { require(cudaStreamSynchronize(dynamic_cast<OnDevice&>(place).stream()), "cudaStreamSynchronize"); }
  void wait_and_look(Communicator& comm) {
    wait();
    comm.check();
  }
  void forward_and_look(Communicator& comm) {
    forward();
    wait_and_look(comm);
  }
  Place& place;
  Attention attention;
  HostTensor q, k, v, other, out, lse;
};

/// What `call` threw; nothing is a kind of its own.
struct Thrown {
  std::optional<ErrorKind> kind{};
  std::string text = "nothing";
  std::vector<Rank> culprits{};
};
inline Thrown error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return {error.kind(), error.what(), error.culprits()};
  }
  return {};
}

}  // namespace seqccl::test
