// micro.cpp - microbenchmarks (Google Benchmark): planning, checking, executor overhead, the attend kernel, moving k and v.
// SPDX-License-Identifier: Apache-2.0
#include <benchmark/benchmark.h>

#include <chrono>
#include <cmath>
#include <mutex>
#include <utility>
#include <vector>

#include "seqccl/check.hpp"
#include "seqccl/collectives.hpp"
#include "seqccl/communicator.hpp"
#include "seqccl/execute.hpp"
#include "seqccl/kernels.hpp"

namespace {

using namespace seqccl;
using Seconds = std::chrono::duration<double>;

AttentionSpec causal_zigzag(std::int64_t num_tokens, int num_ranks) {
  AttentionSpec spec;
  spec.q_heads = 8;
  spec.kv_heads = 2;
  spec.head_dim = 64;
  spec.partition = Partition::zigzag(num_tokens, num_ranks);
  spec.mask = Mask::causal();
  spec.method = Method::ring;
  return spec;
}

/// One rank of 64; 8 ranks share a node.
void plan_one_rank(benchmark::State& state, const char* method) {
  AttentionSpec spec = causal_zigzag(1 << 20, 64);
  choose_method(spec, method, Topology::nodes(8, 8));
  const MethodEntry& entry = entry_of(spec.method);
  for (auto run : state) {
    (void)run;
    benchmark::DoNotOptimize(entry.forward(spec, 17, {}));
  }
}
BENCHMARK_CAPTURE(plan_one_rank, ring, "ring")->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(plan_one_rank, bidirectional_ring, "bidirectional_ring")->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(plan_one_rank, mesh_8x8, "mesh")->Unit(benchmark::kMicrosecond);

/// A document mask of 64 documents, new in every step of training.
void plan_one_rank_documents(benchmark::State& state) {
  AttentionSpec spec = causal_zigzag(1 << 20, 64);
  std::vector<std::int64_t> lengths;
  for (int i = 0; i < 32; ++i) lengths.insert(lengths.end(), {(1 << 14) - 100 * i, (1 << 14) + 100 * i});
  for (auto run : state) {
    (void)run;
    spec.mask = Mask::causal() & Mask::documents(lengths);
    benchmark::DoNotOptimize(collectives::ring_forward(spec, 17));
  }
}
BENCHMARK(plan_one_rank_documents)->Unit(benchmark::kMicrosecond);

void record_and_check_64_ranks(benchmark::State& state, const char* method) {
  AttentionSpec spec = causal_zigzag(1 << 20, 64);
  choose_method(spec, method, Topology::nodes(8, 8));
  const Claim claim{&spec.partition, &spec.mask, spec.batch, spec.q_heads, spec.num_kv_heads()};
  for (auto run : state) {
    (void)run;
    const std::vector<Schedule> schedules = record_all(entry_of(spec.method).forward, spec);
    if (!check(schedules, claim).ok()) state.SkipWithError("the plan is not proven");
  }
}
BENCHMARK_CAPTURE(record_and_check_64_ranks, ring, "ring")->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(record_and_check_64_ranks, double_ring, "double_ring")->Unit(benchmark::kMillisecond);

/// What a decode step plans: where the new tokens of 32 batch rows go and which rows of 64-token pages each of them sees.
void plan_decode_step(benchmark::State& state) {
  constexpr int num_ranks = 8;
  constexpr std::int64_t batch = 32, page_tokens = 64, row_pages = 128;
  DecodeSpec spec;
  spec.batch = batch;
  spec.q_heads = 8;
  spec.kv_heads = 2;
  spec.head_dim = 64;
  spec.merge = DecodeMerge::butterfly;
  std::vector<std::int32_t> page_table(batch * row_pages);
  for (std::size_t i = 0; i < page_table.size(); ++i) page_table[i] = static_cast<std::int32_t>(i * 7 % page_table.size());  // scattered
  const collectives::CacheRows rows{.capacity = row_pages * page_tokens,
                                    .page_tokens = page_tokens,
                                    .page_rows = page_tokens,
                                    .num_pages = batch * row_pages,
                                    .page_table = page_table};
  std::vector<std::int64_t> lengths(batch), positions(batch);
  for (std::size_t b = 0; b < batch; ++b) lengths[b] = 4000 + 100 * static_cast<std::int64_t>(b);
  for (std::size_t b = 0; b < batch; ++b) positions[b] = num_ranks * lengths[b];
  const std::vector<Rank> owners = decode_owners(positions, spec.q_tokens, num_ranks);
  collectives::CacheStep step;
  collectives::plan_cache_step(spec, num_ranks, 0, rows, lengths, owners, step);
  Schedule schedule = collectives::decode(spec, num_ranks, 0, batch * row_pages * page_tokens, step.slices);
  for (auto run : state) {
    (void)run;
    collectives::plan_cache_step(spec, num_ranks, 0, rows, lengths, owners, step);
    collectives::replace_slices(schedule, step.slices);
    benchmark::DoNotOptimize(schedule.slices.data());
  }
}
BENCHMARK(plan_decode_step)->Unit(benchmark::kMicrosecond);

/// Steps that do next to nothing on one rank: what is left is the executor.
void executor_per_compute_step(benchmark::State& state) {
  constexpr int num_steps = 1000;
  Recorder plan{"overhead", 0, 1};
  const Block block = plan.scratch(f32, {1, 1, 1, 1});
  for (int i = 0; i < num_steps; ++i) plan.compute(Zero{Out(block)});
  const Schedule schedule = std::move(plan).finish("overhead");
  run_ranks(1, [&](Communicator& comm) {
    const Bindings memory(schedule, comm.arena(schedule.workspace_bytes));
    for (auto run : state) {
      (void)run;
      run_host(schedule, memory, comm.transport(), {});
    }
  });
  state.counters["per step"] = benchmark::Counter(num_steps, benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}
BENCHMARK(executor_per_compute_step)->Unit(benchmark::kMicrosecond);

/// Runs `schedules` (one per rank) on rank threads; the time is that of the slowest rank, found by the ranks themselves.
void run_on_ranks(benchmark::State& state, const std::vector<Schedule>& schedules, int runs_per_iteration) {
  for (auto run : state) {
    (void)run;
    double slowest_s = 0;
    std::mutex mutex;
    run_ranks(static_cast<int>(schedules.size()), [&](Communicator& comm) {
      const Schedule& schedule = schedules[static_cast<std::size_t>(comm.rank())];
      const Bindings memory(schedule, comm.arena(schedule.workspace_bytes));
      run_host(schedule, memory, comm.transport(), {});  // all have arrived, and pages are touched
      const auto begin = std::chrono::steady_clock::now();
      for (int i = 0; i < runs_per_iteration; ++i) run_host(schedule, memory, comm.transport(), {});
      const double seconds = Seconds(std::chrono::steady_clock::now() - begin).count();
      const std::lock_guard lock(mutex);
      slowest_s = std::max(slowest_s, seconds);
    });
    state.SetIterationTime(slowest_s / runs_per_iteration);
  }
}

/// Two ranks pass 64 bytes to each other, one exchange after the other: latency of one exchange.
void exchange_per_step(benchmark::State& state) {
  constexpr int num_steps = 200;
  std::vector<Schedule> schedules;
  for (Rank rank = 0; rank < 2; ++rank) {
    Recorder plan{"ping", rank, 2};
    const Block here = plan.scratch(f32, {1, 1, 1, 16}), there = plan.scratch(f32, {1, 1, 1, 16});
    plan.compute(Zero{Out(here)});
    for (int i = 0; i < num_steps; ++i) plan.exchange({{1 - rank, i % 2 == 0 ? here : there}}, {{1 - rank, i % 2 == 0 ? there : here}});
    schedules.push_back(std::move(plan).finish("ping"));
  }
  run_on_ranks(state, schedules, 10);
  state.counters["per exchange"] =
      benchmark::Counter(num_steps, benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}
BENCHMARK(exchange_per_step)->UseManualTime()->Unit(benchmark::kMicrosecond);

/// Every rank sends its k and v to all others; argument: KiB of k and v per rank.
void all_gather_kv(benchmark::State& state) {
  constexpr int num_ranks = 4;
  const std::int64_t num_tokens = state.range(0) * 1024 / (2 * 64 * 4);
  std::vector<Schedule> schedules;
  for (Rank rank = 0; rank < num_ranks; ++rank) {
    Recorder plan{"all-gather", rank, num_ranks};
    std::vector<Transfer> sends, receives;
    const Block own = plan.scratch(f32, {1, num_tokens, 2, 64});
    plan.compute(Zero{Out(own)});
    for (Rank peer = 0; peer < num_ranks; ++peer) {
      if (peer == rank) continue;
      sends.push_back({peer, own});
      receives.push_back({peer, plan.scratch(f32, {1, num_tokens, 2, 64})});
    }
    plan.exchange(sends, receives);
    schedules.push_back(std::move(plan).finish("all-gather"));
  }
  run_on_ranks(state, schedules, 5);
  state.SetBytesProcessed(state.iterations() * state.range(0) * 1024 * num_ranks * (num_ranks - 1));
}
BENCHMARK(all_gather_kv)->Arg(64)->Arg(1024)->Arg(8192)->UseManualTime()->Unit(benchmark::kMicrosecond);

/// The attend kernel, causal, one thread; argument: tokens.
void attend_kernel(benchmark::State& state) {
  const std::int64_t T = state.range(0), Hq = 8, Hkv = 2, D = 64;
  const auto fill = [](std::int64_t count) {
    std::vector<float> numbers(static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = std::sin(static_cast<float>(i % 9973));
    return numbers;
  };
  const std::vector<float> q = fill(T * Hq * D), k = fill(T * Hkv * D), v = fill(T * Hkv * D);
  std::vector<float> out(q.size()), lse(static_cast<std::size_t>(T * Hq));
  const std::vector<BandSlice> slices = Mask::causal().bind(T, 1);
  AttendArguments arguments;
  arguments.q = view(q.data(), f32, {1, T, Hq, D});
  arguments.k = view(k.data(), f32, {1, T, Hkv, D});
  arguments.v = view(v.data(), f32, {1, T, Hkv, D});
  arguments.out = view(out.data(), f32, {1, T, Hq, D});
  arguments.lse = view(lse.data(), f32, {1, T, Hq, 1});
  arguments.slices = slices;
  arguments.heads.group = static_cast<std::int32_t>(Hq / Hkv);
  arguments.scale = 0.125f;
  arguments.fresh = true;
  for (auto run : state) {
    (void)run;
    cpu::attend(arguments);
    benchmark::ClobberMemory();
  }
  const double flops = 4.0 * static_cast<double>(T) * static_cast<double>(T + 1) / 2 * static_cast<double>(Hq * D);
  state.counters["FLOP/s"] = benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(attend_kernel)->Arg(256)->Arg(1024)->Arg(4096)->Unit(benchmark::kMillisecond);

}  // namespace

BENCHMARK_MAIN();
