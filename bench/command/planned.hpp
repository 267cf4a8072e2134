// planned.hpp - the schedules of all ranks, checked and simulated: what explain and draw show.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

#include "command/shape_options.hpp"
#include "seqccl/check.hpp"
#include "seqccl/collectives.hpp"

namespace seqccl::command {

struct Planned {
  std::string method;               // "ring", "mesh", "chain", ...
  std::optional<Mesh> mesh;         // that the method runs on
  std::vector<Schedule> schedules;  // of all ranks
  CheckReport report;
  Simulation simulation;  // only if the report is good
  double both_s = 0;      // simulated time of both passes, where that decides; 0: this pass alone

  [[nodiscard]] double deciding_s() const { return both_s > 0 ? both_s : simulation.seconds; }
};

/// What explain and draw take apart from the shape.
struct PlanOptions {
  int num_ranks = 4;
  std::int64_t num_tokens = 16384;
  bool backward = false;
  ClusterOptions cluster;

  void add_to(CLI::App& app, bool has_backward = true);
};

/// Records, checks and simulates what the spec has chosen; `name` labels it. @throws Error(argument) if the library refuses the problem
[[nodiscard]] Planned plan_attention(const AttentionSpec& spec, const std::string& name, bool backward, const Cluster& cluster);
[[nodiscard]] Planned plan_linear(const LinearSpec& spec, bool backward, const Cluster& cluster);

}  // namespace seqccl::command
