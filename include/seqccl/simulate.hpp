// simulate.hpp - how long a set of schedules takes on a described cluster; deterministic, no data.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <vector>

#include "seqccl/mesh.hpp"
#include "seqccl/schedule.hpp"

SEQCCL_BEGIN

/// A class of links: a message of n bytes takes latency_s + n / bytes_per_s once both its ports are free.
struct LinkClass {
  double latency_s = 2e-6;
  double bytes_per_s = 10e9;
};

/// Every rank has one full-duplex port per class of link; messages through a port go one after the other.
struct Cluster {
  Topology topology;          // who shares a node
  LinkClass inside, between;  // links inside a node, and between nodes
  double flops_per_s = 20e9;  // of a rank's kernels
  double memory_bytes_per_s = 10e9;
  double step_overhead_s = 2e-6;  // per compute step

  /// Figures of ranks as threads of a common machine, used by Method::automatic where nothing better is known.
  [[nodiscard]] static Cluster thread_ranks();
};

struct StepTime {
  double begin_s = 0, end_s = 0;  // an exchange begins when it is posted and ends with its last message
};

struct Simulation {
  double seconds = 0;                        // until the last rank is done
  std::vector<std::vector<StepTime>> steps;  // [rank][step]
  std::vector<double> compute_s;             // per rank, sum of its compute steps
  std::vector<double> exposed_s;             // per rank, time of the whole in which it did not compute
  /// Per rank, the step whose wait for a lane exposed most time (-1: none).
  std::vector<int> exposing_step;
};

/// @throws Error(internal) if the schedules deadlock or do not match (run the checker first)
[[nodiscard]] Simulation simulate(std::span<const Schedule> schedules, const Cluster& cluster);

/// Seconds that one compute step takes on `cluster`: overhead + max(flops / rate, bytes / memory rate).
[[nodiscard]] double compute_seconds(const Schedule& schedule, const Op& op, const Cluster& cluster);

SEQCCL_END
