// movement.cpp - a dimension switch as a head swap of the folded tensor: the outer axis for tokens, the inner one for heads.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "../common/swap.hpp"

SEQCCL_BEGIN
namespace collectives {

namespace {

/// The tensor as (before, outer between, inner, after): extents of the two switched axes, and products of the others around them.
struct Fold {
  int outer = 0, inner = 1;
  std::int64_t before = 1, between = 1, after = 1;
};

Fold fold_of(const DimensionSwitchSpec& spec) {
  Fold fold{.outer = std::min(spec.from, spec.to), .inner = std::max(spec.from, spec.to)};
  for (int axis = 0; axis < static_cast<int>(spec.shape.size()); ++axis) {
    const std::int64_t extent = spec.shape[static_cast<std::size_t>(axis)];
    if (axis < fold.outer)
      fold.before *= extent;
    else if (axis > fold.inner)
      fold.after *= extent;
    else if (axis != fold.outer && axis != fold.inner)
      fold.between *= extent;
  }
  return fold;
}

}  // namespace

Rows dimension_share(const DimensionSwitchSpec& spec, int axis, Rank rank, int num_ranks) {
  if (axis < 0 || axis + 1 >= static_cast<int>(spec.shape.size()))
    throw Error(ErrorKind::argument, fmt::format("DimensionSwitch::share: axis is {}, want 0 to {}", axis, spec.shape.size() - 2));
  if (rank < 0 || rank >= num_ranks)
    throw Error(ErrorKind::argument, fmt::format("DimensionSwitch::share: rank is {}, want 0 to {}", rank, num_ranks - 1));
  const HeadRange range = even_shares(spec.shape[static_cast<std::size_t>(axis)], num_ranks)[rank];
  return {range.first, range.count};
}

Schedule dimension_switch(const DimensionSwitchSpec& spec, Rank rank, int num_ranks, const RecordOptions& options) {
  const Fold fold = fold_of(spec);
  const auto extent = [&](int axis) { return spec.shape[static_cast<std::size_t>(axis)]; };
  const HeadShares inner = even_shares(extent(fold.inner), num_ranks);
  std::vector<std::int64_t> rows;
  for (const HeadRange& share : even_shares(extent(fold.outer), num_ranks)) rows.push_back(share.count * fold.between);
  const Partition outer = Partition::uneven(rows);

  Recorder plan("dimension switch", rank, num_ranks);
  const Recorder::Shape outer_sharded{fold.before, outer.tokens_on(rank), extent(fold.inner), fold.after};
  const Recorder::Shape inner_sharded{fold.before, outer.num_tokens(), inner[rank].count, fold.after};
  const bool to_inner = spec.from < spec.to;
  const Block before = plan.input(Tensor::user, spec.dtype, to_inner ? outer_sharded : inner_sharded, options.inputs_sendable);
  const Block after =
      plan.output(Tensor::user, spec.dtype, to_inner ? inner_sharded : outer_sharded, to_inner && options.outputs_receivable);
  Swap swap(plan, outer, fold.before);
  Messages messages;
  if (to_inner) {
    const Block all = swap.enter(before, inner, messages, after);
    messages.record(plan);
    swap.copy(all, after);
  } else {
    const auto returned = swap.leave(plan.sendable(before), inner, messages);
    messages.record(plan);
    swap.settle(returned, after);
  }
  return std::move(plan).finish(spec.describe());
}

}  // namespace collectives
SEQCCL_END
