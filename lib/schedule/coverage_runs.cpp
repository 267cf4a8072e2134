// coverage_runs.cpp - reads runs and states by name, and steps, composes, cuts and adds them.
// SPDX-License-Identifier: Apache-2.0
#include "coverage_runs.hpp"

#include <fmt/format.h>

#include <algorithm>

SEQCCL_BEGIN
namespace checker {

Segment past_of(const Coverage& run, std::int64_t first) {
  const std::int64_t start = run.document_of(first).first;
  return {start, first - start, 1};
}

Segment future_of(const Coverage& run, std::int64_t end) {
  const std::int64_t document_end = end_of(run.document_of(std::max<std::int64_t>(end - 1, 0)));
  return {end, document_end - end, 1};
}

std::optional<Run> read_run(Coverage& run, const Block& block, const char* operand, What what) {
  const std::vector<Fragment> found = run.read(block, operand, what);
  if (found.empty()) return {};
  const Fragment& first = found.front();
  const Run result{{first.tokens.first - first.rows.first, block.num_tokens, 1}, first.head - first.head_first, block.num_heads};
  for (const Fragment& fragment : found) {
    const bool goes_on = fragment.tokens.first - fragment.rows.first == result.tokens.first &&
                         (fragment.tokens.step == 1 || fragment.tokens.count == 1) && fragment.head - fragment.head_first == result.head;
    if (goes_on) continue;
    run.problem(fmt::format("its {} is not one run of tokens: {} after {}", operand, describe(fragment), describe(first)));
    return {};
  }
  const Segment document = run.document_of(result.tokens.first);
  if (end_of(result.tokens) <= end_of(document)) return result;
  run.problem(fmt::format("its {} is {}, across the start of a document at {}", operand, describe(result.tokens), end_of(document)));
  return {};
}

bool same_run(Coverage& run, const Run& tokens, const Block& block, const char* operand, What what) {
  const std::optional<Run> found = read_run(run, block, operand, what);
  if (!found) {
    if (!block.present()) run.problem(fmt::format("leaves out {}", operand));
    return false;
  }
  if (*found == tokens) return true;
  run.problem(fmt::format("its {} is {}, want {}", operand, describe(found->as(what, false)), describe(tokens.tokens)));
  return false;
}

namespace {

/// One number (or row) per head for all tokens.
bool is_shared(Coverage& run, const Run& tokens, const Block& block, const char* operand, What what) {
  for (const Fragment& fragment : run.read(block, operand, what)) {
    if (fragment.head - fragment.head_first == tokens.head && block.num_heads == tokens.num_heads) return true;
    run.problem(fmt::format("uses the {} of heads {} .. for heads {} ..", operand, fragment.head, tokens.head));
    return false;
  }
  return false;
}

}  // namespace

bool has_decay_of(Coverage& run, const Run& tokens, const Block& block) {
  if (!block.present()) {
    if (run.has_log_decay) run.problem("leaves out log_decay");
    return !run.has_log_decay;
  }
  if (!run.decay_is_constant) return same_run(run, tokens, block, "log_decay", What::log_decay);
  return is_shared(run, tokens, block, "decay", What::constant_decay);
}

bool has_gates_of(Coverage& run, const Run& tokens, const Block& log_decay, const Block& beta) {
  return has_decay_of(run, tokens, log_decay) && (!run.has_beta || same_run(run, tokens, beta, "beta", What::beta));
}

bool has_bonus_of(Coverage& run, const Run& tokens, const Block& block) {
  if (block.present()) return is_shared(run, tokens, block, "bonus", What::bonus);
  if (run.has_bonus) run.problem("leaves out bonus");
  return !run.has_bonus;
}

std::optional<Fragment> read_state(Coverage& run, const Block& block, const char* operand, bool& is_zero) {
  const std::vector<Fragment> found = run.read(block, operand);
  is_zero = false;
  if (found.empty()) return {};
  if (found.size() != 1 || block.num_tokens != 1) {
    run.problem(fmt::format("its {} is not one state: {}", operand, describe(found.front())));
    return {};
  }
  is_zero = found.front().what == What::zero;
  return found.front();
}

bool holds_state(Coverage& run, const Block& block, const char* operand, What what, const Segment& want, bool complete, const Run& tokens) {
  const auto wanted = [&] { return fmt::format("want the {} of {}{}", name(what), describe(want), complete ? " and the one given" : ""); };
  bool is_zero = !block.present();
  std::optional<Fragment> state;
  if (block.present()) {
    state = read_state(run, block, operand, is_zero);
    if (!state) return false;
  }
  if (is_zero) {
    if (want.count == 0 && !complete) return true;
    run.problem(fmt::format("its {} is zero, {}", operand, wanted()));
    return false;
  }
  // A given state that nobody is known to give is what the other pass left: entering_state.
  if (state->what == what && equal(state->tokens, want) && state->complete == complete && state->head == tokens.head &&
      state->num_heads == tokens.num_heads && state->num_columns == 0)
    return true;
  run.problem(fmt::format("its {} is {}, {}", operand, describe(*state), wanted()));
  return false;
}

bool sums_document(Coverage& run, const std::vector<Fragment>& state, const Run& tokens) {
  const Segment document = run.document_of(tokens.tokens.first);
  const auto refuse = [&](const std::string& what) {
    run.problem(fmt::format("its state {}, want the sum over {}", what, describe(document)));
    return false;
  };
  const Fragment& sum = state.front();
  if (state.size() != 1 || sum.num_columns != 0 || sum.head != tokens.head || sum.num_heads != tokens.num_heads)
    return refuse("is " + describe(sum));
  std::vector<Contribution> parts;
  if (!run.sums.list(sum.sum, parts)) return refuse("adds itself over and over");
  std::sort(parts.begin(), parts.end(), [](const auto& a, const auto& b) { return a.queries.first < b.queries.first; });
  std::int64_t at = document.first;
  for (const Contribution& part : parts) {
    if (part.queries.first != at) return refuse(fmt::format("has {} after token {}", describe(part.queries), at - 1));
    at = end_of(part.queries);
  }
  return at == end_of(document) || refuse(fmt::format("ends before token {}", at));
}

namespace {

/// True if run `later` begins where `earlier` ends, in one document.
bool adjoin(const Coverage& run, const Segment& earlier, const Segment& later) {
  return end_of(earlier) == later.first && end_of(run.document_of(earlier.first)) >= end_of(later);
}
Segment joined(const Segment& a, const Segment& b) { return {std::min(a.first, b.first), a.count + b.count, 1}; }

/// What the step does to a state must be what the run `here` does.
bool steps_over(Coverage& run, const StateStep& op, const Fragment& here, What dense) {
  if (run.has_beta) {
    if (op.log_sum.present() || !op.transition.present()) {
      run.problem("steps without the run's transition");
      return false;
    }
    const std::vector<Fragment> transition = run.read(op.transition, "transition", dense);
    if (transition.size() == 1 && transition.front().head == here.head && equal(transition.front().tokens, here.tokens)) return true;
    if (!transition.empty()) run.problem(fmt::format("its transition is {}, its update {}", describe(transition.front()), describe(here)));
    return false;
  }
  if (op.transition.present()) {
    run.problem("steps by a dense transition, want sums of decays");
    return false;
  }
  if (!op.log_sum.present()) {
    if (run.has_log_decay) run.problem("leaves out the decay of the run");
    return !run.has_log_decay;
  }
  if (run.decay_is_constant) {
    if (!has_decay_of(run, {here.tokens, here.head, here.num_heads}, op.log_sum)) return false;
    if (op.repeat != here.tokens.count) run.problem(fmt::format("decays for {} tokens, the run has {}", op.repeat, here.tokens.count));
    return op.repeat == here.tokens.count;
  }
  const std::vector<Fragment> log_sum = run.read(op.log_sum, "log_sum", What::log_sum);
  if (log_sum.size() == 1 && log_sum.front().head == here.head && equal(log_sum.front().tokens, here.tokens) && op.repeat == 1) return true;
  if (!log_sum.empty()) run.problem(fmt::format("its log_sum is {}, its update {}", describe(log_sum.front()), describe(here)));
  return false;
}

/// transition <- transition of the step . transition: of run [b, c) after [a, b), transposed of [a, b) after [b, c).
void compose(Coverage& run, const StateStep& op, const Fragment& state) {
  const std::vector<Fragment> by = run.read(op.transition, "transition", state.what);
  if (by.empty()) return;
  const Fragment& here = by.front();
  const bool forward = state.what == What::transition;
  if (by.size() != 1 || here.head != state.head || here.num_heads != state.num_heads ||
      !(forward ? adjoin(run, state.tokens, here.tokens) : adjoin(run, here.tokens, state.tokens)))
    return run.problem(fmt::format("composes {} with {}", describe(state), describe(here)));
  Fragment result = state;
  result.tokens = joined(state.tokens, here.tokens);
  run.fill(op.state, result);
}

}  // namespace

// state of [a, b) and run [b, c) -> [a, c);   gradient of [c, e) and run [b, c) -> [b, e)
void apply(Coverage& run, const StateStep& op) {
  bool is_zero = false, update_is_zero = false;
  const std::optional<Fragment> state = read_state(run, op.state, "state", is_zero);
  if (!state) return;
  if (state->what == What::transition || state->what == What::transposed) {
    if (op.update.present() || !op.transition.present()) return run.problem("steps a transition as if it were a state");
    return compose(run, op, *state);
  }
  if (state->what == What::user && !op.update.present()) {  // the caller's own transitions: not followed
    static_cast<void>(run.read(op.transition, "transition"));
    return;
  }
  if (!op.update.present()) return run.problem("steps a state over a run without the run's own part");
  const std::optional<Fragment> update = read_state(run, op.update, "update", update_is_zero);
  if (!update) return;
  if (state->what == What::user || update->what == What::user) {  // the caller's own summaries: not followed
    static_cast<void>(run.read(op.log_sum, "log_sum"));
    static_cast<void>(run.read(op.transition, "transition"));
    return run.fill(op.state, {.what = What::user});
  }
  if (update_is_zero || (update->what != What::state && update->what != What::gradient))
    return run.problem(fmt::format("its update is {}", describe(*update)));
  if (is_zero) return run.fill(op.state, *update);
  const bool forward = state->what == What::state;
  const Segment &past = state->tokens, &here = update->tokens;
  const bool same_columns = state->column_first == update->column_first && state->num_columns == update->num_columns;
  if (state->what != update->what || state->head != update->head || state->num_heads != update->num_heads || update->complete ||
      !same_columns || !(forward ? adjoin(run, past, here) : adjoin(run, here, past)))
    return run.problem(fmt::format("joins {} with {}", describe(*state), describe(*update)));
  if (!steps_over(run, op, *update, forward ? What::transition : What::transposed)) return;
  Fragment result = *state;
  result.tokens = joined(past, here);
  run.fill(op.state, result);
}

namespace {

/// Columns of a state that a block of `columns` holds; 0, and reported, if the extents do not fit.
std::int64_t width_of(Coverage& run, const Block& state, const Block& columns, std::int64_t key_dim, std::int64_t first) {
  const std::int64_t all = run.schedule->slots[state.slot].dim, some = run.schedule->slots[columns.slot].dim;
  if (key_dim < 1 || first < 0 || all % key_dim != 0 || some % key_dim != 0 || (first + some / key_dim) * key_dim > all ||
      (run.key_dim != 0 && key_dim != run.key_dim)) {
    run.problem(fmt::format("columns from {} of {} rows, {} numbers, do not fit a state of {}", first, key_dim, some, all));
    return 0;
  }
  return some / key_dim;
}

}  // namespace

void apply(Coverage& run, const TakeColumns& op) {
  bool is_zero = false;
  const std::optional<Fragment> state = read_state(run, op.state, "state", is_zero);
  const std::int64_t width = width_of(run, op.state, op.columns, op.key_dim, op.first);
  if (!state || width == 0) return;
  if (state->what != What::user && !is_zero && ((state->what != What::state && state->what != What::gradient) || state->num_columns != 0))
    return run.problem(fmt::format("takes columns of {}", describe(*state)));
  Fragment columns = *state;
  columns.column_first = op.first;
  columns.num_columns = width;
  run.fill(op.columns, columns);
}

// The first block of columns begins a state, the others go on with it.
void apply(Coverage& run, const PutColumns& op) {
  bool is_zero = false;
  std::optional<Fragment> columns = read_state(run, op.columns, "columns", is_zero);
  const std::int64_t width = width_of(run, op.state, op.columns, op.key_dim, op.first);
  if (!columns || width == 0) return;
  if (columns->what == What::user || is_zero) return run.fill(op.state, *columns);
  if (op.first != columns->column_first || width != columns->num_columns)
    return run.problem(fmt::format("puts {} at column {}", describe(*columns), op.first));
  if (op.first != 0) {
    const std::optional<Fragment> state = read_state(run, op.state, "state", is_zero);
    if (!state) return;
    if (state->what != columns->what || state->head != columns->head || !equal(state->tokens, columns->tokens) ||
        state->complete != columns->complete || state->sum != columns->sum || state->column_first != 0 || state->num_columns != op.first)
      return run.problem(fmt::format("puts {} beside {}", describe(*columns), describe(*state)));
  }
  columns->column_first = 0;
  columns->num_columns = op.first + width;
  if (columns->num_columns * op.key_dim == run.schedule->slots[op.state.slot].dim) columns->num_columns = 0;  // all there
  run.fill(op.state, *columns);
}

Fragment added(Coverage& run, const Fragment& sum, const Fragment& addend) {
  Fragment result = sum;
  const bool is_log = sum.what == What::log_sum;
  const bool same_place = sum.head == addend.head && sum.column_first == addend.column_first && sum.num_columns == addend.num_columns;
  if (same_place && is_log && (adjoin(run, sum.tokens, addend.tokens) || adjoin(run, addend.tokens, sum.tokens))) {
    result.tokens = joined(sum.tokens, addend.tokens);
  } else if (same_place && !is_log && !run.claim.causal) {
    result.tokens = {};
    result.sum = run.sums.add(sum.sum, addend.sum);
  } else {
    run.problem(fmt::format("adds {} to {}", describe(addend), describe(sum)));
  }
  return result;
}

}  // namespace checker
SEQCCL_END
