// outcome.hpp - what ends a round of an all-gather: all strings, or what went wrong.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "seqccl/error.hpp"

SEQCCL_BEGIN
namespace bootstrap {

/// The round ends with the first outcome that is put: rank 0's, or the word of a rank that cannot come.
///
///     num_ranks 4 | failed 1 | num_ranks times: length 4, string
///                            | kind 1, length 4, text, num_culprits 4, culprits 4 each
struct Outcome {
  int num_ranks = 0;
  std::vector<std::string> values;
  std::optional<Error> error;
};
[[nodiscard]] std::string encode(const Outcome& outcome);
/// @throws Error(internal) if the text is cut off
[[nodiscard]] Outcome decode(std::string_view text);

/// The number that a text begins with. @throws Error(internal) if it is shorter than that
[[nodiscard]] std::uint64_t leading_number(std::string_view text, int num_bytes);
/// An outcome goes in pieces that a store takes; the first says how long the whole is.
inline constexpr std::size_t outcome_size_bytes = 8;
[[nodiscard]] std::string first_piece(std::string_view text);

}  // namespace bootstrap
SEQCCL_END
