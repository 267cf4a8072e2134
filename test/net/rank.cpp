// rank.cpp - one rank of the tests between network namespaces: compares with thread ranks, measures, or waits for what happens to others.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "seqccl/seqccl.hpp"
#include "support/tensor.hpp"

namespace seqccl::test {
namespace {

constexpr std::int64_t tokens = 240, heads = 4, dim = 32;

AttentionSpec spec_of(Method method, int num_ranks) {
  AttentionSpec spec;
  spec.q_heads = heads;
  spec.kv_heads = 2;
  spec.head_dim = dim;
  spec.method = method;
  spec.partition = Partition::zigzag(tokens, num_ranks);
  spec.mask = Mask::causal();
  return spec;
}

/// This rank's rows of the result.
HostTensor forward(Communicator& comm, Method method) {
  const AttentionSpec spec = spec_of(method, comm.size());
  const std::int64_t T = spec.partition.tokens_on(comm.rank());
  const HostTensor q = random_tensor(f32, {1, tokens, heads, dim}, 1), k = random_tensor(f32, {1, tokens, 2, dim}, 2),
                   v = random_tensor(f32, {1, tokens, 2, dim}, 3);
  HostTensor my_q(f32, {1, T, heads, dim}), my_k(f32, {1, T, 2, dim}), my_v(f32, {1, T, 2, dim}), out(f32, {1, T, heads, dim}),
      lse(f32, {1, heads, T});
  spec.partition.shard(q.view(), comm.rank(), my_q.view());
  spec.partition.shard(k.view(), comm.rank(), my_k.view());
  spec.partition.shard(v.view(), comm.rank(), my_v.view());
  Attention attention(comm, spec);
  for (int repeat = 0; repeat < 3; ++repeat)
    attention.forward(std::as_const(my_q).view(), std::as_const(my_k).view(), std::as_const(my_v).view(), out.view(), lse.view());
  return out;
}

/// Bit by bit what thread ranks get.
int check(Communicator& comm) {
  for (const Method method : {Method::ring, Method::kv_all_gather, Method::head_swap, Method::token_ring}) {
    const HostTensor got = forward(comm, method);
    std::vector<HostTensor> want(static_cast<std::size_t>(comm.size()));
    run_ranks(comm.size(), [&](Communicator& threads) { want[static_cast<std::size_t>(threads.rank())] = forward(threads, method); });
    if (got.bytes != want[static_cast<std::size_t>(comm.rank())].bytes) {
      fmt::print("rank {}: {} is not what thread ranks get\n", comm.rank(), name(method));
      return 1;
    }
  }
  fmt::print("rank {} of {} over {}: equal, node {}\n", comm.rank(), comm.size(), comm.transport().name(),
             comm.topology().node.empty() ? 0 : comm.topology().node[static_cast<std::size_t>(comm.rank())]);
  return 0;
}

/// Megabytes a second that a rank receives in an all-gather of large blocks.
int rate(Communicator& comm) {
  constexpr std::int64_t T = 1 << 14;
  const bool one_way = std::getenv("ONE_WAY") != nullptr;
  const Partition partition =
      one_way ? Partition::uneven(std::vector<std::int64_t>{0, T}) : Partition::contiguous(T * comm.size(), comm.size());
  SequenceGather gather(comm, {.heads = 2, .head_dim = 64, .partition = partition});
  const HostTensor mine = random_tensor(f32, {1, partition.tokens_on(comm.rank()), 2, 64}, comm.rank());
  HostTensor whole(f32, {1, partition.num_tokens(), 2, 64});
  gather.gather(mine.view(), whole.view());
  const auto begin = SteadyClock::now();
  constexpr int num_runs = 4;
  for (int run = 0; run < num_runs; ++run) gather.gather(mine.view(), whole.view());
  const double seconds = std::chrono::duration<double>(SteadyClock::now() - begin).count();
  const double bytes = num_runs * static_cast<double>(comm.size() - 1) * static_cast<double>(T * 512);
  if (comm.rank() == 0) fmt::print("megabytes_per_s {:.1f}\n", bytes / seconds / 1e6);
  return 0;
}

/// Small operations until the group fails.
int wait(Communicator& comm) {
  const Partition partition = Partition::contiguous(4 * comm.size(), comm.size());
  SequenceGather gather(comm, {.heads = 1, .head_dim = 8, .partition = partition});
  const HostTensor mine = random_tensor(f32, {1, 4, 1, 8}, comm.rank());
  HostTensor whole(f32, {1, partition.num_tokens(), 1, 8});
  fmt::print("rank {} waits\n", comm.rank());
  std::fflush(stdout);
  try {
    for (;;) gather.gather(mine.view(), whole.view());
  } catch (const Error& error) {
    fmt::print("rank {}: {} {}: {}\n", comm.rank(), name(error.kind()), fmt::join(error.culprits(), ","), error.what());
    return 0;
  }
}

/// Small operations until the group fails; then the same numbers as thread ranks in the group of those who are left.
int shrink(Communicator& comm) {
  const int code = wait(comm);
  const Rank before = comm.rank();
  try {
    comm = comm.shrink({.timeout = std::chrono::seconds(15)});
  } catch (const Error& error) {
    fmt::print("rank {} stays behind: {} {}\n", before, name(error.kind()), error.what());
    return code;
  }
  fmt::print("rank {} goes on with {}\n", before, fmt::join(comm.former_ranks(), ","));
  return check(comm);
}

/// 77: there is no transport between hosts here.
int look() {
  const TransportState ucx = transport_state(ProcessTransport::ucx);
  fmt::print("{}\n", ucx.text);
  return ucx.is_there ? 0 : 77;
}

int run(const std::string& what) {
  if (what == "look") return look();
  Communicator comm = Communicator::from_env({.timeout = std::chrono::seconds(what == "wait" || what == "shrink" ? 2 : 60)});
  return what == "check" ? check(comm) : what == "rate" ? rate(comm) : what == "shrink" ? shrink(comm) : wait(comm);
}

}  // namespace
}  // namespace seqccl::test

int main(int argc, char** argv) {
  try {
    return seqccl::test::run(argc > 1 ? argv[1] : "check");
  } catch (const std::exception& error) {
    fmt::print("{}\n", error.what());
    return 3;
  }
}
