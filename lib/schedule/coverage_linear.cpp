// coverage_linear.cpp - what the ops of linear attention do to names: runs of tokens, and states that cover what came before.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <optional>

#include "coverage.hpp"

SEQCCL_BEGIN
namespace checker {

namespace {

std::int64_t end_of(const Segment& run) { return run.first + run.count; }

/// One run of tokens, step 1, with all heads from `head` on.
struct Run {
  Segment tokens{};
  std::int64_t head = 0, num_heads = 0;

  [[nodiscard]] Fragment as(What what, bool complete) const { return {.what = what, .tokens = tokens, .head = head, .complete = complete}; }
  bool operator==(const Run& other) const { return equal(tokens, other.tokens) && head == other.head && num_heads == other.num_heads; }
};

/// The rows of `block` as one run; reported and empty if they are something else.
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
  return result;
}

/// True if `block` is the same run of another tensor.
bool same_run(Coverage& run, const Run& tokens, const Block& block, const char* operand, What what) {
  const std::optional<Run> found = read_run(run, block, operand, what);
  if (!found) return false;
  if (*found == tokens) return true;
  run.problem(fmt::format("its {} is {}, want {}", operand, describe(found->as(what, false)), describe(tokens.tokens)));
  return false;
}

/// The decays of a run, or the constant, or none if there is none.
bool has_decay_of(Coverage& run, const Run& tokens, const Block& block) {
  if (!block.present()) {
    if (run.has_log_decay) run.problem("leaves out log_decay");
    return !run.has_log_decay;
  }
  if (!run.decay_is_constant) return same_run(run, tokens, block, "log_decay", What::log_decay);
  for (const Fragment& fragment : run.read(block, "log_decay", What::constant_decay)) {
    if (fragment.head - fragment.head_first == tokens.head && block.num_heads == tokens.num_heads) return true;
    run.problem(fmt::format("uses the decay of heads {} .. for heads {} ..", fragment.head, tokens.head));
    return false;
  }
  return false;
}

/// The one state in `block`: `what`, or nothing if it is zero. Reported if it is neither.
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

/// True if `block` (absent: zero) holds exactly `want`.
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
      state->num_heads == tokens.num_heads)
    return true;
  run.problem(fmt::format("its {} is {}, {}", operand, describe(*state), wanted()));
  return false;
}

}  // namespace

void apply(Coverage& run, const LinearSummary& op) {
  const std::optional<Run> tokens = read_run(run, op.k, "k", What::k);
  if (!tokens || !same_run(run, *tokens, op.v, "v", What::v) || !has_decay_of(run, *tokens, op.log_decay)) return;
  run.fill(op.state, tokens->as(What::state, false));
  run.fill(op.log_sum, tokens->as(What::log_sum, false));
}

void apply(Coverage& run, const LinearSummaryBackward& op) {
  const std::optional<Run> tokens = read_run(run, op.q, "q", What::q);
  if (!tokens || !same_run(run, *tokens, op.dout, "dout", What::dout) || !has_decay_of(run, *tokens, op.log_decay)) return;
  run.fill(op.dstate, tokens->as(What::gradient, false));
  run.fill(op.log_sum, tokens->as(What::log_sum, false));
}

// state of [a, b) and run [b, c) -> [a, c);   gradient of [c, e) and run [b, c) -> [b, e)
void apply(Coverage& run, const StateStep& op) {
  bool is_zero = false, update_is_zero = false;
  if (!op.update.present()) return run.problem("steps a state over a run without the run's own part");
  const std::optional<Fragment> state = read_state(run, op.state, "state", is_zero);
  std::optional<Fragment> update = read_state(run, op.update, "update", update_is_zero);
  if (!state || !update) return;
  if (state->what == What::user || update->what == What::user) {  // the caller's own summaries: not followed
    static_cast<void>(run.read(op.log_sum, "log_sum"));
    return run.fill(op.state, {.what = What::user});
  }
  if (update_is_zero || (update->what != What::state && update->what != What::gradient))
    return run.problem(fmt::format("its update is {}", describe(*update)));
  if (is_zero) return run.fill(op.state, *update);
  const bool forward = state->what == What::state;
  const Segment &past = state->tokens, &here = update->tokens;
  if (state->what != update->what || state->head != update->head || state->num_heads != update->num_heads || update->complete ||
      (forward ? end_of(past) != here.first : end_of(here) != past.first))
    return run.problem(fmt::format("joins {} with {}", describe(*state), describe(*update)));

  if (!op.log_sum.present()) {
    if (run.has_log_decay) return run.problem("leaves out the decay of the run");
  } else if (run.decay_is_constant) {
    const Run tokens{here, state->head, state->num_heads};
    if (!has_decay_of(run, tokens, op.log_sum)) return;
    if (op.repeat != here.count) return run.problem(fmt::format("decays for {} tokens, the run has {}", op.repeat, here.count));
  } else {
    const std::vector<Fragment> log_sum = run.read(op.log_sum, "log_sum", What::log_sum);
    if (log_sum.empty()) return;
    if (log_sum.size() != 1 || !same_name(log_sum.front(), *update) || op.repeat != 1)
      return run.problem(fmt::format("its log_sum is {}, its update {}", describe(log_sum.front()), describe(*update)));
  }
  Fragment joined = *state;
  joined.tokens = {std::min(past.first, here.first), past.count + here.count, 1};
  run.fill(op.state, joined);
}

void apply(Coverage& run, const LinearLocal& op) {
  const std::optional<Run> tokens = read_run(run, op.q, "q", What::q);
  if (!tokens || !same_run(run, *tokens, op.k, "k", What::k) || !same_run(run, *tokens, op.v, "v", What::v) ||
      !has_decay_of(run, *tokens, op.log_decay))
    return;
  // Nothing enters the first run unless the caller gives a state.
  const bool complete = tokens->tokens.first == 0 && !run.has_state_in;
  Fragment result = tokens->as(complete ? What::out : What::local_out, complete);
  result.run_first = tokens->tokens.first;
  run.fill(op.out, result);
}

void apply(Coverage& run, const LinearEnter& op) {
  const std::optional<Run> tokens = read_run(run, op.q, "q", What::q);
  if (!tokens || !has_decay_of(run, *tokens, op.log_decay)) return;
  const std::int64_t first = tokens->tokens.first;
  const bool adds_zero = first == 0 && !run.has_state_in;
  if (!same_run(run, *tokens, op.out, "out", adds_zero ? What::out : What::local_out)) return;
  for (const Fragment& fragment : run.read(op.out, "out"))
    if (fragment.run_first != first)
      return run.problem(fmt::format("its out is of a run from token {}, its q of one from {}", fragment.run_first, first));
  if (holds_state(run, op.state, "state", What::state, {0, first, 1}, run.has_state_in, *tokens))
    run.fill(op.out, tokens->as(What::out, true));
}

void apply(Coverage& run, const LinearBackward& op) {
  const std::optional<Run> tokens = read_run(run, op.q, "q", What::q);
  if (!tokens || !same_run(run, *tokens, op.k, "k", What::k) || !same_run(run, *tokens, op.v, "v", What::v) ||
      !same_run(run, *tokens, op.dout, "dout", What::dout) || !has_decay_of(run, *tokens, op.log_decay))
    return;
  // entering_state comes from forward, where it included the initial state if there was one.
  const std::int64_t first = tokens->tokens.first, end = end_of(tokens->tokens);
  if ((op.state.present() || first != 0) && !holds_state(run, op.state, "entering state", What::state, {0, first, 1}, true, *tokens))
    return;
  if (!holds_state(run, op.dleaving, "leaving gradient", What::gradient, {end, run.num_tokens() - end, 1}, run.has_dstate_out, *tokens))
    return;
  run.fill(op.dq, tokens->as(What::dq, true));
  run.fill(op.dk, tokens->as(What::dk, true));
  run.fill(op.dv, tokens->as(What::dv, true));
  if (!op.dlog_decay.present()) return;
  if (!run.decay_is_constant) return run.fill(op.dlog_decay, tokens->as(What::dlog_decay, true));
  Fragment share{.what = What::dconstant_decay, .head = tokens->head};
  share.sum = run.sums.of({Contribution::Kind::tokens, tokens->tokens, {}, tokens->head, tokens->num_heads, 0});
  if (op.add_constant) {
    const std::vector<Fragment> present = run.read(op.dlog_decay, "dlog_decay");
    if (present.empty()) return;
    if (present.size() != 1 || (present.front().what != What::zero && present.front().what != What::dconstant_decay))
      return run.problem(fmt::format("adds to dlog_decay, which is {}", describe(present.front())));
    if (present.front().what != What::zero) share.sum = run.sums.add(present.front().sum, share.sum);
  }
  run.fill(op.dlog_decay, share);
}

}  // namespace checker
SEQCCL_END
