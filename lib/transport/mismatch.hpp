// mismatch.hpp - the error for two ranks that are not in the same operation: who, what, and where their descriptions part.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "seqccl/transport.hpp"

SEQCCL_BEGIN

/// One end of a message that does not fit the other's.
struct MismatchSide {
  Rank rank = 0;
  std::uint64_t num_bytes = 0;  // that it sends or expects
  std::uint64_t operation = 0;  // its how-manieth
  std::int32_t step = -1;       // the last that it began there, -1 none
  std::string text;             // describes it, a line for each field
};
/// "its operation 3 (ring forward), step 5"
[[nodiscard]] std::string where(const MismatchSide& side);
/// `noticed_by` is the end of one of the two.
[[nodiscard]] Error mismatch_error(Transport& noticed_by, const MismatchSide& sender, const MismatchSide& receiver);

SEQCCL_END
