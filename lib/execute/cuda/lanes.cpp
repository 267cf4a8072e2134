// lanes.cpp - which steps of a plan need an event.
// SPDX-License-Identifier: Apache-2.0
#include "lanes.hpp"

#include <algorithm>
#include <cstddef>

SEQCCL_BEGIN
namespace cuda {

LaneEvents::LaneEvents(const Schedule& schedule) {
  const std::size_t num_steps = schedule.steps.size();
  recorded.assign(num_steps, -1);
  first_wait.reserve(num_steps + 1);
  std::array<std::vector<std::uint32_t>, num_lanes> steps_of;  // by lane, in order
  std::array<Clock, num_lanes> seen{};                         // by lane: how far it knows every lane to have come
  std::vector<Clock> seen_behind(num_steps);                   // the same behind each step
  const auto at = [](auto value) { return static_cast<std::size_t>(value); };

  for (std::size_t index = 0; index < num_steps; ++index) {
    const Step& step = schedule.steps[index];
    const std::size_t lane = at(step.lane);
    is_used[lane] = true;
    first_wait.push_back(static_cast<std::uint32_t>(waits.size()));
    // Candidates that tell most come first: what they have seen need not be waited for.
    std::vector<std::uint32_t> needed;
    for (std::size_t other = 0; other < at(num_lanes); ++other)
      if (other != lane && step.after[other] > seen[lane][other]) needed.push_back(steps_of[other][step.after[other] - 1]);
    std::sort(needed.begin(), needed.end(), [](std::uint32_t a, std::uint32_t b) { return a > b; });  // later in the program, seen more
    for (const std::uint32_t awaited : needed) {
      const Step& other = schedule.steps[awaited];
      if (seen[lane][at(other.lane)] >= step.after[at(other.lane)]) continue;
      if (recorded[awaited] < 0) recorded[awaited] = num_events++;
      waits.push_back(recorded[awaited]);
      for (std::size_t of = 0; of < at(num_lanes); ++of) seen[lane][of] = std::max(seen[lane][of], seen_behind[awaited][of]);
    }
    ++seen[lane][lane];
    seen_behind[index] = seen[lane];
    steps_of[lane].push_back(static_cast<std::uint32_t>(index));
  }
  first_wait.push_back(static_cast<std::uint32_t>(waits.size()));
}

}  // namespace cuda
SEQCCL_END
