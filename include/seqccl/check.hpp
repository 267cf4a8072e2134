// check.hpp - proves on recorded schedules, without running them, that they are right.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "seqccl/schedule.hpp"

SEQCCL_BEGIN

/// What the rows and heads of one of the caller's tensors stand for.
struct SlotNames {
  std::vector<Piece> rows;      // by row; together every row of the slot
  std::int64_t first_head = 0;  // global head of the first
};

/// What a set of schedules claims to compute; lets the checker follow names through it.
struct Claim {
  const Partition* partition = nullptr;
  const Mask* mask = nullptr;  // softmax: which pairs must be computed, each once
  std::int64_t batch = 1;
  std::int64_t q_heads = 0, kv_heads = 0;
  const std::vector<std::int64_t>* documents = nullptr;  // linear: lengths, the state is zero where one begins; null: one document
  bool causal = true;                                    // linear, false: every token reads the sum over its document
  /// Names a rank's nth slot (from 0) of a tensor whose rows are tokens. Empty: each holds the rank's own tokens and heads from 0.
  std::function<SlotNames(Rank, Tensor, int nth)> names{};
};

struct CheckReport {
  std::vector<std::string> problems;  // empty: proven
  [[nodiscard]] bool ok() const noexcept { return problems.empty(); }
  [[nodiscard]] std::string text() const;  // at most the first 20, one a line
};

/// The i-th send A -> B of every lane meets B's i-th receive from A, with equal bytes, and nothing is left over.
[[nodiscard]] CheckReport check_matching(std::span<const Schedule> schedules);

/// Lane order, clocks and matched messages form no cycle: no executor that completes matched messages can deadlock.
/// Every exchange is two nodes, posted and done; a message makes each side's `done` follow the other's `posted`.
[[nodiscard]] CheckReport check_deadlock_free(std::span<const Schedule> schedules);

/// No two steps that may run at once touch a byte that one of them writes; receives land in scratch only.
[[nodiscard]] CheckReport check_races(const Schedule& schedule);

/// Symbolic execution: slots hold named contents (tensor, tokens, heads), transfers and copies move names, an op that
/// finds another name than its slices claim fails, and every visible pair reaches every output exactly once.
[[nodiscard]] CheckReport check_coverage(std::span<const Schedule> schedules, const Claim& claim);

/// All four.
[[nodiscard]] CheckReport check(std::span<const Schedule> schedules, const Claim& claim);

SEQCCL_END
