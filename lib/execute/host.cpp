// host.cpp - runs a schedule on this rank: the caller computes, one thread drives all communication lanes.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "comm_lane.hpp"

SEQCCL_BEGIN
namespace {

// Words of an operation and its turn: two ranks that are not in the same run of the same plan never agree on it.
std::uint64_t message_flag(std::uint64_t fingerprint, std::uint64_t operation) noexcept {
  std::uint64_t word = fingerprint + operation * 0x9e3779b97f4a7c15u;
  word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9u;
  word = (word ^ (word >> 27)) * 0x94d049bb133111ebu;
  return word ^ (word >> 31);
}

using Lanes = std::array<CommLane, num_lanes - 1>;

void publish_wait(HostRun& run, const Lanes& lanes) {
  const CommLane* oldest = nullptr;
  for (const CommLane& lane : lanes) {
    if (lane.waits_for_peer() && (oldest == nullptr || lane.wait().since < oldest->wait().since)) oldest = &lane;
  }
  const std::int32_t peer = oldest == nullptr ? -1 : oldest->wait().peer;
  if (run.status.waiting_for.load(std::memory_order_relaxed) != peer) run.status.waiting_for.store(peer);
}

/// Advances the lanes until `done()`.
template <class Done>
void drive(HostRun& run, Lanes& lanes, Done&& done) {
  const auto poll = [&] {
    bool changed = false;
    for (CommLane& lane : lanes) changed = lane.advance() || changed;
    publish_wait(run, lanes);
    return changed || done();
  };
  while (!done()) {
    auto deadline = SteadyClock::time_point::max();
    for (const CommLane& lane : lanes) {
      if (lane.waits_for_peer()) deadline = std::min(deadline, lane.deadline());
    }
    // A lane that waits for this rank's own compute lane has no deadline: the peers judge this rank. They want to see it look about.
    if (wait_until(run.transport, std::min(deadline, SteadyClock::now() + look_about_interval), poll)) continue;
    run.status.looked_ns.store(SteadyClock::now().time_since_epoch().count(), std::memory_order_release);
    for (CommLane& lane : lanes) {
      if (lane.waits_for_peer() && lane.deadline() <= SteadyClock::now()) lane.look_for_stall();
    }
  }
}

void compute(HostRun& run, std::uint32_t index) {
  run.begin_step(index);  // before compute_step: whoever sees the new state must not see the old time
  run.status.compute_step.store(static_cast<std::int32_t>(index));
  run.transport.begin_step(run.schedule, index);
  try {
    run_op(run.schedule.ops[run.schedule.steps[index].index], run.memory, run.options.attend,
           {run.options.num_threads, &run.status.progress_ns});
  } catch (const std::exception& error) {
    run.fail({ErrorKind::local, fmt::format("{}: {}: {}", run.who(), run.where(index), error.what()), {run.schedule.rank}});
  } catch (...) {
    run.fail({ErrorKind::local, fmt::format("{}: {}: unknown exception", run.who(), run.where(index)), {run.schedule.rank}});
  }
  run.end_step(index);
  run.status.compute_step.store(-1);
}

// Program order on one thread: nothing to overlap, so no hand-off.
void run_inline(HostRun& run, Lanes& lanes) {
  std::array<std::uint32_t, num_lanes> count{};
  for (std::uint32_t index = 0; index < run.schedule.steps.size(); ++index) {
    const auto lane = static_cast<std::size_t>(run.schedule.steps[index].lane);
    ++count[lane];
    if (lane == 0) {
      run.transport.check();
      compute(run, index);
    } else {
      drive(run, lanes, [&] { return run.done[lane].load(std::memory_order_relaxed) == count[lane]; });
    }
  }
}

void run_overlapped(HostRun& run, Lanes& lanes) {
  // Each thread ends the group before it ends itself, so neither waits for the other in vain.
  const auto or_fail = [&run](auto&& work) noexcept {
    try {
      work();
    } catch (const std::exception& error) {
      run.transport.abort({ErrorKind::local, fmt::format("{}: {}", run.who(), error.what()), {run.schedule.rank}});
    }
  };
  const auto communicate = [&] {
    drive(run, lanes, [&] { return std::all_of(lanes.begin(), lanes.end(), [](const CommLane& lane) { return lane.finished(); }); });
  };
  const auto compute_all = [&] {
    const auto num_steps = static_cast<std::uint32_t>(run.schedule.steps.size());
    for (std::uint32_t index = run.next_step(Lane::compute, 0); index < num_steps; index = run.next_step(Lane::compute, index + 1)) {
      const auto clock_met = [&] { return run.clock_met(run.schedule.steps[index]); };
      while (!wait_until(run.transport, SteadyClock::now() + std::chrono::hours(1), clock_met)) {  // the other thread judges peers
      }
      run.transport.check();
      compute(run, index);
    }
  };
  or_fail([&] {
    const std::jthread progress([&] { or_fail(communicate); });  // joined at the end of this block
    or_fail(compute_all);
  });
  run.transport.check();
}

}  // namespace

void run_host(const Schedule& schedule, const Bindings& memory, Transport& transport, const RunOptions& options) {
  memory.require_complete();
  if (schedule.rank != transport.rank() || schedule.num_ranks != transport.num_ranks()) {
    throw Error(ErrorKind::argument, fmt::format("run_host: schedule is for rank {} of {}, want rank {} of {}", schedule.rank,
                                                 schedule.num_ranks, transport.rank(), transport.num_ranks()));
  }
  transport.check();
  transport.describe_operation(options.description.empty() ? schedule.name : options.description);
  if (options.trace != nullptr) options.trace->assign(schedule.steps.size(), {});

  // Taken out while in use: a Custom op may run a schedule of another communicator on this thread.
  thread_local RunScratch spare;
  RunScratch scratch = std::exchange(spare, {});
  scratch.tickets.assign(schedule.transfers.size(), 0);
  scratch.refused_in.assign(schedule.num_ranks, 0);
  scratch.pass = 0;

  RankStatus& status = transport.status(transport.rank());
  const auto begin = SteadyClock::now();
  status.progress_ns.store(begin.time_since_epoch().count(), std::memory_order_release);
  status.step.store(-1, std::memory_order_relaxed);
  status.plan.store(schedule.fingerprint, std::memory_order_relaxed);
  const std::uint64_t operation = status.operation.fetch_add(1) + 1;
  HostRun run{schedule, memory, transport, options, scratch, status, operation, message_flag(schedule.fingerprint, operation), begin};
  Lanes lanes{CommLane(run, Lane::comm), CommLane(run, Lane::comm2), CommLane(run, Lane::comm3)};

  try {
    if (schedule.is_sequential || schedule.exchanges.empty())
      run_inline(run, lanes);
    else
      run_overlapped(run, lanes);
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {  // out of memory, say: the peers must not wait for this rank
    run.fail({ErrorKind::local, fmt::format("{}: {}", run.who(), error.what()), {schedule.rank}});
  }

  status.waiting_for.store(-1);
  status.progress_ns.store(SteadyClock::now().time_since_epoch().count(), std::memory_order_release);
  status.finished.store(operation);
  spare = std::move(scratch);
}

SEQCCL_END
