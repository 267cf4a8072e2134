// simulate.cpp - plays schedules on a described cluster: a discrete-event simulation of lanes and ports, without data.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/simulate.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <numeric>
#include <queue>
#include <tuple>

#include "seqccl/cost.hpp"

SEQCCL_BEGIN

namespace {

using Number = std::uint32_t;  // of a step or transfer, counted over all ranks

struct Message {
  std::uint64_t num_bytes = 0;
  Rank sender = 0, receiver = 0;
  Number send_step = 0, receive_step = 0;
  std::uint32_t position = 0;  // in the sender's exchange
  Lane lane = Lane::comm;
  bool posted = false;  // by one of its sides
};

/// A step that ends, or a message that both sides have posted. Of one time, steps that end come first, because what they
/// release may still join the messages of that time; messages go by lane, position in the sender's exchange, sender.
struct Due {
  double time;
  std::uint64_t order;
  std::uint32_t index;  // message or step
  Rank rank;            // of the step; -1: a message

  bool operator>(const Due& other) const noexcept { return time != other.time ? time > other.time : order > other.order; }
};

/// One side of a message, to be matched.
struct Side {
  std::uint64_t key;  // peer, lane, order
  Number transfer, step;
  Rank owner;
};

class Player {
 public:
  Player(std::span<const Schedule> schedules, const Cluster& cluster) : schedules_(schedules), cluster_(cluster) {
    check_arguments();
    number_everything();
    match();
  }

  Simulation play() && {
    for (Rank rank = 0; rank < num_ranks(); ++rank) start_what_can(rank, 0.0, none);
    while (!events_.empty()) {
      const Due event = events_.top();
      events_.pop();
      if (event.rank < 0)
        reserve(messages_[event.index], event.time);
      else
        end_step(event.rank, event.index, event.time);
    }
    if (num_ended_ != first_step_.back()) refuse_deadlock();
    for (Rank rank = 0; rank < num_ranks(); ++rank) result_.exposed_s[rank] = std::max(0.0, result_.seconds - result_.compute_s[rank]);
    count_trailing_waits();
    return std::move(result_);
  }

 private:
  static constexpr Number none = ~Number{0};

  int num_ranks() const noexcept { return static_cast<int>(schedules_.size()); }
  StepTime& time_of(Rank rank, Number step) noexcept { return result_.steps[rank][step - first_step(rank)]; }
  Number first_step(Rank rank) const noexcept { return first_step_[rank]; }

  void check_arguments() const {
    const auto positive = [](const char* what, double value) {
      if (!(value > 0)) throw Error(ErrorKind::argument, fmt::format("simulate: cluster.{} is {}, want above 0", what, value));
    };
    const auto not_negative = [](const char* what, double value) {
      if (!(value >= 0)) throw Error(ErrorKind::argument, fmt::format("simulate: cluster.{} is {}, want at least 0", what, value));
    };
    positive("inside.bytes_per_s", cluster_.inside.bytes_per_s);
    positive("between.bytes_per_s", cluster_.between.bytes_per_s);
    positive("flops_per_s", cluster_.flops_per_s);
    positive("memory_bytes_per_s", cluster_.memory_bytes_per_s);
    not_negative("inside.latency_s", cluster_.inside.latency_s);
    not_negative("between.latency_s", cluster_.between.latency_s);
    not_negative("step_overhead_s", cluster_.step_overhead_s);
    const std::size_t num_known = cluster_.topology.node.size();
    if (num_known != 0 && num_known < schedules_.size())
      throw Error(ErrorKind::argument,
                  fmt::format("simulate: cluster.topology has {} ranks, want {} as there are schedules", num_known, schedules_.size()));
    for (Rank rank = 0; rank < num_ranks(); ++rank)
      if (schedules_[rank].rank != rank || schedules_[rank].num_ranks != num_ranks())
        throw Error(ErrorKind::argument, fmt::format("simulate: schedules[{}] is of rank {} of {}, want rank {} of {}", rank,
                                                     schedules_[rank].rank, schedules_[rank].num_ranks, rank, num_ranks()));
  }

  void number_everything() {
    result_.steps.resize(schedules_.size());
    result_.compute_s.resize(schedules_.size());
    result_.exposed_s.resize(schedules_.size());
    result_.exposing_step.assign(schedules_.size(), -1);
    longest_wait_s_.resize(schedules_.size());
    computed_until_s_.resize(schedules_.size());
    send_port_free_s_.resize(schedules_.size() * 2);
    receive_port_free_s_.resize(schedules_.size() * 2);
    num_started_.resize(schedules_.size() * num_lanes);
    num_done_.resize(schedules_.size() * num_lanes);

    first_step_.assign(1, 0);
    first_transfer_.assign(1, 0);
    lane_begin_.assign(1, 0);
    for (const Schedule& schedule : schedules_) {
      result_.steps[schedule.rank].resize(schedule.steps.size());
      for (int lane = 0; lane < num_lanes; ++lane) {
        for (std::size_t i = 0; i < schedule.steps.size(); ++i)
          if (static_cast<int>(schedule.steps[i].lane) == lane) lane_steps_.push_back(first_step_.back() + static_cast<Number>(i));
        lane_begin_.push_back(static_cast<Number>(lane_steps_.size()));
      }
      first_step_.push_back(first_step_.back() + static_cast<Number>(schedule.steps.size()));
      first_transfer_.push_back(first_transfer_.back() + static_cast<Number>(schedule.transfers.size()));
    }
    num_pending_.resize(first_step_.back());
    message_of_.resize(first_transfer_.back(), none);
  }

  // Both sides of the messages of each sender, in order of (receiver, lane, order of the lane), are one list twice.
  void match() {
    std::vector<std::size_t> send_end(schedules_.size() + 1), receive_end(schedules_.size() + 1);
    for_each_side([&](Rank sender, bool is_send, const Side&) { ++(is_send ? send_end : receive_end)[sender + 1]; });
    std::partial_sum(send_end.begin(), send_end.end(), send_end.begin());
    std::partial_sum(receive_end.begin(), receive_end.end(), receive_end.begin());

    std::vector<Side> sends(send_end.back()), receives(receive_end.back());
    std::vector<std::size_t> send_at(send_end.begin(), send_end.end() - 1), receive_at(receive_end.begin(), receive_end.end() - 1);
    for_each_side(
        [&](Rank sender, bool is_send, const Side& side) { (is_send ? sends[send_at[sender]++] : receives[receive_at[sender]++]) = side; });

    const auto by_key = [](const Side& a, const Side& b) {
      return std::tie(a.key, a.step, a.transfer) < std::tie(b.key, b.step, b.transfer);
    };
    messages_.reserve(sends.size());
    for (Rank sender = 0; sender < num_ranks(); ++sender) {
      const auto sort = [&](std::vector<Side>& sides, const std::vector<std::size_t>& end) {
        const std::span<Side> mine(sides.data() + end[sender], end[sender + 1] - end[sender]);
        if (!std::is_sorted(mine.begin(), mine.end(), by_key)) std::sort(mine.begin(), mine.end(), by_key);
        return mine;
      };
      const std::span<Side> out = sort(sends, send_end), in = sort(receives, receive_end);
      for (std::size_t i = 0; i < std::max(out.size(), in.size()); ++i) {
        if (i >= out.size() || i >= in.size() || out[i].key != in[i].key) refuse_unmatched(sender, i < out.size() ? out[i] : in[i]);
        add_message(sender, out[i], in[i]);
      }
    }
  }

  template <class Visit>
  void for_each_side(Visit&& visit) const {
    for (const Schedule& schedule : schedules_)
      for (std::size_t i = 0; i < schedule.steps.size(); ++i) {
        const Step& step = schedule.steps[i];
        if (step.lane == Lane::compute) continue;
        const Exchange& exchange = schedule.exchanges[step.index];
        for (std::uint32_t j = 0; j < exchange.num_sends + exchange.num_receives; ++j) {
          const Rank peer = schedule.transfers[exchange.first + j].peer;
          if (peer < 0 || peer >= num_ranks())
            throw Error(ErrorKind::internal, fmt::format("simulate: {}: step {} of rank {} names rank {} of {}", schedule.name, i,
                                                         schedule.rank, peer, num_ranks()));
          const bool is_send = j < exchange.num_sends;
          const Rank sender = is_send ? schedule.rank : peer, receiver = is_send ? peer : schedule.rank;
          const std::uint64_t key = static_cast<std::uint64_t>(receiver) * num_lanes + static_cast<std::uint64_t>(step.lane);
          visit(sender, is_send,
                Side{key, first_transfer_[schedule.rank] + exchange.first + j, first_step(schedule.rank) + static_cast<Number>(i),
                     schedule.rank});
        }
      }
  }

  void add_message(Rank sender, const Side& out, const Side& in) {
    const Transfer& send = schedules_[sender].transfers[out.transfer - first_transfer_[sender]];
    const Transfer& receive = schedules_[in.owner].transfers[in.transfer - first_transfer_[in.owner]];
    const Step& step = schedules_[sender].steps[out.step - first_step(sender)];
    Message message;
    message.num_bytes = schedules_[sender].num_bytes(send.block);
    message.sender = sender;
    message.receiver = in.owner;
    message.send_step = out.step;
    message.receive_step = in.step;
    message.position = out.transfer - first_transfer_[sender] - schedules_[sender].exchanges[step.index].first;
    message.lane = step.lane;
    if (const std::uint64_t wanted = schedules_[in.owner].num_bytes(receive.block); wanted != message.num_bytes)
      throw Error(ErrorKind::internal,
                  fmt::format("simulate: {}: step {} of rank {} sends {} bytes to rank {}, which expects {} in its step {}",
                              schedules_[sender].name, out.step - first_step(sender), sender, message.num_bytes, in.owner, wanted,
                              in.step - first_step(in.owner)));
    message_of_[out.transfer] = message_of_[in.transfer] = static_cast<Number>(messages_.size());
    messages_.push_back(message);
  }

  /// `cause`: the step of this rank that has just ended.
  void start_what_can(Rank rank, double now, Number cause) {
    const std::size_t row = static_cast<std::size_t>(rank) * num_lanes;
    for (std::size_t lane = 0; lane < num_lanes; ++lane) {
      if (num_started_[row + lane] != num_done_[row + lane]) continue;  // busy
      const Number at = lane_begin_[row + lane] + num_started_[row + lane];
      if (at == lane_begin_[row + lane + 1]) continue;  // no more
      const Step& step = schedules_[rank].steps[lane_steps_[at] - first_step(rank)];
      bool is_met = true;
      for (std::size_t other = 0; other < num_lanes; ++other) is_met = is_met && num_done_[row + other] >= step.after[other];
      if (!is_met) continue;
      ++num_started_[row + lane];
      time_of(rank, lane_steps_[at]) = {now, now};
      if (step.lane == Lane::compute)
        compute(rank, lane_steps_[at], step, now, cause);
      else
        post(rank, lane_steps_[at], step, now);
    }
  }

  void compute(Rank rank, Number number, const Step& step, double now, Number cause) {
    note_wait(rank, now, cause);
    const double duration = compute_seconds(schedules_[rank], schedules_[rank].ops[step.index], cluster_);
    result_.compute_s[rank] += duration;
    computed_until_s_[rank] = now + duration;
    push_end(rank, number, now + duration);
  }

  /// The compute lane idled from its last step until now, when `cause` ended.
  void note_wait(Rank rank, double now, Number cause) {
    const double waited = now - computed_until_s_[rank];
    if (cause == none || !(waited > longest_wait_s_[rank])) return;
    longest_wait_s_[rank] = waited;
    result_.exposing_step[rank] = static_cast<int>(cause - first_step(rank));
  }

  void post(Rank rank, Number number, const Step& step, double now) {
    const Exchange& exchange = schedules_[rank].exchanges[step.index];
    num_pending_[number] = exchange.num_sends + exchange.num_receives;
    if (num_pending_[number] == 0) push_end(rank, number, now);
    for (Number i = 0; i < num_pending_[number]; ++i) {
      const Number index = message_of_[first_transfer_[rank] + exchange.first + i];
      Message& message = messages_[index];
      if (message.posted) {
        const std::uint64_t order = std::uint64_t{1} << 63 | static_cast<std::uint64_t>(message.lane) << 61 |
                                    static_cast<std::uint64_t>(message.position) << 24 | static_cast<std::uint64_t>(message.sender);
        events_.push({now, order, index, -1});
      }
      message.posted = true;
    }
  }

  // Both ports are taken from when both are free. Messages come here in the order in which they became ready, so nobody
  // overtakes: a message whose receiver is busy holds back later ones of its sender, as in a queue of work requests.
  void reserve(const Message& message, double now) {
    const bool is_inside = cluster_.topology.same_node(message.sender, message.receiver);
    const LinkClass& link = is_inside ? cluster_.inside : cluster_.between;
    const std::size_t port = is_inside ? 0 : 1;
    double& send_free_s = send_port_free_s_[static_cast<std::size_t>(message.sender) * 2 + port];
    double& receive_free_s = receive_port_free_s_[static_cast<std::size_t>(message.receiver) * 2 + port];
    const double end_s = std::max({now, send_free_s, receive_free_s}) + static_cast<double>(message.num_bytes) / link.bytes_per_s;
    send_free_s = receive_free_s = end_s;
    arrive(message.sender, message.send_step, end_s + link.latency_s);
    arrive(message.receiver, message.receive_step, end_s + link.latency_s);
  }

  void arrive(Rank rank, Number step, double at) {
    double& end_s = time_of(rank, step).end_s;
    end_s = std::max(end_s, at);
    if (--num_pending_[step] == 0) push_end(rank, step, end_s);
  }

  void push_end(Rank rank, Number step, double at) { events_.push({at, step, step, rank}); }

  void end_step(Rank rank, Number number, double now) {
    const Step& step = schedules_[rank].steps[number - first_step(rank)];
    time_of(rank, number).end_s = now;
    result_.seconds = std::max(result_.seconds, now);
    ++num_done_[static_cast<std::size_t>(rank) * num_lanes + static_cast<std::size_t>(step.lane)];
    ++num_ended_;
    start_what_can(rank, now, number);
  }

  // After its last compute step a rank waits for what it still sends and receives.
  void count_trailing_waits() {
    for (Rank rank = 0; rank < num_ranks(); ++rank) {
      const std::vector<StepTime>& times = result_.steps[rank];
      const auto last =
          std::max_element(times.begin(), times.end(), [](const StepTime& a, const StepTime& b) { return a.end_s < b.end_s; });
      if (last != times.end()) note_wait(rank, last->end_s, first_step(rank) + static_cast<Number>(last - times.begin()));
    }
  }

  [[noreturn]] void refuse_unmatched(Rank sender, const Side& side) const {
    const auto receiver = static_cast<Rank>(side.key / num_lanes);
    const bool is_send = side.owner == sender;
    throw Error(ErrorKind::internal,
                fmt::format("simulate: {}: step {} of rank {} {} rank {} on lane {}, which has no {} for it", schedules_[side.owner].name,
                            side.step - first_step(side.owner), side.owner, is_send ? "sends to" : "receives from",
                            is_send ? receiver : sender, side.key % num_lanes, is_send ? "receive" : "send"));
  }

  [[noreturn]] void refuse_deadlock() const {
    for (Rank rank = 0; rank < num_ranks(); ++rank)
      for (int lane = 0; lane < num_lanes; ++lane) {
        const std::size_t at = static_cast<std::size_t>(rank) * num_lanes + static_cast<std::size_t>(lane);
        if (lane_begin_[at] + num_done_[at] == lane_begin_[at + 1]) continue;
        const Number step = lane_steps_[lane_begin_[at] + num_done_[at]] - first_step(rank);
        const Schedule& schedule = schedules_[rank];
        throw Error(ErrorKind::internal,
                    fmt::format("simulate: {}: deadlock: {} of {} steps end; rank {} waits for ever {} step {} ({})", schedule.name,
                                num_ended_, first_step_.back(), rank, num_started_[at] == num_done_[at] ? "before" : "in", step,
                                schedule.label(schedule.steps[step])));
      }
    throw Error(ErrorKind::internal, "simulate: steps are missing");
  }

  std::span<const Schedule> schedules_;
  const Cluster& cluster_;
  Simulation result_;
  std::priority_queue<Due, std::vector<Due>, std::greater<>> events_;

  std::vector<Number> first_step_;              // [rank]: number of the rank's first step; one more: number of all steps
  std::vector<Number> first_transfer_;          // likewise
  std::vector<Number> lane_steps_;              // steps by (rank, lane)
  std::vector<Number> lane_begin_;              // [rank * num_lanes + lane] in lane_steps_
  std::vector<Number> num_started_, num_done_;  // [rank * num_lanes + lane]
  std::vector<Number> num_pending_;             // [step]: messages that have not arrived
  std::vector<Number> message_of_;              // [transfer]
  std::vector<Message> messages_;
  std::vector<double> send_port_free_s_, receive_port_free_s_;  // [rank * 2 + class of link]
  std::vector<double> computed_until_s_, longest_wait_s_;       // [rank]
  Number num_ended_ = 0;
};

}  // namespace

Cluster Cluster::thread_ranks() {
  Cluster cluster;
  cluster.inside = cluster.between = {1e-6, 8e9};  // a wake-up; one core's copy
  cluster.flops_per_s = 20e9;
  cluster.memory_bytes_per_s = 8e9;
  cluster.step_overhead_s = 1e-6;
  return cluster;
}

double compute_seconds(const Schedule& schedule, const Op& op, const Cluster& cluster) {
  const OpCost cost = cost_of(schedule, op);
  return cluster.step_overhead_s + std::max(cost.flops / cluster.flops_per_s, cost.bytes / cluster.memory_bytes_per_s);
}

Simulation simulate(std::span<const Schedule> schedules, const Cluster& cluster) { return Player(schedules, cluster).play(); }

SEQCCL_END
