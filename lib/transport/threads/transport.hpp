// transport.hpp - ranks as threads of one process.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <vector>

#include "seqccl/transport.hpp"

SEQCCL_BEGIN

/// One end per rank, to be used from that rank's threads. Destroying an end tells the others that the rank left.
[[nodiscard]] std::vector<std::unique_ptr<Transport>> thread_transports(int num_ranks, const WaitPolicy& policy);

SEQCCL_END
