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
  if (run.status.waiting_for.load(std::memory_order_relaxed) != peer) run.status.waiting_for.store(peer, std::memory_order_release);
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
    if (wait_until(run.transport, std::min(deadline, run.looked + look_about_interval), poll, run.is_inline)) continue;
    run.looked = SteadyClock::now();
    run.status.looked_ns.store(run.looked.time_since_epoch().count(), std::memory_order_release);
    for (CommLane& lane : lanes) {
      if (lane.waits_for_peer() && lane.deadline() <= SteadyClock::now()) lane.look_for_stall();
    }
  }
}

void compute(HostRun& run, std::uint32_t index) {
  run.begin_step(index);  // before compute_step: whoever sees the new state must not see the old time
  run.status.compute_step.store(static_cast<std::int32_t>(index), std::memory_order_release);
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
  run.status.compute_step.store(-1, std::memory_order_release);
}

// One thread: sends and arms what it can, then computes what it can, and waits only when it can do neither. A long step would hold up
// messages, so this is for plans whose steps are short.
void run_inline(HostRun& run, Lanes& lanes) {
  const auto num_steps = static_cast<std::uint32_t>(run.schedule.steps.size());
  std::uint32_t index = run.next_step(Lane::compute, 0);
  const auto can_compute = [&] { return index < num_steps && run.clock_met(run.schedule.steps[index]); };
  const auto lanes_finished = [&] { return std::all_of(lanes.begin(), lanes.end(), [](const CommLane& lane) { return lane.finished(); }); };
  for (;;) {
    for (CommLane& lane : lanes) lane.advance();
    if (can_compute()) {
      run.transport.check();
      compute(run, index);
      index = run.next_step(Lane::compute, index + 1);
    } else if (index == num_steps && lanes_finished()) {
      return;
    } else {
      drive(run, lanes, [&] { return index < num_steps ? can_compute() : lanes_finished(); });
    }
  }
}

// No step lasts: neither a kernel nor what the user computes.
bool is_short(const Schedule& schedule, const RunOptions& options) { return schedule.kernel_flops < 2e6 && !options.attend; }

// A thread beside the caller's costs some 50 microseconds a run.
bool runs_inline(const Schedule& schedule, const RunOptions& options) {
  if (schedule.is_sequential || schedule.exchanges.empty()) return true;
  const bool copies_are_long = options.num_threads > 1 && schedule.workspace_bytes > (std::size_t{4} << 20);  // and a core is idle
  return is_short(schedule, options) && !copies_are_long;
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

/// An operation in the flight record, which reads labels from its schedule until the run is over.
class Recorded {
 public:
  Recorded(FlightRecorder& recorder, const FlightRecorder::Begin& begin, const Schedule& schedule, std::string_view description)
      : recorder_(recorder) {
    recorder_.begin_operation(begin, schedule, description);
  }
  ~Recorded() {
    if (!ended_) recorder_.forget_schedule();
  }
  Recorded(const Recorded&) = delete;
  Recorded& operator=(const Recorded&) = delete;
  void end(FlightRecorder::Nanoseconds now) noexcept {
    recorder_.end_operation(now);
    ended_ = true;
  }

 private:
  FlightRecorder& recorder_;
  bool ended_ = false;
};

/// Passes on what `work` throws, after the flight record of a failed group has been written.
template <class Work>
void recording_failure(Transport& transport, Work&& work) {
  try {
    work();
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::argument) throw;
    const std::string why_not = transport.flight_recorder().failed(error, transport);
    if (why_not.empty()) throw;
    throw Error(error.kind(), fmt::format("{} ({})", error.what(), why_not), error.culprits());
  }
}

}  // namespace

void run_host(const Schedule& schedule, const Bindings& memory, Transport& transport, const RunOptions& options) {
  memory.require_complete();
  if (schedule.rank != transport.rank() || schedule.num_ranks != transport.num_ranks()) {
    throw Error(ErrorKind::argument, fmt::format("run_host: schedule is for rank {} of {}, want rank {} of {}", schedule.rank,
                                                 schedule.num_ranks, transport.rank(), transport.num_ranks()));
  }
  recording_failure(transport, [&] { transport.check(); });
  const std::string_view given = options.description.text(), description = given.empty() ? std::string_view(schedule.name) : given;
  transport.describe_operation(description);
  if (options.trace != nullptr) options.trace->assign(schedule.steps.size(), {});

  // Taken out while in use: a Custom op may run a schedule of another communicator on this thread.
  thread_local RunScratch spare;
  RunScratch scratch = std::exchange(spare, {});
  scratch.tickets.assign(schedule.transfers.size(), 0);
  scratch.refused_in.assign(schedule.num_ranks, 0);
  scratch.pass = 0;

  RankStatus& status = transport.status(transport.rank());
  const bool is_inline = runs_inline(schedule, options);
  const bool is_timed = !is_inline || !is_short(schedule, options) || options.trace != nullptr;
  const auto now = [&] { return is_timed ? SteadyClock::now() : coarse_now(); };
  const auto begin = now();
  status.progress_ns.store(begin.time_since_epoch().count(), std::memory_order_release);
  status.step.store(-1, std::memory_order_relaxed);
  status.earlier_plan.store(status.plan.load(std::memory_order_relaxed), std::memory_order_relaxed);
  status.plan.store(schedule.fingerprint, std::memory_order_relaxed);
  const std::uint64_t operation = status.operation.load(std::memory_order_relaxed) + 1;
  status.operation.store(operation, std::memory_order_release);
  FlightRecorder& recorder = transport.flight_recorder();
  Recorded recorded(recorder, {operation, begin.time_since_epoch().count(), options.timeout}, schedule, description);
  HostRun run{schedule, memory, transport, options, scratch, status, recorder, operation, message_flag(schedule.fingerprint, operation),
              begin};
  run.is_inline = is_inline;
  run.is_timed = is_timed;
  run.looked = begin;
  Lanes lanes{CommLane(run, Lane::comm), CommLane(run, Lane::comm2), CommLane(run, Lane::comm3)};

  recording_failure(transport, [&] {
    try {
      if (run.is_inline)
        run_inline(run, lanes);
      else
        run_overlapped(run, lanes);
    } catch (const Error& error) {
      transport.abort(error);  // also one that the transport met by itself; the first of all wins
      throw;
    } catch (const std::exception& error) {  // out of memory, say: the peers must not wait for this rank
      run.fail({ErrorKind::local, fmt::format("{}: {}", run.who(), error.what()), {schedule.rank}});
    }
  });

  if (status.waiting_for.load(std::memory_order_relaxed) != -1) status.waiting_for.store(-1, std::memory_order_release);
  const std::int64_t end_ns = now().time_since_epoch().count();
  status.progress_ns.store(end_ns, std::memory_order_release);
  status.finished.store(operation, std::memory_order_release);
  recorded.end(end_ns);
  spare = std::move(scratch);
}

SEQCCL_END
