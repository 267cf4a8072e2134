// comm_lane.hpp - one communication lane of a running schedule as a state machine: post, test, done.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "host_run.hpp"

SEQCCL_BEGIN

/// Exchanges of one lane, one after the other. Never blocks: whoever drives it calls advance() until finished().
class CommLane {
 public:
  CommLane(HostRun& run, Lane lane) : run_(run), lane_(lane), step_(run.next_step(lane, 0)) {}

  [[nodiscard]] bool finished() const noexcept { return step_ == run_.schedule.steps.size(); }
  /// Posts the next exchange if its clock is met, moves what can be moved. True if anything changed.
  /// @throws what ended the group; a peer that left with messages outstanding ends it
  bool advance();
  /// True if advance() waits for a peer; then wait() says for whom and since when.
  [[nodiscard]] bool waits_for_peer() const noexcept { return posted_; }
  [[nodiscard]] const Wait& wait() const noexcept { return wait_; }
  /// When to look for a stall.
  [[nodiscard]] SteadyClock::time_point deadline() const noexcept { return deadline_; }
  /// The wait is over its deadline: throws if a rank has stalled, else sets a new deadline.
  void look_for_stall();

 private:
  void post(const Exchange& exchange);
  bool move_sends(const Exchange& exchange);
  bool test_receives(const Exchange& exchange);
  void complete();
  void made_progress() noexcept;
  void waiting_for(Rank peer) noexcept;

  HostRun& run_;
  Lane lane_;
  std::uint32_t step_;
  bool posted_ = false;
  std::uint32_t num_unmoved_ = 0;
  bool found_waiting_ = false;  // in this pass
  Rank recorded_wait_ = -1;     // peer that the flight record names
  Wait wait_;
  SteadyClock::time_point deadline_{};
};

SEQCCL_END
