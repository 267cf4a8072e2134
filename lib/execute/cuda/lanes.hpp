// lanes.hpp - which steps of a plan need an event: where a lane must wait for another, and does not do so already.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "seqccl/schedule.hpp"

SEQCCL_BEGIN
namespace cuda {

/// Events of a plan's steps. A wait is left out if an earlier wait of the lane, or another wait of the step, implies it: after waiting for
/// a step a lane has seen all that the step had seen.
struct LaneEvents {
  explicit LaneEvents(const Schedule& schedule);

  std::vector<std::int32_t> recorded;     // by step: the event that is recorded behind it, -1 none
  std::vector<std::uint32_t> first_wait;  // by step, and one more: its waits are waits[first_wait[step]] ... waits[first_wait[step + 1]]
  std::vector<std::int32_t> waits;        // events
  std::int32_t num_events = 0;
  std::array<bool, num_lanes> is_used{};  // lanes with steps

  /// Those that communicate.
  [[nodiscard]] std::vector<Lane> communicating() const {
    std::vector<Lane> lanes;
    for (int lane = 1; lane < num_lanes; ++lane)
      if (is_used[static_cast<std::size_t>(lane)]) lanes.push_back(static_cast<Lane>(lane));
    return lanes;
  }
};

}  // namespace cuda
SEQCCL_END
