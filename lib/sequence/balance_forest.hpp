// balance_forest.hpp - the groups of one micro-batch as a forest, and what a further group can be put together from.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "balance_state.hpp"

SEQCCL_BEGIN
namespace balancing {

/// Ranks that a further group takes together or not at all: a group that is there, or one rank.
struct Unit {
  double seconds = 0;       // of its slowest rank
  std::int64_t tokens = 0;  // of its fullest
  int node = 0;             // -1: on several
  Rank first = 0;
  int count = 0, begin = 0;  // in Forest::members
};

/// A group, or all ranks: a further group that lies inside is made of these.
struct Domain {
  int size = 0;
  std::vector<Unit> units;  // the fastest first
};

/// Groups are nested or disjoint, and a further group must be too.
struct Forest {
  std::uint64_t version = 0;       // of the batch that it was made from
  std::vector<Domain> domains;     // all ranks, then the groups, wide before narrow
  int num_domains = 0;             // of those; the rest is memory kept
  std::vector<Rank> members;       // of all units
  std::vector<double> in_order_s;  // the ranks' seconds, the least first
  std::vector<std::int64_t> in_order_tokens;

  /// `nodes` has a number for every rank.
  void make(const State& state, const Batch& batch, const std::vector<int>& nodes);

 private:
  std::vector<int> innermost_;  // per rank, in domains
};

}  // namespace balancing
SEQCCL_END
