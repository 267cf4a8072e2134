// last_word.hpp - a rank that cannot even come to the all-gather says why, and need not wait for the others to come.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "seqccl/bootstrap.hpp"

SEQCCL_BEGIN
namespace bootstrap {

/// Instead of the first round of store_all_gather: all others throw `error` there, those who come later too, as long as the store is kept.
/// Returns at once; on rank 0, which keeps it, when all have heard, but after 2 s at the latest.
void leave_word(Store& store, Rank rank, int num_ranks, const std::string& group, const Error& error) noexcept;

}  // namespace bootstrap
SEQCCL_END
