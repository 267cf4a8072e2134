// ranks.hpp - the numbers of ranks at which everything is tested: odd, even, prime, not powers of two; many bugs appear from 4 up.
// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace seqccl::test {

inline constexpr int ranks_of[] = {1, 2, 3, 4, 5, 7, 8};

}  // namespace seqccl::test
