// meet.hpp - processes of one group find each other and choose the transport between them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "seqccl/communicator.hpp"

SEQCCL_BEGIN

/// This rank's end, and on which node each rank is (none: all on one).
struct Met {
  std::unique_ptr<Transport> transport;
  std::vector<int> node;
  int ranks_on_host = 1;
};

/// Calls `all_gather` once, also if this rank cannot come: then to tell the others why, which ends their wait.
/// @throws Error(local), or of the class of what went wrong, that names the rank that cannot come; what the transports throw
[[nodiscard]] Met meet_ranks(Rank rank, int num_ranks, const AllGather& all_gather, const ProcessRanks& options);

/// For a rank that cannot even begin to meet: tells the others why, which ends their wait; returns when they have come, too.
void tell_why_not(const AllGather& all_gather, ErrorKind kind, std::string_view why) noexcept;

SEQCCL_END
