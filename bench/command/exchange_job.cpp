// exchange_job.cpp - records exchanges of scratch memory, fills, runs and reads it.
// SPDX-License-Identifier: Apache-2.0
#include "command/exchange_job.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "seqccl/execute.hpp"
#include "seqccl/recorder.hpp"

namespace seqccl::command {
namespace {

/// Block 0 is what this rank sends; the others are what it receives, from the lowest rank up.
struct Blocks {
  Block mine;
  std::vector<std::pair<Rank, Block>> theirs;
};

Blocks add_blocks(Recorder& plan, const ExchangePlan& exchange, Rank rank) {
  const Recorder::Shape shape{1, 1, 1, exchange.part};
  Blocks blocks{plan.scratch(f32, shape), {}};
  const int num_ranks = exchange.pattern == Pattern::ping_pong ? std::min(exchange.num_ranks, 2) : exchange.num_ranks;
  for (Rank peer = 0; peer < num_ranks && rank < num_ranks; ++peer)
    if (peer != rank) blocks.theirs.emplace_back(peer, plan.scratch(f32, shape));
  return blocks;
}

Schedule record(const ExchangePlan& exchange, Rank rank, Blocks& blocks) {
  Recorder plan{name(exchange.pattern), rank, exchange.num_ranks};
  blocks = add_blocks(plan, exchange, rank);
  std::vector<Transfer> sends, receives;
  for (const auto& [peer, block] : blocks.theirs) {
    sends.push_back({peer, blocks.mine});
    receives.push_back({peer, block});
  }
  if (exchange.pattern == Pattern::all_gather) {
    plan.exchange(sends, receives);
  } else if (rank == 0) {
    plan.exchange(sends, {});
    plan.exchange({}, receives);
  } else {
    plan.exchange({}, receives);
    plan.exchange(sends, {});
  }
  return std::move(plan).finish(fmt::format("{} {}", name(exchange.pattern), exchange.part));
}

std::span<float> numbers(const Bindings& memory, const Block& block, std::int64_t count) {
  return {memory.view(block).as<float>(), static_cast<std::size_t>(count)};
}

}  // namespace

const char* name(Pattern pattern) noexcept { return pattern == Pattern::ping_pong ? "ping_pong" : "all_gather"; }

ExchangePlan ExchangePlan::of(Pattern pattern, int num_ranks, std::int64_t num_bytes) {
  const std::int64_t parts = pattern == Pattern::all_gather ? num_ranks : 1;
  return {pattern, num_ranks, std::max<std::int64_t>(1, num_bytes / 4 / parts)};
}

std::int64_t ExchangePlan::num_bytes() const noexcept { return 4 * part * (pattern == Pattern::all_gather ? num_ranks : 1); }

Schedule ExchangePlan::schedule(Rank rank) const {
  Blocks blocks;
  return record(*this, rank, blocks);
}

double ExchangePlan::bus_factor() const noexcept {
  return pattern == Pattern::all_gather ? static_cast<double>(num_ranks - 1) / static_cast<double>(num_ranks) : 1;
}

int ExchangePlan::num_inner() const noexcept {
  constexpr std::int64_t bytes_per_run = std::int64_t{4} << 20;
  return static_cast<int>(std::clamp<std::int64_t>(bytes_per_run / num_bytes(), 1, 200));
}

ExchangeRun run_exchange(const ExchangePlan& plan, const RunSettings& settings) {
  const int num_inner = plan.num_inner();
  const Measurements times(settings);
  const SharedArray<std::int64_t> num_wrong(static_cast<std::size_t>(settings.num_ranks));
  Lockstep lockstep(settings.num_ranks);
  on_ranks(settings, [&](Communicator& comm) {
    const Rank rank = comm.rank();
    Blocks blocks;
    const Schedule schedule = record(plan, rank, blocks);
    times.plan(rank, schedule);
    const Bindings memory(schedule, comm.arena(schedule.workspace_bytes));
    const std::span<float> mine = numbers(memory, blocks.mine, plan.part);
    for (std::int64_t i = 0; i < plan.part; ++i) mine[static_cast<std::size_t>(i)] = sent_number(rank, i);
    for (const auto& [peer, block] : blocks.theirs) std::ranges::fill(numbers(memory, block, plan.part), 0.0F);
    const RunOptions options{.timeout = comm.timeout()};
    measure(lockstep, comm, settings, times, [&] {
      for (int i = 0; i < num_inner; ++i) run_host(schedule, memory, comm.transport(), options);
    });
    for (const auto& [peer, block] : blocks.theirs)
      num_wrong[static_cast<std::size_t>(rank)] += count_wrong(numbers(memory, block, plan.part), peer);
    lockstep.meet(comm);
  });

  ExchangeRun result;
  result.whole = times.combined();
  result.whole.planned_bytes *= static_cast<std::uint64_t>(num_inner);
  result.whole.planned_messages *= static_cast<std::uint64_t>(num_inner);
  const double num_operations = num_inner * (plan.pattern == Pattern::ping_pong ? 2.0 : 1.0);
  for (const double seconds : result.whole.seconds) result.seconds.push_back(seconds / num_operations);
  for (std::size_t rank = 0; rank < num_wrong.size(); ++rank) result.num_wrong += num_wrong[rank];
  return result;
}

float sent_number(Rank rank, std::int64_t index) noexcept {
  return static_cast<float>(1 + rank) * 4096.0F + static_cast<float>(index % 4096);  // exact up to 4095 ranks
}

std::int64_t count_wrong(std::span<const float> got, Rank rank) noexcept {
  std::int64_t num_wrong = 0;
  for (std::size_t i = 0; i < got.size(); ++i)
    if (got[i] != sent_number(rank, static_cast<std::int64_t>(i))) ++num_wrong;
  return num_wrong;
}

}  // namespace seqccl::command
