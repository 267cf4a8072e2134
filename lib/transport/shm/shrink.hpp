// shrink.hpp - the survivors of a failed group get new segments, over the sockets that they have.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <vector>

#include "connect.hpp"

SEQCCL_BEGIN
namespace shm {

/// What meet() would have given those who are left, in the order of their old ranks.
struct Survivors {
  Meeting meeting;
  std::vector<Rank> former_ranks;  // by new rank
};

/// Called by every survivor; lib/transport/notes.md. No rank is waited for once it has come: its new segment is then on its way to each
/// other rank.
/// @throws what Transport::shrink throws
[[nodiscard]] Survivors shrink(Rank rank, const std::vector<Segment>& segments, const Liveness& liveness, std::chrono::nanoseconds timeout);

}  // namespace shm
SEQCCL_END
