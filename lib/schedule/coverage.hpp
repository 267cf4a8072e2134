// coverage.hpp - the state of a symbolic run of all ranks, and what each op does to it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <vector>

#include "seqccl/check.hpp"
#include "symbolic.hpp"

SEQCCL_BEGIN
namespace checker {

struct Coverage {
  Coverage(std::span<const Schedule> all, const Claim& what_is_claimed);

  std::span<const Schedule> schedules;
  const Claim& claim;
  BoundMask mask;
  Sums sums;
  std::vector<std::vector<Contents>> contents;  // per rank and slot
  // What some rank is given, every result must include.
  bool has_sinks = false, has_log_decay = false, has_state_in = false, has_dstate_out = false;
  bool has_beta = false, has_bonus = false, has_dstate_in = false;
  bool decay_is_constant = false;                // log_decay is one number per head
  std::int64_t key_dim = 0;                      // of q, if there is one
  std::vector<std::int64_t> document_starts{0};  // a document without tokens begins nowhere

  const Schedule* schedule = nullptr;  // where the run is
  std::size_t step = 0;
  std::vector<std::string> problems;

  [[nodiscard]] std::int64_t num_tokens() const { return claim.partition->num_tokens(); }
  [[nodiscard]] std::int64_t group() const { return claim.q_heads / claim.kv_heads; }
  /// The document of a token; behind the last token the last one.
  [[nodiscard]] Segment document_of(std::int64_t token) const;

  /// What rows and heads of a caller's slot are, if its rows are tokens.
  [[nodiscard]] SlotNames names_of(const Schedule& of, std::size_t slot) const;

  /// Reports against the present step.
  void problem(const std::string& what);
  /// Names in `block`; empty, and reported, if a part was never written.
  [[nodiscard]] std::vector<Fragment> read(const Block& block, const char* operand);
  /// The same, where everything must be `what`.
  [[nodiscard]] std::vector<Fragment> read(const Block& block, const char* operand, What what);
  void write(const Block& block, std::span<const Fragment> fragments);
  /// Writes one fragment over the whole block.
  void fill(const Block& block, Fragment fragment);
};

/// Names what the callers give.
void name_inputs(Coverage& run);

void apply(Coverage& run, const Attend& op);
void apply(Coverage& run, const Merge& op);
void apply(Coverage& run, const RowDot& op);
void apply(Coverage& run, const AttendBackward& op);
void apply(Coverage& run, const SinkGradient& op);
void apply(Coverage& run, const Copy& op);
void apply(Coverage& run, const Add& op);
void apply(Coverage& run, const Zero& op);
void apply(Coverage& run, const LinearSummary& op);
void apply(Coverage& run, const StateStep& op);
void apply(Coverage& run, const TakeColumns& op);
void apply(Coverage& run, const PutColumns& op);
void apply(Coverage& run, const LinearLocal& op);
void apply(Coverage& run, const LinearEnter& op);
void apply(Coverage& run, const LinearSummaryBackward& op);
void apply(Coverage& run, const LinearBackward& op);
void apply(Coverage& run, const Custom& op);

/// The name of the sum of two sums of logs, or of two states of a layer without order; the first's, and reported, if they do not add up.
[[nodiscard]] Fragment added(Coverage& run, const Fragment& sum, const Fragment& addend);
/// What enters a run from token `first` on: the tokens of its document before it.
[[nodiscard]] Segment past_of(const Coverage& run, std::int64_t first);
/// The same of its gradient, for a run that ends before token `end`.
[[nodiscard]] Segment future_of(const Coverage& run, std::int64_t end);

/// Every output is written, is what it is called, and sums what it must, each once.
void check_outputs(Coverage& run);

}  // namespace checker
SEQCCL_END
