// processes.cpp - the same attention with ranks as processes that somebody else has started; alone, it starts four itself.
// SPDX-License-Identifier: Apache-2.0
//
//     example_processes                                      forks its ranks
//     seqccl launch --ranks 3 -- example_processes           or torchrun, mpirun, srun: on several hosts too
//
// What happens when rank 2 stops in the midst of it, who notices, and what they leave for `seqccl doctor records`:
//
// SEQCCL_FLIGHT_RECORD=records SEQCCL_TIMEOUT=2 SEQCCL_FAULT=rank=2,op=ring,step=3,kind=stop seqccl launch --ranks 4 -- example_processes
#include <seqccl/log.hpp>
#include <seqccl/seqccl.hpp>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

constexpr std::int64_t N = 500, Hq = 4, Hkv = 2, D = 32;  // N tokens: the shards need not be equal

/// Every rank has its shard of q, k, v and gets its shard of out. v is 1 everywhere, so that out, a weighted mean of v, must be 1.
int attend(seqccl::Communicator& comm) {
  const auto partition = seqccl::Partition::zigzag(N, comm.size());
  const std::vector<std::int64_t> positions = partition.position_ids(comm.rank());  // of the tokens of this rank
  const auto T = static_cast<std::int64_t>(positions.size());
  std::vector<float> q(T * Hq * D), k(T * Hkv * D), v(T * Hkv * D, 1.0F), out(T * Hq * D), lse(Hq * T);
  for (std::size_t i = 0; i < q.size(); ++i) q[i] = std::sin(0.1F * static_cast<float>(positions[i / (Hq * D)] + i % D));
  for (std::size_t i = 0; i < k.size(); ++i) k[i] = std::sin(0.2F * static_cast<float>(positions[i / (Hkv * D)] + i % D));

  seqccl::Attention attention(comm, {.q_heads = Hq,
                                     .kv_heads = Hkv,
                                     .head_dim = D,
                                     .partition = partition,
                                     .mask = seqccl::Mask::causal(),
                                     .method = seqccl::Method::ring});
  const auto view = [&](std::vector<float>& x, std::int64_t heads) { return seqccl::view(x.data(), seqccl::f32, {1, T, heads, D}); };
  attention.forward(view(q, Hq), view(k, Hkv), view(v, Hkv), view(out, Hq), seqccl::view(lse.data(), seqccl::f32, {1, Hq, T}));

  float worst = 0;
  for (const float x : out) worst = std::max(worst, std::abs(x - 1));
  std::printf("rank %d of %d, %lld tokens over %s: out is 1 within %.1e\n", comm.rank(), comm.size(), static_cast<long long>(T),
              comm.transport().name(), static_cast<double>(worst));
  return worst < 1e-5F ? 0 : 1;
}

}  // namespace

int main() {
  seqccl::set_log_sink([](std::string_view line) { std::fprintf(stderr, "%.*s\n", static_cast<int>(line.size()), line.data()); });
  const bool is_launched = std::getenv("SEQCCL_RANK") || std::getenv("RANK") || std::getenv("OMPI_COMM_WORLD_RANK") ||
                           std::getenv("PMI_RANK") || std::getenv("SLURM_STEP_ID");
  try {
    if (is_launched) {
      seqccl::Communicator comm = seqccl::Communicator::from_env();
      return attend(comm);
    }
    seqccl::run_processes(4, [](seqccl::Communicator& comm) {
      if (attend(comm) != 0) throw seqccl::Error(seqccl::ErrorKind::local, "out is wrong", {comm.rank()});
    });
    return 0;
  } catch (const seqccl::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return error.kind() == seqccl::ErrorKind::argument ? 2 : 3;
  }
}
