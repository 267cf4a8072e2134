// coverage_runs.hpp - names of runs of tokens and of the states between them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <vector>

#include "coverage.hpp"

SEQCCL_BEGIN
namespace checker {

[[nodiscard]] inline std::int64_t end_of(const Segment& run) { return run.first + run.count; }

/// One run of tokens of one document, step 1, with all heads from `head` on.
struct Run {
  Segment tokens{};
  std::int64_t head = 0, num_heads = 0;

  [[nodiscard]] Fragment as(What what, bool complete) const { return {.what = what, .tokens = tokens, .head = head, .complete = complete}; }
  bool operator==(const Run& other) const { return equal(tokens, other.tokens) && head == other.head && num_heads == other.num_heads; }
};

/// The rows of `block` as one run; reported and empty if they are something else.
[[nodiscard]] std::optional<Run> read_run(Coverage& run, const Block& block, const char* operand, What what);
/// True if `block` is the same run of another tensor.
[[nodiscard]] bool same_run(Coverage& run, const Run& tokens, const Block& block, const char* operand, What what);
/// The decays and betas of a run, or the constant decay; none if there are none.
[[nodiscard]] bool has_gates_of(Coverage& run, const Run& tokens, const Block& log_decay, const Block& beta);
[[nodiscard]] bool has_decay_of(Coverage& run, const Run& tokens, const Block& block);
[[nodiscard]] bool has_bonus_of(Coverage& run, const Run& tokens, const Block& block);
/// The one state in `block`: `what`, or nothing if it is zero. Reported if it is neither.
[[nodiscard]] std::optional<Fragment> read_state(Coverage& run, const Block& block, const char* operand, bool& is_zero);
/// True if `block` (absent: zero) holds exactly `want`, all columns.
[[nodiscard]] bool holds_state(Coverage& run, const Block& block, const char* operand, What what, const Segment& want, bool complete,
                               const Run& tokens);
/// True if the state sums the document of these tokens, each token once.
[[nodiscard]] bool sums_document(Coverage& run, const std::vector<Fragment>& state, const Run& tokens);

}  // namespace checker
SEQCCL_END
