// meet.hpp - processes of one group find each other and choose the transport between them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <vector>

#include "seqccl/communicator.hpp"

SEQCCL_BEGIN

/// This rank's end, and on which node each rank is (none: all on one).
struct Met {
  std::unique_ptr<Transport> transport;
  std::vector<int> node;
  int ranks_on_host = 1;
};

/// Where ranks meet.
struct MeetingPlace {
  AllGather all_gather;
  /// For a rank that cannot come to it: ends the others' wait, there or when they come, with this error. Must not throw.
  std::function<void(const Error&)> leave_word;
};
/// Over the user's all-gather, which has no other way to tell the others than to be called: a word is left when all have come.
[[nodiscard]] MeetingPlace meeting_place(const AllGather& all_gather);
/// Over a store, which keeps a word for those who come later.
[[nodiscard]] MeetingPlace meeting_place(Store& store, Rank rank, int num_ranks, const ProcessRanks& options);

/// "rank 2 of 4 cannot join the communicator: ...", of the class of `why`
[[nodiscard]] Error cannot_join(Rank rank, int num_ranks, const std::exception& why);

/// Calls place.all_gather once, or leaves a word there.
/// @throws Error(local), or of the class of what went wrong, that names the rank that cannot come; what the transports throw
[[nodiscard]] Met meet_ranks(Rank rank, int num_ranks, const MeetingPlace& place, const ProcessRanks& options);

/// All of Communicator::from_callback, over any place.
[[nodiscard]] Communicator communicator_at(const MeetingPlace& place, Rank rank, int num_ranks, const ProcessRanks& options);

SEQCCL_END
