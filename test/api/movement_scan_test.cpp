// movement_scan_test.cpp - StateScan on thread ranks against the serial recurrence, both ways.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/movement.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>

#include "api/movement_support.hpp"
#include "collectives/linear_plans.hpp"

namespace seqccl::test {
namespace {

/// Runs the scan on ranks and compares with the recurrence over all runs, in double.
void expect_serial_recurrence(const StateScanSpec& spec, std::uint64_t seed) {
  SCOPED_TRACE(spec.describe());
  const Partition& partition = spec.partition;
  const int num_ranks = partition.num_ranks();
  const std::int64_t B = spec.batch, H = spec.heads, Dk = spec.key_dim, Dv = spec.value_dim, E = H * Dk * Dv;
  const bool constant = spec.decay == LinearKind::constant_decay, dense = is_delta(spec.decay);
  const std::int64_t numbers = dense ? Dk * Dk : decay_size(spec.decay, Dk);  // of a transition, per head
  struct Shard {
    HostTensor updates, transitions, entering, want;
  };
  struct Run {
    Rank owner;
    std::int64_t index;
    Segment tokens;
  };
  std::vector<Shard> shards;
  std::vector<Run> runs;
  const HostTensor initial = random_tensor(f32, {B, H, Dk, Dv}, seed), decay = random_tensor(f32, {H}, seed + 1, 0.1);
  for (Rank rank = 0; rank < num_ranks; ++rank) {
    const auto R = static_cast<std::int64_t>(partition.segments(rank).size());
    for (std::int64_t i = 0; i < R; ++i) runs.push_back({rank, i, partition.segments(rank)[static_cast<std::size_t>(i)]});
    shards.push_back({random_tensor(f32, {B, R, H, Dk, Dv}, seed + 10 + rank),
                      dense ? random_tensor(f32, {B, R, H, Dk, Dk}, seed + 50 + rank, 0.5 / std::sqrt(static_cast<double>(Dk)))
                            : random_tensor(f32, {B, R, H, std::max<std::int64_t>(numbers, 1)}, seed + 50 + rank, 0.5),
                      HostTensor(f32, {B, R, H, Dk, Dv}), HostTensor(f32, {B, R, H, Dk, Dv})});
  }
  std::sort(runs.begin(), runs.end(), [](const Run& a, const Run& b) { return a.tokens.first < b.tokens.first; });
  if (spec.reverse) std::reverse(runs.begin(), runs.end());
  std::vector<double> state(static_cast<std::size_t>(B * E), 0.0);
  for (std::int64_t i = 0; spec.initial && i < B * E; ++i) state[static_cast<std::size_t>(i)] = initial.get(i);
  for (const auto& [owner, index, tokens] : runs) {
    Shard& shard = shards[owner];
    const std::int64_t R = shard.want.geometry.shape[1];
    std::vector<double> next(state.size());
    for (std::int64_t i = 0; i < B * E; ++i) {
      const std::int64_t row = i / E * R + index, at = row * E + i % E, h = i % E / (Dk * Dv), d = i % (Dk * Dv) / Dv;
      const double number = state[static_cast<std::size_t>(i)];
      shard.want.set(at, number);
      double& sum = next[static_cast<std::size_t>(i)];
      sum = shard.updates.get(at);
      const std::int64_t first = (row * H + h) * numbers;
      for (std::int64_t e = 0; dense && e < Dk; ++e)
        sum += shard.transitions.get(first + d * Dk + e) * state[static_cast<std::size_t>(i + (e - d) * Dv)];
      if (dense) continue;
      double log_sum = 0;
      if (constant) log_sum = decay.get(h) * static_cast<double>(tokens.count);
      if (numbers != 0) log_sum = shard.transitions.get(first + (numbers == 1 ? 0 : d));
      sum += std::exp(log_sum) * number;
    }
    state = std::move(next);
  }
  on_ranks(num_ranks, [&](Communicator& comm) {
    Shard& shard = shards[comm.rank()];
    StateScan scan(comm, spec);
    EXPECT_EQ(scan.num_runs(), shard.updates.geometry.shape[1]);
    const ConstTensorView log_sums = constant ? decay.view() : numbers != 0 ? std::as_const(shard.transitions).view() : ConstTensorView{};
    for (int repeat = 0; repeat < 2; ++repeat)
      scan.run(std::as_const(shard.updates).view(), log_sums, spec.initial ? initial.view() : ConstTensorView{}, shard.entering.view());
    const Distance error = distance(shard.entering, shard.want);
    EXPECT_LE(error.max, 1e-5 * (1 + error.reference_max)) << "rank " << comm.rank();
  });
}

TEST(StateScan, IsTheSerialRecurrenceBothWays) {
  std::uint64_t number = 0;
  for (const int num_ranks : ranks_of)
    for (const LinearKind decay :
         {LinearKind::basic, LinearKind::constant_decay, LinearKind::scalar_gate, LinearKind::vector_gate, LinearKind::kda})
      for (const Scan scan : all_scans)
        for (const bool reverse : {false, true})
          for (const bool initial : {false, true}) {
            const std::int64_t N = ++number % 7 == 0 ? 3 : 26;
            const std::vector<Partition> partitions = all_partitions(N, num_ranks);
            const Partition& partition = partitions[std::array{0, 1, 3, 4}[number % 4]];  // all but striped
            expect_serial_recurrence({.batch = 1 + static_cast<std::int64_t>(number / 4 % 2),
                                      .heads = 3,
                                      .key_dim = 4,
                                      .value_dim = 5,
                                      .decay = decay,
                                      .partition = partition,
                                      .scan = scan,
                                      .reverse = reverse,
                                      .initial = initial,
                                      .column_blocks = 3,
                                      .ranks_per_node = num_ranks < 3 ? 0 : 2},
                                     number);
            if (::testing::Test::HasFailure()) return;
          }
}

TEST(StateScan, RefusesWrongArguments) {
  on_ranks(1, [](Communicator& comm) {
    const StateScanSpec spec{
        .heads = 2, .key_dim = 2, .value_dim = 3, .decay = LinearKind::scalar_gate, .partition = Partition::contiguous(4, 1)};
    StateScan scan(comm, spec);
    HostTensor states(f32, {1, 1, 2, 2, 3}), entering = states, log_sums(f32, {1, 1, 2, 1});
    EXPECT_REFUSED("StateScan::run: log_sums is missing, want f32 (1, 1, 2, 1)", scan.run(states.view(), {}, {}, entering.view()));
    EXPECT_REFUSED("StateScan::run: initial is given, want none", scan.run(states.view(), log_sums.view(), states.view(), entering.view()));
    EXPECT_REFUSED("StateScan::run: entering has shape (1, 1, 2, 1)", scan.run(states.view(), log_sums.view(), {}, log_sums.view()));
    StateScanSpec dense = spec;
    dense.decay = LinearKind::delta;
    StateScan dense_scan(comm, dense);
    EXPECT_REFUSED("StateScan::run: log_sums has shape (1, 1, 2, 1), want (1, 1, 2, 2, 2)",
                   dense_scan.run(states.view(), log_sums.view(), {}, entering.view()));
    dense.scan = Scan::pipelined_chain;
    EXPECT_REFUSED("StateScanSpec: column_blocks is 4, want 1 to 3", StateScan(comm, dense));
    StateScanSpec striped = spec;
    striped.partition = Partition::from_segments(4, {{{0, 2, 2}, {1, 2, 2}}});
    EXPECT_REFUSED("StateScanSpec: partition is striped", StateScan(comm, striped));
  });
}

}  // namespace
}  // namespace seqccl::test
