// coverage_moves.cpp - names of what callers give, and ops that move names without looking at them.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>

#include "coverage.hpp"
#include "well_formed.hpp"

SEQCCL_BEGIN
namespace checker {

namespace {

/// How an input tensor is named; user: not followed.
What what_of(Tensor tensor) {
  switch (tensor) {
    case Tensor::q:
      return What::q;
    case Tensor::k:
      return What::k;
    case Tensor::v:
      return What::v;
    case Tensor::dout:
      return What::dout;
    case Tensor::out:
      return What::out;
    case Tensor::lse:
      return What::lse;
    case Tensor::sinks:
      return What::sinks;
    case Tensor::log_decay:
      return What::log_decay;
    case Tensor::beta:
      return What::beta;
    case Tensor::bonus:
      return What::bonus;
    case Tensor::state_in:
    case Tensor::entering_state:
      return What::state;
    case Tensor::dstate_out:
      return What::gradient;
    default:
      return What::user;
  }
}

/// The fragments of one input slot; false if it has not the extents that the claim gives it.
bool name_slot(const Coverage& run, const Schedule& schedule, std::size_t index, std::vector<Fragment>& result) {
  const Rank rank = schedule.rank;
  const Slot& slot = schedule.slots[index];
  Fragment fragment{.rows = {0, slot.tokens}, .num_heads = slot.heads, .what = what_of(slot.tensor), .complete = true};
  if (slot.tensor == Tensor::log_decay && run.decay_is_constant) fragment.what = What::constant_decay;
  if (fragment.what != What::user) {
    const bool is_kv = fragment.what == What::k || fragment.what == What::v;
    if (slot.heads != (is_kv ? run.claim.kv_heads : run.claim.q_heads)) return false;
  }
  if (row_is_token(fragment.what)) {
    const SlotNames names = run.names_of(schedule, index);
    fragment.head = names.first_head;
    for (const Piece& piece : names.rows) {
      if (piece.tokens.count == 0) continue;
      fragment.rows = {piece.row, piece.tokens.count};
      fragment.tokens = piece.tokens;
      result.push_back(fragment);
    }
    return fills(result, slot.tokens, slot.heads);
  }
  if (slot.tensor == Tensor::entering_state) {  // one state per segment, of what comes before it in its document
    const auto segments = run.claim.partition->segments(rank);
    if (slot.tokens != static_cast<std::int64_t>(segments.size())) return false;
    for (std::int64_t i = 0; i < slot.tokens; ++i) {
      fragment.rows = {i, 1};
      fragment.tokens = past_of(run, segments[static_cast<std::size_t>(i)].first);
      result.push_back(fragment);
    }
    return true;
  }
  if (slot.tokens != 1 && fragment.what != What::user) return false;
  if (slot.tensor == Tensor::dstate_out) fragment.tokens = future_of(run, run.num_tokens());
  result.push_back(fragment);
  return true;
}

}  // namespace

void name_inputs(Coverage& run) {
  std::vector<Fragment> fragments;
  for (const Schedule& schedule : run.schedules) {
    run.schedule = &schedule;
    for (std::size_t i = 0; i < schedule.slots.size(); ++i) {
      const Slot& slot = schedule.slots[i];
      if (slot.kind != SlotKind::input || slot.tokens == 0 || slot.heads == 0) continue;
      fragments.clear();
      if (!name_slot(run, schedule, i, fragments))
        run.problems.push_back(fmt::format("rank {}: input {} has {} tokens and {} heads, not what partition and claim say", schedule.rank,
                                           name(slot.tensor), slot.tokens, slot.heads));
      run.write({static_cast<SlotIndex>(i), 0, static_cast<std::int32_t>(slot.heads), 0, slot.tokens}, fragments);
    }
  }
}

void apply(Coverage& run, const Copy& op) {
  if (op.from.num_tokens != op.to.num_tokens || op.from.num_heads != op.to.num_heads)
    return run.problem(
        fmt::format("copies {} tokens x {} heads to {} x {}", op.from.num_tokens, op.from.num_heads, op.to.num_tokens, op.to.num_heads));
  run.write(op.to, run.read(op.from, "source"));
}

void apply(Coverage& run, const Zero& op) { run.fill(op.to, {.what = What::zero}); }

void apply(Coverage& run, const Add& op) {
  if (op.from.num_tokens != op.to.num_tokens || op.from.num_heads != op.to.num_heads)
    return run.problem(
        fmt::format("adds {} tokens x {} heads to {} x {}", op.from.num_tokens, op.from.num_heads, op.to.num_tokens, op.to.num_heads));
  const std::vector<Fragment> from = run.read(op.from, "source"), to = run.read(op.to, "sum");
  std::vector<Fragment> result;
  for_each_overlap(from, to, [&](std::size_t, const Fragment& addend, std::size_t, const Fragment& sum) {
    const auto can_be_added = [](What what) {
      return what == What::dq || what == What::dk || what == What::dv || what == What::dsinks || what == What::dconstant_decay;
    };
    Fragment both = sum.what == What::zero ? addend : sum;
    both.rows = sum.rows;
    both.head_first = sum.head_first;
    if (addend.what == What::user || sum.what == What::user) {
      both.what = What::user;
    } else if (addend.what != What::zero && sum.what != What::zero) {
      const bool is_run = sum.what == What::log_sum || sum.what == What::state || sum.what == What::gradient;
      if (is_run && addend.what == sum.what) {
        const Fragment joined = added(run, sum, addend);
        both.tokens = joined.tokens;
        both.sum = joined.sum;
        return result.push_back(both);
      }
      if (addend.what != sum.what || !can_be_added(sum.what) || !same_name(addend, sum) || addend.complete || sum.complete)
        return run.problem(fmt::format("adds {} to {}", describe(addend), describe(sum)));
      both.sum = run.sums.add(sum.sum, addend.sum);
    }
    result.push_back(both);
  });
  run.write(op.to, result);
}

// The caller's function may read what it likes of what it updates, and write what it likes.
void apply(Coverage& run, const Custom& op) {
  for (const In& in : op.in) static_cast<void>(run.read(in, "input"));
  for (const InOut& inout : op.inout)
    if (inout.present()) run.fill(inout, {.what = What::user});
}

}  // namespace checker
SEQCCL_END
