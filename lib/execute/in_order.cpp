// in_order.cpp - all ranks on one thread, in the nastiest order that a random generator finds.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <random>
#include <tuple>

#include "seqccl/execute.hpp"

SEQCCL_BEGIN
namespace {

/// What happens next, one of these at a time:
///   start    a step whose clock is met and whose lane is free: an exchange gives its credits and offers its sends
///   execute  a started compute step reads and writes, all at once
///   move     the oldest message of a wire that has both a credit and an offer: read at the sender, written at the receiver
///   finish   an executed compute step, or an exchange whose messages have all moved, counts as done
struct Event {
  enum class Kind { start, execute, move, finish } kind;
  Rank rank;  // of a move: the sender
  int lane;
  Rank to = 0;  // of a move
};

struct LaneState {
  enum class Phase { idle, started, executed } phase = Phase::idle;
  std::uint32_t step = 0;
  std::uint32_t num_unmoved = 0;
};
struct RankState {
  int run = 0;
  Clock done{};
  std::array<LaneState, num_lanes> lanes;
};
struct Wire {
  std::deque<Block> offers, credits;
};

class InOrder {
 public:
  InOrder(std::span<const Schedule> schedules, std::span<const Bindings> memory, const InOrderOptions& options)
      : schedules_(schedules), memory_(memory), options_(options), random_(options.seed), ranks_(schedules.size()) {
    for (std::size_t rank = 0; rank < ranks_.size(); ++rank) {
      begin_run(static_cast<Rank>(rank));
      end_finished_runs(static_cast<Rank>(rank));
    }
    // Some lanes of some ranks are slow, so that others get as far ahead of them as the schedule lets them.
    slow_.resize(ranks_.size() * num_lanes);
    for (auto&& slow : slow_) slow = random_() % 3 == 0;
  }

  bool run(std::string& why) {
    while (!all_done()) {
      collect_events();
      if (events_.empty()) {
        why = describe_deadlock();
        return false;
      }
      if (!happen(choose(), why)) return false;
    }
    return true;
  }

 private:
  const Step& step_of(Rank rank, int lane) const { return schedules_[rank].steps[ranks_[rank].lanes[lane].step]; }
  bool lane_done(Rank rank, int lane) const { return ranks_[rank].lanes[lane].step == schedules_[rank].steps.size(); }
  bool all_done() const {
    return std::all_of(ranks_.begin(), ranks_.end(), [&](const RankState& rank) { return rank.run == options_.num_runs; });
  }

  void begin_run(Rank rank) {
    ranks_[rank].done = {};
    for (int lane = 0; lane < num_lanes; ++lane) {
      ranks_[rank].lanes[lane] = {};
      skip_other_lanes(rank, lane);
    }
  }
  void skip_other_lanes(Rank rank, int lane) {
    const auto& steps = schedules_[rank].steps;
    auto& step = ranks_[rank].lanes[lane].step;
    while (step < steps.size() && static_cast<int>(steps[step].lane) != lane) ++step;
  }

  bool clock_met(Rank rank, const Step& step) const {
    if (options_.ignore_comm_clocks && step.lane != Lane::compute) return true;
    for (int lane = 0; lane < num_lanes; ++lane) {
      if (lane != static_cast<int>(step.lane) && ranks_[rank].done[lane] < step.after[lane]) return false;
    }
    return true;
  }

  void collect_events() {
    events_.clear();
    int slowest = options_.num_runs;
    for (const RankState& rank : ranks_) slowest = std::min(slowest, rank.run);
    for (Rank rank = 0; rank < static_cast<Rank>(ranks_.size()); ++rank) {
      if (ranks_[rank].run == options_.num_runs || ranks_[rank].run > slowest + 1) continue;  // at most one run ahead
      for (int lane = 0; lane < num_lanes; ++lane) {
        if (lane_done(rank, lane)) continue;
        const LaneState& state = ranks_[rank].lanes[lane];
        if (state.phase == LaneState::Phase::idle) {
          if (clock_met(rank, step_of(rank, lane))) events_.push_back({Event::Kind::start, rank, lane});
        } else if (lane != 0) {
          if (state.num_unmoved == 0) events_.push_back({Event::Kind::finish, rank, lane});
        } else {
          events_.push_back({state.phase == LaneState::Phase::started ? Event::Kind::execute : Event::Kind::finish, rank, lane});
        }
      }
    }
    for (const auto& [key, wire] : wires_) {
      if (!wire.offers.empty() && !wire.credits.empty()) {
        events_.push_back({Event::Kind::move, std::get<0>(key), std::get<2>(key), std::get<1>(key)});
      }
    }
  }

  Event choose() {
    for (int attempt = 0;; ++attempt) {
      const Event& event = events_[random_() % events_.size()];
      if (attempt == 4 || !slow_[static_cast<std::size_t>(event.rank) * num_lanes + event.lane]) return event;
    }
  }

  bool happen(const Event& event, std::string& why) {
    LaneState& state = ranks_[event.rank].lanes[event.lane];
    switch (event.kind) {
      case Event::Kind::start:
        start(event.rank, event.lane);
        return true;
      case Event::Kind::execute:
        run_op(schedules_[event.rank].ops[step_of(event.rank, event.lane).index], memory_[event.rank], options_.attend, 1);
        state.phase = LaneState::Phase::executed;
        return true;
      case Event::Kind::move:
        return move(event.rank, event.to, event.lane, why);
      case Event::Kind::finish:
        finish(event.rank, event.lane);
        return true;
    }
    return false;
  }

  void start(Rank rank, int lane) {
    LaneState& state = ranks_[rank].lanes[lane];
    state.phase = LaneState::Phase::started;
    if (lane == 0) return;
    const Exchange& exchange = schedules_[rank].exchanges[step_of(rank, lane).index];
    state.num_unmoved = exchange.num_sends + exchange.num_receives;
    for (const Transfer& receive : schedules_[rank].receives(exchange)) wires_[{receive.peer, rank, lane}].credits.push_back(receive.block);
    for (const Transfer& send : schedules_[rank].sends(exchange)) wires_[{rank, send.peer, lane}].offers.push_back(send.block);
  }

  bool move(Rank from, Rank to, int lane, std::string& why) {
    Wire& wire = wires_[{from, to, lane}];
    const Block source = wire.offers.front(), target = wire.credits.front();
    const std::size_t sent_bytes = schedules_[from].num_bytes(source), expected_bytes = schedules_[to].num_bytes(target);
    if (sent_bytes != expected_bytes) {
      why = fmt::format("rank {} sends {} bytes where rank {} expects {}", from, sent_bytes, to, expected_bytes);
      return false;
    }
    std::memcpy(memory_[to].view(target).data, memory_[from].view(source).data, sent_bytes);
    wire.offers.pop_front();
    wire.credits.pop_front();
    --ranks_[from].lanes[lane].num_unmoved;
    --ranks_[to].lanes[lane].num_unmoved;
    return true;
  }

  void finish(Rank rank, int lane) {
    LaneState& state = ranks_[rank].lanes[lane];
    state.phase = LaneState::Phase::idle;
    ++state.step;
    skip_other_lanes(rank, lane);
    ++ranks_[rank].done[lane];
    end_finished_runs(rank);
  }

  // A loop, because a rank that has nothing to do in this schedule ends all its runs at once.
  void end_finished_runs(Rank rank) {
    while (ranks_[rank].run < options_.num_runs) {
      for (int lane = 0; lane < num_lanes; ++lane) {
        if (!lane_done(rank, lane)) return;
      }
      const int run = ranks_[rank].run++;
      if (ranks_[rank].run == options_.num_runs) return;
      if (options_.between) options_.between(rank, run);
      begin_run(rank);
    }
  }

  std::string describe_deadlock() const {
    std::string text = "nothing can move:";
    for (Rank rank = 0; rank < static_cast<Rank>(ranks_.size()); ++rank) {
      if (ranks_[rank].run == options_.num_runs) continue;
      for (int lane = 0; lane < num_lanes; ++lane) {
        if (lane_done(rank, lane)) continue;
        const LaneState& state = ranks_[rank].lanes[lane];
        text += fmt::format("\n  rank {}, run {}, lane {}: step {} ({}) {}", rank, ranks_[rank].run, lane, state.step,
                            schedules_[rank].label(step_of(rank, lane)),
                            state.phase == LaneState::Phase::idle ? std::string("waits for its clock")
                                                                  : fmt::format("waits for {} messages", state.num_unmoved));
      }
    }
    return text;
  }

  std::span<const Schedule> schedules_;
  std::span<const Bindings> memory_;
  const InOrderOptions& options_;
  std::mt19937_64 random_;
  std::vector<RankState> ranks_;
  std::vector<bool> slow_;                             // [rank][lane]
  std::map<std::tuple<Rank, Rank, int>, Wire> wires_;  // from, to, lane
  std::vector<Event> events_;
};

}  // namespace

bool run_in_order(std::span<const Schedule> schedules, std::span<const Bindings> memory, const InOrderOptions& options, std::string& why) {
  if (schedules.size() != memory.size()) {
    throw Error(ErrorKind::argument,
                fmt::format("run_in_order: {} schedules and {} bindings, want one each per rank", schedules.size(), memory.size()));
  }
  for (const Bindings& bindings : memory) bindings.require_complete();
  return InOrder(schedules, memory, options).run(why);
}

SEQCCL_END
