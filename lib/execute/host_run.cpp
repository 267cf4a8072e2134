// host_run.cpp - bookkeeping of steps, and the diagnosis of a wait that takes too long.
// SPDX-License-Identifier: Apache-2.0
#include "host_run.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

SEQCCL_BEGIN
namespace {

double seconds(std::chrono::nanoseconds duration) { return std::chrono::duration<double>(duration).count(); }

SteadyClock::time_point time_point_of(const std::atomic<std::int64_t>& time_ns) {
  return SteadyClock::time_point(std::chrono::nanoseconds(time_ns.load(std::memory_order_acquire)));
}
SteadyClock::time_point last_progress(const RankStatus& status) { return time_point_of(status.progress_ns); }

// A peer records its own schedule; the index is its, the name is what this rank does at that index.
std::string compute_step_text(const HostRun& run, std::int32_t step) {
  const auto& steps = run.schedule.steps;
  if (static_cast<std::size_t>(step) >= steps.size() || steps[step].lane != Lane::compute) return fmt::format("compute step {}", step);
  return fmt::format("compute step {} (here: {})", step, run.schedule.label(steps[step]));
}

std::string waiting_text(const HostRun& run, const Wait& wait) {
  return fmt::format("{}: waiting for rank {} for {:.3g} s ({})", run.who(), wait.peer, seconds(SteadyClock::now() - wait.since),
                     run.where(wait.step));
}

/// What a rank has said last, where it cannot be seen.
std::string last_word_text(const RankStatus& status, SteadyClock::time_point said) {
  if (said == SteadyClock::time_point::min()) return "nothing was heard of it before";
  const std::uint64_t operation = status.operation.load(), finished = status.finished.load();
  const double seconds = std::chrono::duration<double>(SteadyClock::now() - said).count();
  if (finished == operation) return fmt::format("{:.3g} s ago it had ended {} operations and begun no other", seconds, finished);
  const std::int32_t step = status.step.load();
  return fmt::format("{:.3g} s ago it was in operation {}{}", seconds, operation, step < 0 ? "" : fmt::format(", step {}", step));
}

}  // namespace

// A short step costs less than reading the clock twice. Peers that judge this rank are told the coarse time; the record has when the run
// began.
SteadyClock::time_point HostRun::begin_step(std::uint32_t index) noexcept {
  const auto now = is_timed ? SteadyClock::now() : coarse_now();
  status.progress_ns.store(now.time_since_epoch().count(), std::memory_order_release);
  status.step.store(static_cast<std::int32_t>(index), std::memory_order_relaxed);
  recorder.begin_step(operation, schedule, index, (is_timed ? now : begin).time_since_epoch().count());
  if (options.trace != nullptr) (*options.trace)[index] = {index, seconds(now - begin), 0};
  return now;
}

SteadyClock::time_point HostRun::end_step(std::uint32_t index) noexcept {
  const auto now = is_timed ? SteadyClock::now() : coarse_now();
  status.progress_ns.store(now.time_since_epoch().count(), std::memory_order_release);
  recorder.end_step(schedule.steps[index].lane, (is_timed ? now : begin).time_since_epoch().count());
  if (options.trace != nullptr) (*options.trace)[index].end_s = seconds(now - begin);
  done[static_cast<int>(schedule.steps[index].lane)].fetch_add(1, std::memory_order_release);
  if (!is_inline) transport.wake();
  return now;
}

std::string HostRun::who() const { return fmt::format("{} on rank {} of {}", schedule.name, schedule.rank, schedule.num_ranks); }

std::string HostRun::where(std::uint32_t step) const { return fmt::format("step {}, {}", step, schedule.label(schedule.steps[step])); }

void HostRun::fail(const Error& error) {
  transport.abort(error);
  transport.check();
  throw error;
}

Error left_error(const HostRun& run, const Wait& wait) {
  return {ErrorKind::dead,
          fmt::format("{}: waiting for rank {} ({}): rank {} left its communicator", run.who(), wait.peer, run.where(wait.step), wait.peer),
          {wait.peer}};
}

namespace {

/// Asks the rank for a word of now. True while its time to answer is not over.
bool may_still_answer(const HostRun& run, Wait& wait, Rank rank, SteadyClock::time_point now) {
  auto first = std::find_if(wait.asked.begin(), wait.asked.end(), [&](const auto& asked) { return asked.first == rank; });
  if (first == wait.asked.end()) first = wait.asked.insert(first, {rank, now});
  run.transport.ask_for_status(rank);
  return now - first->second < look_about_patience;
}

}  // namespace

std::optional<Error> diagnose(const HostRun& run, Wait& wait, SteadyClock::time_point& look_again) {
  const auto verdict = [&](ErrorKind kind, std::vector<Rank> culprits, const std::string& what) {
    return Error(kind, fmt::format("{}: {}", waiting_text(run, wait), what), std::move(culprits));
  };
  std::vector<Rank> path{run.schedule.rank};
  for (Rank rank = wait.peer;;) {
    if (const auto again = std::find(path.begin(), path.end(), rank); again != path.end()) {
      // The others on the way have been looked at below; this rank may be computing what they all wait for.
      if (again == path.begin()) {
        const std::int32_t own_step = run.status.compute_step.load();
        const auto own_progress = last_progress(run.status);
        if (SteadyClock::now() - own_progress < run.options.timeout) {
          look_again = own_progress + run.options.timeout;
          return std::nullopt;
        }
        if (own_step >= 0)
          return verdict(ErrorKind::stalled, {rank}, fmt::format("rank {} is inside {}", rank, compute_step_text(run, own_step)));
      }
      std::vector<Rank> cycle(again, path.end());
      std::sort(cycle.begin(), cycle.end());
      const auto what = fmt::format("ranks {} wait for each other", fmt::join(cycle, ", "));
      return verdict(ErrorKind::stalled, std::move(cycle), what);
    }
    const RankStatus& status = run.transport.status(rank);
    if (status.left.load()) return verdict(ErrorKind::dead, {rank}, fmt::format("rank {} left its communicator", rank));

    // When it said this, first: an answer that comes while the rest is read must not make an old state a new one. Its progress last: a
    // rank writes that before it changes anything else, so a state that is new here has a new time.
    const auto said = run.transport.status_time(rank);
    const std::int32_t waiting_for = status.waiting_for.load(), compute_step = status.compute_step.load();
    const std::uint64_t finished = status.finished.load(), operation = status.operation.load();
    const auto progress = last_progress(status);
    if (SteadyClock::now() - progress < run.options.timeout) {
      look_again = progress + run.options.timeout;
      wait.suspected = {};
      wait.asked.clear();
      return std::nullopt;
    }
    // What it said before it was suspected may be long past: it is asked, and judged by its answer.
    const auto now = SteadyClock::now();
    if (wait.suspected == SteadyClock::time_point{}) {
      wait.suspected = now;
      wait.asked.clear();
    }
    if (said < wait.suspected) {
      if (!may_still_answer(run, wait, rank, now))
        return verdict(ErrorKind::stalled, {rank},
                       fmt::format("rank {} does not answer: it has stopped, is never given a core, or cannot be "
                                   "reached; {}",
                                   rank, last_word_text(status, said)));
      look_again = now + look_about_interval / 2;
      return std::nullopt;
    }
    if (operation > run.operation || finished >= run.operation) {
      return verdict(
          ErrorKind::mismatched, odd_ranks(run.transport, path.back(), rank),
          fmt::format("rank {} has ended operation {} without this message: the ranks called different operations", rank, run.operation));
    }
    if (finished == operation)
      return verdict(ErrorKind::stalled, {rank}, fmt::format("rank {} has not called operation {}", rank, run.operation));
    if (operation == run.operation && status.plan.load() != run.schedule.fingerprint)
      return verdict(ErrorKind::mismatched, odd_ranks(run.transport, run.schedule.rank, rank),
                     fmt::format("rank {} is in operation {} with another plan: the ranks called different operations", rank, operation));
    if (compute_step >= 0) {
      return verdict(ErrorKind::stalled, {rank}, fmt::format("rank {} is inside {}", rank, compute_step_text(run, compute_step)));
    }
    if (waiting_for < 0)
      return verdict(ErrorKind::stalled, {rank}, fmt::format("rank {} is in operation {} and does nothing", rank, operation));
    // For whom a rank waits is true only if it still looks: one that is stopped may have been sent what it waited for.
    if (time_point_of(status.looked_ns) < wait.suspected) {
      if (!may_still_answer(run, wait, rank, now))
        return verdict(ErrorKind::stalled, {rank},
                       fmt::format("rank {} is in operation {}, step {}, and does nothing: it has stopped or is never given a core", rank,
                                   operation, status.step.load()));
      look_again = now + look_about_interval / 2;
      return std::nullopt;
    }
    path.push_back(rank);
    rank = waiting_for;
  }
}

SEQCCL_END
