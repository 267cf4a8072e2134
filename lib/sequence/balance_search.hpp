// balance_search.hpp - the search for a good assignment.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "balance_state.hpp"

SEQCCL_BEGIN
namespace balancing {

/// The best assignment found; stops early at `lower_bound_s`. Items: most work first.
[[nodiscard]] Assignment search(const BalanceProblem& problem, std::span<const Item> items, double lower_bound_s);

}  // namespace balancing
SEQCCL_END
