// well_formed.hpp - what every check asks first: do all indices of a set of schedules point at something?
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <vector>

#include "seqccl/check.hpp"

SEQCCL_BEGIN
namespace checker {

/// Reports stop here: after the first few problems the rest are echoes.
inline constexpr std::size_t max_problems = 100;

/// "rank 3, comm step 5 (exchange, to 2, from 4)"; steps of a lane count from 1, as clocks do.
[[nodiscard]] std::string where(const Schedule& schedule, std::size_t step);
[[nodiscard]] const char* name(Lane lane) noexcept;

/// Ranks in order, and every slot, transfer, op and slice that a step names exists. The other checks rely on it.
[[nodiscard]] CheckReport check_well_formed(std::span<const Schedule> schedules);
/// The same for one rank.
void check_well_formed(const Schedule& schedule, std::vector<std::string>& problems);

}  // namespace checker
SEQCCL_END
