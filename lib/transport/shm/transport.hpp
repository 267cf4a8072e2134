// transport.hpp - ranks as processes of one host: messages through memory that they share.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <memory>

#include "seqccl/bootstrap.hpp"
#include "seqccl/transport.hpp"

SEQCCL_BEGIN

/// This rank's end. Destroying it tells the others that the rank left. @throws what shm::meet throws
[[nodiscard]] std::unique_ptr<Transport> shm_transport(Rank rank, int num_ranks, const AllGather& all_gather, const WaitPolicy& policy,
                                                       std::chrono::nanoseconds timeout);

SEQCCL_END
