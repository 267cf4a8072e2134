// transport.hpp - ranks as processes of any hosts: messages over UCX, failures over plain TCP.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "meet.hpp"
#include "seqccl/transport.hpp"

SEQCCL_BEGIN

struct UcxRank {
  std::unique_ptr<Transport> transport;  // destroying it tells the others that the rank left; takes at most about a second
  std::vector<int> node;                 // by rank: which host it is on, numbered from 0
};
/// This rank's end, once `texts` of all ranks' door.card().text() are there.
/// `shares_memory`: ranks of one host send each other messages through shared memory, not over UCX.
/// @throws Error(argument) if UCX is not there, and what ucx::Door::meet throws
[[nodiscard]] UcxRank ucx_transport(Rank rank, const ucx::Door& door, const std::vector<std::string>& texts, const WaitPolicy& policy,
                                    std::chrono::nanoseconds timeout, bool shares_memory);

SEQCCL_END
