// message_graph.hpp - messages of all ranks, and the order that lanes, clocks and messages impose on all steps.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "seqccl/schedule.hpp"

SEQCCL_BEGIN
namespace checker {

/// A send and the receive that it meets.
struct Message {
  Rank from = 0, to = 0;
  std::uint32_t send_step = 0, receive_step = 0;  // in Schedule::steps of the two ranks
  std::uint32_t send = 0, receive = 0;            // in Schedule::transfers of the two ranks
};

struct Matching {
  std::vector<Message> messages;
  std::vector<std::string> problems;
};

/// The i-th send A -> B of each lane with B's i-th receive from A on that lane.
[[nodiscard]] Matching match_messages(std::span<const Schedule> schedules);

/// A step begins (exchange: it is posted) or is done.
struct Event {
  Rank rank = 0;
  std::uint32_t step = 0;
  bool is_done = false;
};

struct Order {
  std::vector<Event> events;  // all of them in an order that can happen; fewer if there is a cycle
  std::vector<std::string> problems;
};

/// Edges: done(previous step of the lane) -> begins, done(what the clock waits for) -> begins, begins -> done, and for each
/// message begins(send) -> done(receive), begins(receive) -> done(send).
[[nodiscard]] Order order_events(std::span<const Schedule> schedules, std::span<const Message> messages);

}  // namespace checker
SEQCCL_END
