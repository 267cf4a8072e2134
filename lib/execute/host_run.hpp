// host_run.hpp - what the threads of one run_host share: how far each lane has come, and how to fail.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <time.h>

#include <array>
#include <atomic>
#include <chrono>
#include <optional>
#include <utility>
#include <vector>

#include "seqccl/execute.hpp"

SEQCCL_BEGIN

/// Working memory of a run, kept by the calling thread between runs so that repeated runs allocate nothing.
struct RunScratch {
  std::vector<std::uint64_t> tickets;     // per transfer: 0 not begun, ticket of an armed receive, or moved_ticket
  std::vector<std::uint64_t> refused_in;  // per peer: last pass over the sends of an exchange in which it had no credit
  std::uint64_t pass = 0;
};
inline constexpr std::uint64_t moved_ticket = ~std::uint64_t{0};

/// A rank that waits says so every interval; one that has not for as long as the patience has stopped.
inline constexpr auto look_about_interval = std::chrono::milliseconds(250);
inline constexpr auto look_about_patience = std::chrono::milliseconds(1250);

/// Some milliseconds late, at a fifth of the cost: good enough for a deadline.
inline SteadyClock::time_point coarse_now() noexcept {
  timespec time{};
  ::clock_gettime(CLOCK_MONOTONIC_COARSE, &time);
  return SteadyClock::time_point(std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec));
}

struct HostRun {
  const Schedule& schedule;
  const Bindings& memory;
  Transport& transport;
  const RunOptions& options;
  RunScratch& scratch;
  RankStatus& status;
  FlightRecorder& recorder;
  std::uint64_t operation = 0;  // 1 for the communicator's first
  std::uint64_t flag = 0;       // carried by every message of this run
  SteadyClock::time_point begin;
  bool is_inline = false;                                    // on one thread
  bool is_timed = true;                                      // steps are long enough to be worth a look at the clock
  SteadyClock::time_point looked{};                          // when the thread that waits for peers last said that it lives
  std::array<std::atomic<std::uint32_t>, num_lanes> done{};  // steps of each lane

  [[nodiscard]] bool clock_met(const Step& step) const noexcept {
    for (int lane = 0; lane < num_lanes; ++lane) {
      if (lane != static_cast<int>(step.lane) && done[lane].load(std::memory_order_acquire) < step.after[lane]) return false;
    }
    return true;
  }
  /// Index of the first step of `lane` at or after `from`, or the number of steps.
  [[nodiscard]] std::uint32_t next_step(Lane lane, std::uint32_t from) const noexcept {
    while (from < schedule.steps.size() && schedule.steps[from].lane != lane) ++from;
    return from;
  }
  SteadyClock::time_point begin_step(std::uint32_t index) noexcept;
  SteadyClock::time_point end_step(std::uint32_t index) noexcept;  // raises done, wakes the rank's other thread

  /// "ring forward on rank 3 of 8"
  [[nodiscard]] std::string who() const;
  /// "step 5, exchange, to 1, from 3"
  [[nodiscard]] std::string where(std::uint32_t step) const;
  /// Fails the group and throws what ended it, which is `error` unless another came first.
  [[noreturn]] void fail(const Error& error);
};

/// A message that a rank has waited for since `since`.
struct Wait {
  Rank peer = 0;
  std::uint32_t step = 0;
  SteadyClock::time_point since;
  SteadyClock::time_point suspected{};  // since when diagnose() wants to see the ranks on its way look about; 0: not yet
  std::vector<std::pair<Rank, SteadyClock::time_point>> asked{};  // since then: when each rank was first asked to
};

/// Follows who waits for whom from `wait.peer` to the rank that holds all up. Empty if that rank has progressed within the
/// timeout; `look_again` says when that will have run out.
[[nodiscard]] std::optional<Error> diagnose(const HostRun& run, Wait& wait, SteadyClock::time_point& look_again);
/// The error for a peer that left.
[[nodiscard]] Error left_error(const HostRun& run, const Wait& wait);

SEQCCL_END
