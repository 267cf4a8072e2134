// coverage_linear.cpp - what the ops of linear attention do to names: runs of tokens, and what they add to states.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <optional>

#include "coverage.hpp"
#include "coverage_runs.hpp"

SEQCCL_BEGIN
namespace checker {

namespace {

/// The leaving state of a run, or in a layer without order a first part of its document's sum.
Fragment summary_of(Coverage& run, const Run& tokens, What what) {
  Fragment result = tokens.as(what, false);
  if (!run.claim.causal) result.sum = run.sums.of({Contribution::Kind::tokens, tokens.tokens, {}, tokens.head, tokens.num_heads, 0});
  return result;
}

/// Adds this run's share to a gradient that all tokens have a part in.
void add_share(Coverage& run, const Run& tokens, const Block& block, const char* operand, What what, bool adds) {
  if (!block.present()) return;
  Fragment share{.what = what, .head = tokens.head};
  share.sum = run.sums.of({Contribution::Kind::tokens, tokens.tokens, {}, tokens.head, tokens.num_heads, 0});
  if (adds) {
    const std::vector<Fragment> present = run.read(block, operand);
    if (present.empty()) return;
    if (present.size() != 1 || (present.front().what != What::zero && present.front().what != what))
      return run.problem(fmt::format("adds to {}, which is {}", operand, describe(present.front())));
    if (present.front().what != What::zero) share.sum = run.sums.add(present.front().sum, share.sum);
  }
  run.fill(block, share);
}

/// Layer without order: `out` of a run is what its rows and the sum over their document make.
void apply_unordered(Coverage& run, const LinearEnter& op) {
  struct Rule {
    What rows, state;
    bool transposed;
    What out;
  };
  constexpr Rule rules[] = {{What::q, What::state, false, What::out},
                            {What::dout, What::state, true, What::dq},
                            {What::v, What::gradient, true, What::dk},
                            {What::k, What::gradient, false, What::dv}};
  const std::vector<Fragment> rows = run.read(op.q, "q"), state = run.read(op.state, "state");
  if (rows.empty() || state.empty()) return;
  for (const Rule& rule : rules) {
    if (rows.front().what != rule.rows || state.front().what != rule.state || op.transposed != rule.transposed) continue;
    const std::optional<Run> tokens = read_run(run, op.q, "q", rule.rows);
    if (!tokens || !sums_document(run, state, *tokens)) return;
    for (const Fragment& fragment : run.read(op.out, "out"))
      if (fragment.what != What::zero) return run.problem(fmt::format("adds to {}, want zero", describe(fragment)));
    return run.fill(op.out, tokens->as(rule.out, true));
  }
  run.problem(fmt::format("makes nothing that is wanted of {} and {}{}", describe(rows.front()), describe(state.front()),
                          op.transposed ? ", transposed" : ""));
}

}  // namespace

void apply(Coverage& run, const LinearSummary& op) {
  const std::optional<Run> tokens = read_run(run, op.k, "k", What::k);
  if (!tokens || !same_run(run, *tokens, op.v, "v", What::v) || !has_gates_of(run, *tokens, op.log_decay, op.beta)) return;
  run.fill(op.state, summary_of(run, *tokens, What::state));
  run.fill(op.log_sum, tokens->as(What::log_sum, false));
  run.fill(op.transition, tokens->as(What::transition, false));
}

void apply(Coverage& run, const LinearSummaryBackward& op) {
  const std::optional<Run> tokens = read_run(run, op.q, "q", What::q);
  if (!tokens || !same_run(run, *tokens, op.dout, "dout", What::dout) || !has_gates_of(run, *tokens, op.log_decay, op.beta)) return;
  if (run.has_beta && !same_run(run, *tokens, op.k, "k", What::k)) return;
  if (op.before != run.has_bonus) return run.problem(op.before ? "reads states before tokens" : "reads states after tokens, want before");
  run.fill(op.dstate, summary_of(run, *tokens, What::gradient));
  run.fill(op.log_sum, tokens->as(What::log_sum, false));
  run.fill(op.transition, tokens->as(What::transposed, false));
}

void apply(Coverage& run, const LinearLocal& op) {
  const std::optional<Run> tokens = read_run(run, op.q, "q", What::q);
  if (!tokens || !same_run(run, *tokens, op.k, "k", What::k) || !same_run(run, *tokens, op.v, "v", What::v) ||
      !has_gates_of(run, *tokens, op.log_decay, op.beta) || !has_bonus_of(run, *tokens, op.bonus))
    return;
  const Segment past = past_of(run, tokens->tokens.first);
  const bool is_given = run.has_state_in && past.first == 0, needs_state = past.count != 0 || is_given;
  // What a state adds to a delta kind cannot be added later.
  if ((op.state.present() || (needs_state && run.has_beta)) && !holds_state(run, op.state, "state", What::state, past, is_given, *tokens))
    return;
  const bool complete = op.state.present() || !needs_state;
  Fragment result = tokens->as(complete ? What::out : What::local_out, complete);
  result.run_first = tokens->tokens.first;
  run.fill(op.out, result);
}

void apply(Coverage& run, const LinearEnter& op) {
  if (!run.claim.causal) return apply_unordered(run, op);
  const std::optional<Run> tokens = read_run(run, op.q, "q", What::q);
  if (!tokens || !has_gates_of(run, *tokens, op.log_decay, {})) return;
  if (op.transposed) return run.problem("enters a transposed state, want it as it is");
  if (op.before != run.has_bonus) return run.problem(op.before ? "reads states before tokens" : "reads states after tokens, want before");
  const std::int64_t first = tokens->tokens.first;
  const Segment past = past_of(run, first);
  const bool is_given = run.has_state_in && past.first == 0;
  if (!same_run(run, *tokens, op.out, "out", past.count == 0 && !is_given ? What::out : What::local_out)) return;
  for (const Fragment& fragment : run.read(op.out, "out"))
    if (fragment.run_first != first)
      return run.problem(fmt::format("its out is of a run from token {}, its q of one from {}", fragment.run_first, first));
  if (holds_state(run, op.state, "state", What::state, past, is_given, *tokens)) run.fill(op.out, tokens->as(What::out, true));
}

void apply(Coverage& run, const LinearBackward& op) {
  const std::optional<Run> tokens = read_run(run, op.q, "q", What::q);
  if (!tokens || !same_run(run, *tokens, op.k, "k", What::k) || !same_run(run, *tokens, op.v, "v", What::v) ||
      !same_run(run, *tokens, op.dout, "dout", What::dout) || !has_gates_of(run, *tokens, op.log_decay, op.beta) ||
      !has_bonus_of(run, *tokens, op.bonus))
    return;
  // entering_state comes from forward, where it included the initial state if there was one.
  const Segment past = past_of(run, tokens->tokens.first), future = future_of(run, end_of(tokens->tokens));
  const bool needs_state = past.count != 0 || (past.first == 0 && run.has_dstate_in);
  if ((op.state.present() || needs_state) && !holds_state(run, op.state, "entering state", What::state, past, true, *tokens)) return;
  const bool is_given = run.has_dstate_out && end_of(future) == run.num_tokens();
  if (!holds_state(run, op.dleaving, "leaving gradient", What::gradient, future, is_given, *tokens)) return;
  run.fill(op.dq, tokens->as(What::dq, true));
  run.fill(op.dk, tokens->as(What::dk, true));
  run.fill(op.dv, tokens->as(What::dv, true));
  run.fill(op.dbeta, tokens->as(What::dbeta, true));
  add_share(run, *tokens, op.dbonus, "dbonus", What::dbonus, op.add_constant);
  if (run.decay_is_constant)
    add_share(run, *tokens, op.dlog_decay, "dlog_decay", What::dconstant_decay, op.add_constant);
  else
    run.fill(op.dlog_decay, tokens->as(What::dlog_decay, true));
}

}  // namespace checker
SEQCCL_END
