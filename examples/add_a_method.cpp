// add_a_method.cpp - a new method from the recorder up: record it, prove it, simulate it, run it, compare it with the reference.
// SPDX-License-Identifier: Apache-2.0
#include <seqccl/check.hpp>
#include <seqccl/collectives.hpp>
#include <seqccl/cost.hpp>
#include <seqccl/execute.hpp>
#include <seqccl/explain.hpp>
#include <seqccl/seqccl.hpp>
#include <seqccl/simulate.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>
#include <vector>

namespace {

using namespace seqccl;
using Numbers = std::vector<float>;

// --- 1. Record. -------------------------------------------------------------------------------------------------------
//
// broadcast_queries: keys and values stay; every rank gets everybody's queries at once and returns a partial result to each owner.
//
//     comm     ██ q of all others ██
//     comm2                           ██ partial for r+1 ██ partial for r+2 ...
//     compute  ████ own block ████ queries of r+1 ████ queries of r+2 ████ merge ...
Schedule broadcast_queries(const AttentionSpec& spec, Rank rank, const RecordOptions& options) {
  const Partition& partition = spec.partition;
  const int P = partition.num_ranks();
  const std::int64_t B = spec.batch, T = partition.tokens_on(rank), Hq = spec.q_heads, Hkv = spec.num_kv_heads(), D = spec.head_dim;
  const BoundMask mask(spec.mask, partition.num_tokens(), B);

  Recorder plan{"broadcast_queries forward", rank, P};
  const Block q = plan.input(Tensor::q, spec.dtype, {B, T, Hq, D}, options.inputs_sendable);
  const Block k = plan.input(Tensor::k, spec.dtype, {B, T, Hkv, D}, options.inputs_sendable);
  const Block v = plan.input(Tensor::v, spec.dtype, {B, T, Hkv, D}, options.inputs_sendable);
  const Block out = plan.output(Tensor::out, f32, {B, T, Hq, D}), lse = plan.output(Tensor::lse, f32, {B, T, Hq, 1});

  const auto attend = [&](const Block& queries, Rank owner, const Block& to, const Block& to_lse) {
    Attend op;
    op.q = queries, op.k = k, op.v = v;
    op.out = to, op.lse = to_lse;
    op.slices = plan.slices(mask.between(partition.pieces(owner), partition.pieces(rank)));
    op.heads.group = static_cast<std::int32_t>(Hq / Hkv);
    op.scale = spec.scale_or_default();
    op.fresh = true;
    plan.compute(op, owner);
  };

  const Block mine = plan.sendable(q);  // q itself, or a packed copy
  std::vector<Block> theirs;            // [i]: queries of rank r + 1 + i
  std::vector<Transfer> sends, receives;
  for (int i = 1; i < P; ++i) {
    const Rank to = (rank + P - i) % P, from = (rank + i) % P;
    theirs.push_back(plan.scratch(spec.dtype, {B, partition.tokens_on(from), Hq, D}));
    sends.push_back({to, mine});
    receives.push_back({from, theirs.back()});
  }
  plan.exchange(std::move(sends), std::move(receives), Lane::comm);
  attend(q, rank, out, lse);  // while the others' queries come in

  std::vector<std::pair<Block, Block>> returned;  // partial out, lse of my queries, by who made it: r - 1, r - 2, ...
  for (int i = 1; i < P; ++i) {
    const Rank owner = (rank + i) % P, maker = (rank + P - i) % P;
    const std::int64_t rows = partition.tokens_on(owner);
    const Block part = plan.scratch(f32, {B, rows, Hq, D}), part_lse = plan.scratch(f32, {B, rows, Hq, 1});
    returned.emplace_back(plan.scratch(f32, {B, T, Hq, D}), plan.scratch(f32, {B, T, Hq, 1}));
    attend(theirs[static_cast<std::size_t>(i - 1)], owner, part, part_lse);
    plan.exchange({{owner, part}, {owner, part_lse}}, {{maker, returned.back().first}, {maker, returned.back().second}}, Lane::comm2);
  }
  for (const auto& [back, back_lse] : returned) plan.compute(Merge{back, back_lse, out, lse});  // always in this order
  return std::move(plan).finish(spec.describe());
}

Numbers numbers(std::int64_t count, double frequency) {
  Numbers result(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < result.size(); ++i) result[i] = static_cast<float>(2 * std::sin(frequency * static_cast<double>(i % 9973)));
  return result;
}

}  // namespace

int main() {
  constexpr std::int64_t N = 61, P = 4, Hq = 4, Hkv = 2, D = 16;
  AttentionSpec spec;
  spec.q_heads = Hq;
  spec.kv_heads = Hkv;
  spec.head_dim = D;
  spec.partition = Partition::zigzag(N, P);
  spec.mask = Mask::causal();

  // --- 2. Prove: messages match, nothing can deadlock, no races, every visible pair once. No rank has run yet. ----------
  const std::vector<Schedule> schedules = record_all(broadcast_queries, spec);
  const CheckReport report =
      check(schedules, {.partition = &spec.partition, .mask = &spec.mask, .batch = 1, .q_heads = Hq, .kv_heads = Hkv});
  if (!report.ok()) {
    std::fputs(report.text().c_str(), stderr);
    return 1;
  }

  // --- 3. Simulate on a cluster of your choice; bytes and messages are counted from the plan. ---------------------------
  Cluster cluster;
  cluster.topology = Topology::nodes(2, 2);
  cluster.between = {.latency_s = 5e-6, .bytes_per_s = 2e9};
  std::fputs(explain(schedules, simulate(schedules, cluster), cluster).c_str(), stdout);

  // --- 4. Run on thread ranks. -------------------------------------------------------------------------------------------
  const Numbers q = numbers(N * Hq * D, 0.7), k = numbers(N * Hkv * D, 1.3), v = numbers(N * Hkv * D, 2.1);
  const ConstTensorView whole_q = view(q.data(), f32, {1, N, Hq, D}), whole_k = view(k.data(), f32, {1, N, Hkv, D}),
                        whole_v = view(v.data(), f32, {1, N, Hkv, D});
  Numbers gathered(N * Hq * D), gathered_lse(N * Hq);
  std::vector<std::uint64_t> received(P);
  const std::string description = spec.describe();  // what ranks compare if they are not in the same operation
  run_ranks(P, [&](Communicator& comm) {
    const Schedule& schedule = schedules[static_cast<std::size_t>(comm.rank())];
    const std::int64_t T = spec.partition.tokens_on(comm.rank());
    Numbers mine_q(T * Hq * D), mine_k(T * Hkv * D), mine_v(T * Hkv * D), out(T * Hq * D), lse(T * Hq);
    const TensorView my_q = view(mine_q.data(), f32, {1, T, Hq, D}), my_k = view(mine_k.data(), f32, {1, T, Hkv, D}),
                     my_v = view(mine_v.data(), f32, {1, T, Hkv, D}), my_out = view(out.data(), f32, {1, T, Hq, D});
    spec.partition.shard(whole_q, comm.rank(), my_q);
    spec.partition.shard(whole_k, comm.rank(), my_k);
    spec.partition.shard(whole_v, comm.rank(), my_v);

    Bindings memory(schedule, comm.arena(schedule.workspace_bytes));
    memory.bind(Tensor::q, my_q);
    memory.bind(Tensor::k, my_k);
    memory.bind(Tensor::v, my_v);
    memory.bind(Tensor::out, my_out);
    const TensorView my_lse = view(lse.data(), f32, {1, T, Hq, 1});
    memory.bind(Tensor::lse, my_lse);
    run_host(schedule, memory, comm.transport(),
             {.timeout = comm.timeout(), .num_threads = comm.num_threads(), .description = description});

    spec.partition.unshard(my_out, comm.rank(), view(gathered.data(), f32, {1, N, Hq, D}));  // ranks write different tokens
    spec.partition.unshard(my_lse, comm.rank(), view(gathered_lse.data(), f32, {1, N, Hq, 1}));
    for (const std::uint64_t bytes : comm.received_bytes()) received[comm.rank()] += bytes;
  });

  // --- 5. Compare with dense attention in double, and the bytes that the transport counted with those of the plan. --------
  const std::vector<BandSlice> slices = spec.mask.bind(N, 1);
  Numbers exact(N * Hq * D), exact_lse(Hq * N);
  reference::attend({whole_q, whole_k, whole_v, {}, slices, spec.scale_or_default()}, view(exact.data(), f32, {1, N, Hq, D}),
                    view(exact_lse.data(), f32, {1, Hq, N}));
  bool right = true;
  float error = 0;
  const auto compare = [&](float got, float want) {
    error = std::max(error, std::abs(got - want));
    right = right && std::abs(got - want) < 1e-5F;  // false for NaN
  };
  for (std::size_t i = 0; i < exact.size(); ++i) compare(gathered[i], exact[i]);
  for (std::size_t t = 0; t < N; ++t)
    for (std::size_t h = 0; h < Hq; ++h) compare(gathered_lse[t * Hq + h], exact_lse[h * N + t]);
  for (Rank rank = 0; rank < P; ++rank)
    right = right && received[rank] == cost_of(schedules[static_cast<std::size_t>(rank)]).total_received_bytes;
  std::printf("largest error %.1e: %s\n", static_cast<double>(error), right ? "right" : "WRONG");
  return right ? 0 : 1;
}
