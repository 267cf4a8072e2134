// limits.hpp - what all stores ask of ranks, keys and values.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <string>
#include <string_view>

#include "seqccl/bootstrap.hpp"

SEQCCL_BEGIN
namespace bootstrap {

// All throw Error(argument).
void require_ranks(Rank rank, int num_ranks);
void require_timeout(std::chrono::nanoseconds timeout);
void require_launch(const LaunchInfo& launch, std::chrono::nanoseconds timeout);
void require_key(std::string_view key);
void require_value(std::string_view value);

/// Throws Error(mismatched).
[[noreturn]] void refuse_second_put(std::string_view key, const std::string& place);

}  // namespace bootstrap
SEQCCL_END
