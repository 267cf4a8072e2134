// explain.hpp - a schedule for people: text, JSON-ready numbers, and a picture of all ranks' lanes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>

#include "seqccl/simulate.hpp"

SEQCCL_BEGIN

/// Costs, bytes per link, workspace and exposed time of all ranks; with `steps_of` >= 0 also that rank's steps and clocks.
[[nodiscard]] std::string explain(std::span<const Schedule> schedules, const Simulation& simulation, const Cluster& cluster,
                                  Rank steps_of = -1);

/// The lanes of all ranks over simulated time, as SVG: one row per rank and lane, a block per step, a tooltip per block.
[[nodiscard]] std::string draw(std::span<const Schedule> schedules, const Simulation& simulation);

/// "1.5 GiB", "12.0 KiB", "8 B"; "1.25 ms", "3.0 us".
[[nodiscard]] std::string human_bytes(double bytes);
[[nodiscard]] std::string human_seconds(double seconds);

SEQCCL_END
