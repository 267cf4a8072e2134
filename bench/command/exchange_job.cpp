// exchange_job.cpp - records exchanges of scratch memory, fills, runs and reads it.
// SPDX-License-Identifier: Apache-2.0
#include "command/exchange_job.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <optional>

#include "seqccl/execute.hpp"
#include "seqccl/recorder.hpp"

namespace seqccl::command {
namespace {

/// A message that this rank sends or receives: to or from whom, which one it is (sent_number), and where it lies.
struct Part {
  Rank peer;
  std::int64_t stream;
  Block block;
};
struct Parts {
  std::vector<Part> sends, receives;
};

/// One block for all that receive the same.
Parts add_parts(Recorder& plan, const ExchangePlan& exchange, Rank rank) {
  const Recorder::Shape shape{1, 1, 1, exchange.part};
  const int P = exchange.num_ranks;
  Parts parts;
  if (P == 1) return parts;
  if (exchange.pattern == Pattern::ping_pong) {
    if (rank != exchange.first && rank != exchange.second) return parts;
    const Rank peer = rank == exchange.first ? exchange.second : exchange.first;
    parts.sends.push_back({peer, rank, plan.scratch(exchange.dtype, shape)});
    parts.receives.push_back({peer, peer, plan.scratch(exchange.dtype, shape)});
    return parts;
  }
  if (exchange.pattern == Pattern::ring) {
    parts.sends.push_back({(rank + 1) % P, rank, plan.scratch(exchange.dtype, shape)});
    parts.receives.push_back({(rank + P - 1) % P, (rank + P - 1) % P, plan.scratch(exchange.dtype, shape)});
    return parts;
  }
  const bool is_personal = exchange.pattern == Pattern::all_to_all;
  const auto stream = [&](Rank from, Rank to) { return is_personal ? std::int64_t{from} * P + to : std::int64_t{from}; };
  std::optional<Block> mine;
  for (Rank peer = 0; peer < P; ++peer) {
    if (peer == rank) continue;
    if (is_personal || !mine) mine = plan.scratch(exchange.dtype, shape);
    parts.sends.push_back({peer, stream(rank, peer), *mine});
    parts.receives.push_back({peer, stream(peer, rank), plan.scratch(exchange.dtype, shape)});
  }
  return parts;
}

Schedule record(const ExchangePlan& exchange, Rank rank, Parts& parts) {
  Recorder plan{name(exchange.pattern), rank, exchange.num_ranks};
  parts = add_parts(plan, exchange, rank);
  std::vector<Transfer> sends, receives;
  for (const Part& each : parts.sends) sends.push_back({each.peer, each.block});
  for (const Part& each : parts.receives) receives.push_back({each.peer, each.block});
  if (exchange.pattern != Pattern::ping_pong) {
    plan.exchange(sends, receives);
  } else if (rank == exchange.first) {
    plan.exchange(sends, {});
    plan.exchange({}, receives);
  } else {
    plan.exchange({}, receives);
    plan.exchange(sends, {});
  }
  return std::move(plan).finish(fmt::format("{} {} {}", name(exchange.pattern), exchange.part, seqccl::name(exchange.dtype)));
}

template <class Word>
std::span<Word> words(const Bindings& memory, const Block& block, std::int64_t count) {
  return {reinterpret_cast<Word*>(memory.data(block)), static_cast<std::size_t>(count)};
}

template <class Word>
void fill(const Parts& parts, const Bindings& memory, std::int64_t count) {
  for (const Part& each : parts.sends) {
    const std::span<Word> mine = words<Word>(memory, each.block, count);
    for (std::int64_t i = 0; i < count; ++i) mine[static_cast<std::size_t>(i)] = sent_number<Word>(each.stream, i);
  }
  for (const Part& each : parts.receives) std::ranges::fill(words<Word>(memory, each.block, count), Word{0});
}

template <class Word>
std::int64_t count_all_wrong(const Parts& parts, const Bindings& memory, std::int64_t count) {
  std::int64_t num_wrong = 0;
  for (const Part& each : parts.receives) num_wrong += count_wrong<Word>(words<Word>(memory, each.block, count), each.stream);
  return num_wrong;
}

/// One rank's part of all runs. Returns how many numbers came wrong in the last one.
std::int64_t exchange_on(Communicator& comm, const ExchangePlan& plan, const RunSettings& settings, Lockstep& lockstep,
                         const Measurements& times) {
  const bool is_wide = size_bytes(plan.dtype) == 4;
  Parts parts;
  const Schedule schedule = record(plan, comm.rank(), parts);
  times.plan(comm.rank(), schedule);
  const Bindings memory(schedule, comm.arena(schedule.workspace_bytes));
  is_wide ? fill<std::uint32_t>(parts, memory, plan.part) : fill<std::uint16_t>(parts, memory, plan.part);
  const RunOptions options{.timeout = comm.timeout()};
  measure(lockstep, comm, settings, times, [&] {
    for (int i = 0; i < plan.num_inner(); ++i) run_host(schedule, memory, comm.transport(), options);
  });
  const std::int64_t num_wrong =
      is_wide ? count_all_wrong<std::uint32_t>(parts, memory, plan.part) : count_all_wrong<std::uint16_t>(parts, memory, plan.part);
  lockstep.meet(comm);  // nobody leaves, or begins something else, while others still look
  return num_wrong;
}

}  // namespace

const char* name(Pattern pattern) noexcept {
  constexpr const char* names[] = {"ping_pong", "all_gather", "all_to_all", "ring"};
  return names[static_cast<int>(pattern)];
}

ExchangePlan ExchangePlan::of(Pattern pattern, int num_ranks, std::int64_t num_bytes, DType dtype) {
  ExchangePlan plan{pattern, num_ranks, 1, dtype};
  plan.part = std::max<std::int64_t>(1, num_bytes / static_cast<std::int64_t>(size_bytes(dtype)) / plan.num_parts());
  return plan;
}

int ExchangePlan::num_parts() const noexcept { return pattern == Pattern::all_gather || pattern == Pattern::all_to_all ? num_ranks : 1; }
std::int64_t ExchangePlan::num_bytes() const noexcept { return static_cast<std::int64_t>(size_bytes(dtype)) * part * num_parts(); }

Schedule ExchangePlan::schedule(Rank rank) const {
  Parts parts;
  return record(*this, rank, parts);
}

double ExchangePlan::bus_factor() const noexcept {
  return num_parts() > 1 ? static_cast<double>(num_ranks - 1) / static_cast<double>(num_ranks) : 1;
}

int ExchangePlan::num_inner() const noexcept {
  constexpr std::int64_t bytes_per_run = std::int64_t{4} << 20;
  return static_cast<int>(std::clamp<std::int64_t>(bytes_per_run / num_bytes(), 1, 200));
}

ExchangeRun run_exchange(const ExchangePlan& plan, const RunSettings& settings, bool checks) {
  const int num_inner = plan.num_inner();
  const Measurements times(settings);
  const SharedArray<std::int64_t> num_wrong(static_cast<std::size_t>(settings.num_ranks));
  Lockstep lockstep(settings.num_ranks);
  on_ranks(settings, [&](Communicator& comm) {
    const std::int64_t wrong_here = exchange_on(comm, plan, settings, lockstep, times);
    if (checks) num_wrong[static_cast<std::size_t>(comm.rank())] = wrong_here;
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

std::vector<PairTime> run_pairs(std::span<const std::int64_t> sizes, DType dtype, const RunSettings& settings, bool checks) {
  const int P = settings.num_ranks;
  std::vector<ExchangePlan> plans;
  std::vector<Measurements> times;
  for (const std::int64_t size : sizes)
    for (Rank first = 0; first < P; ++first)
      for (Rank second = first + 1; second < P; ++second) {
        plans.push_back(ExchangePlan::of(Pattern::ping_pong, P, size, dtype));
        plans.back().first = first, plans.back().second = second;
        times.emplace_back(settings);
      }
  const SharedArray<std::int64_t> num_wrong(plans.size() * static_cast<std::size_t>(P));
  Lockstep lockstep(P);
  on_ranks(settings, [&](Communicator& comm) {
    for (std::size_t i = 0; i < plans.size(); ++i)
      num_wrong[i * static_cast<std::size_t>(P) + static_cast<std::size_t>(comm.rank())] =
          exchange_on(comm, plans[i], settings, lockstep, times[i]);
  });

  std::vector<PairTime> pairs;
  for (std::size_t i = 0; i < plans.size(); ++i) {
    const ExchangePlan& plan = plans[i];
    PairTime pair{plan.first, plan.second, plan.num_bytes(), {}, 0, times[i].combined().path};
    for (std::size_t run = 0; run < times[i].runs(plan.first).size(); ++run) {  // of these two only: the others just come and go
      const TimedRun &a = times[i].runs(plan.first)[run], &b = times[i].runs(plan.second)[run];
      const double seconds = std::chrono::duration<double>(std::max(a.end, b.end) - std::min(a.begin, b.begin)).count();
      pair.seconds.push_back(seconds / (2.0 * plan.num_inner()));
    }
    if (checks)
      for (const Rank rank : {plan.first, plan.second})
        pair.num_wrong += num_wrong[i * static_cast<std::size_t>(P) + static_cast<std::size_t>(rank)];
    pairs.push_back(std::move(pair));
  }
  return pairs;
}

}  // namespace seqccl::command
