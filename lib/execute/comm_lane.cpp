// comm_lane.cpp - arms receives, hands over sends as credits come, tests arrivals.
// SPDX-License-Identifier: Apache-2.0
#include "comm_lane.hpp"

SEQCCL_BEGIN

bool CommLane::advance() {
  if (finished()) return false;
  const Step& step = run_.schedule.steps[step_];
  const Exchange& exchange = run_.schedule.exchanges[step.index];
  bool changed = false;
  if (!posted_) {
    if (!run_.clock_met(step)) return false;
    post(exchange);
    changed = true;
  }
  found_waiting_ = false;
  const bool sent = move_sends(exchange), received = test_receives(exchange);
  if (num_unmoved_ == 0) {
    complete();
    return true;
  }
  if (sent || received) made_progress();
  return changed || sent || received;
}

void CommLane::post(const Exchange& exchange) {
  posted_ = true;
  num_unmoved_ = exchange.num_sends + exchange.num_receives;
  wait_.step = step_;
  recorded_wait_ = -1;
  wait_.since = run_.begin_step(step_);
  wait_.suspected = {};
  deadline_ = wait_.since + run_.options.timeout;
  run_.transport.begin_step(run_.schedule, step_);
  std::uint64_t* ticket = &run_.scratch.tickets[exchange.first + exchange.num_sends];
  for (const Transfer& receive : run_.schedule.receives(exchange)) {
    *ticket++ =
        run_.transport.arm({receive.peer, lane_, run_.memory.data(receive.block), run_.schedule.num_bytes(receive.block), run_.flag});
  }
}

// The i-th send to a peer meets its i-th receive, so a send that has no credit holds back the later ones to the same peer, but
// not those to others.
bool CommLane::move_sends(const Exchange& exchange) {
  bool moved = false;
  const std::uint64_t pass = ++run_.scratch.pass;
  std::uint64_t* ticket = run_.scratch.tickets.data() + exchange.first;
  for (const Transfer& send : run_.schedule.sends(exchange)) {
    std::uint64_t& state = *ticket++;
    if (state == moved_ticket || run_.scratch.refused_in[send.peer] == pass) continue;
    const Message message{send.peer, lane_, run_.memory.data(send.block), run_.schedule.num_bytes(send.block), run_.flag};
    const bool left = run_.transport.status(send.peer).left.load(std::memory_order_acquire);  // before the last try
    if (run_.transport.try_send(message)) {
      state = moved_ticket;
      --num_unmoved_;
      moved = true;
      continue;
    }
    run_.scratch.refused_in[send.peer] = pass;
    waiting_for(send.peer);
    if (left) run_.fail(left_error(run_, {send.peer, step_, wait_.since}));
  }
  return moved;
}

bool CommLane::test_receives(const Exchange& exchange) {
  bool moved = false;
  std::uint64_t* ticket = run_.scratch.tickets.data() + exchange.first + exchange.num_sends;
  for (const Transfer& receive : run_.schedule.receives(exchange)) {
    std::uint64_t& state = *ticket++;
    if (state == moved_ticket) continue;
    const bool left = run_.transport.status(receive.peer).left.load(std::memory_order_acquire);  // before the last look
    if (run_.transport.arrived(receive.peer, lane_, state)) {
      state = moved_ticket;
      --num_unmoved_;
      moved = true;
      continue;
    }
    waiting_for(receive.peer);
    if (left) run_.fail(left_error(run_, {receive.peer, step_, wait_.since}));
  }
  return moved;
}

void CommLane::complete() {
  posted_ = false;
  const std::uint32_t finished_step = step_;
  step_ = run_.next_step(lane_, step_ + 1);
  run_.end_step(finished_step);
}

void CommLane::made_progress() noexcept {
  wait_.since = SteadyClock::now();
  wait_.suspected = {};
  run_.status.progress_ns.store(wait_.since.time_since_epoch().count(), std::memory_order_release);
  deadline_ = wait_.since + run_.options.timeout;
}

void CommLane::waiting_for(Rank peer) noexcept {
  if (found_waiting_) return;
  found_waiting_ = true;
  wait_.peer = peer;
  if (recorded_wait_ != peer) run_.recorder.wait_in_step(lane_, recorded_wait_ = peer);
}

void CommLane::look_for_stall() {
  SteadyClock::time_point look_again = SteadyClock::now() + run_.options.timeout;
  const std::optional<Error> error = diagnose(run_, wait_, look_again);
  if (!error) {
    deadline_ = look_again;
  } else if (!advance()) {  // not if the message came while we looked
    run_.fail(*error);
  }
}

SEQCCL_END
