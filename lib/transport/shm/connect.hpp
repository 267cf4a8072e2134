// connect.hpp - ranks on one host exchange the descriptors of their segments.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <vector>

#include "liveness.hpp"
#include "segment.hpp"
#include "seqccl/bootstrap.hpp"

SEQCCL_BEGIN
namespace shm {

/// Every rank's segment, this rank's among them, and who of the others still lives.
struct Meeting {
  std::vector<Segment> segments;
  Liveness liveness;
};

/// Each rank listens on a unix socket without a name in the file system, tells the others with `all_gather`, and swaps descriptors with
/// each. A stranger's connection (another user, or without the secret that went through the all-gather) is closed.
/// @throws Error(argument) on all ranks if not all are on this host; Error(stalled) that names a rank that does not answer in time;
/// Error(dead) that names one that has ended or failed meanwhile; what all_gather throws
[[nodiscard]] Meeting meet(Rank rank, int num_ranks, const AllGather& all_gather, std::chrono::nanoseconds timeout);

}  // namespace shm
SEQCCL_END
