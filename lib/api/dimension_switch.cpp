// dimension_switch.cpp - folds the caller's axes into the four of a slot, and runs the plan.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/dimension_switch.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <span>
#include <utility>
#include <vector>

#include "call.hpp"
#include "seqccl/collectives.hpp"

SEQCCL_BEGIN

namespace {

/// An axis of a view.
struct Axis {
  std::int64_t extent = 1, stride = 1;
};

Error refuse(const char* name, const std::string& what) {
  return {ErrorKind::argument, fmt::format("DimensionSwitch::run: {} {}", name, what)};
}

/// Axes [first, end) as one.
Axis join(const char* name, std::span<const Axis> axes, int first, int end) {
  Axis joined;
  int outer = -1;  // of the axes that are longer than 1, the last one looked at
  for (int axis = end - 1; axis >= first; --axis) {
    const Axis& next = axes[static_cast<std::size_t>(axis)];
    if (next.extent == 1) continue;
    if (outer < 0)
      joined = next;
    else if (next.stride != joined.extent * joined.stride)
      throw refuse(name, fmt::format("has stride {} along axis {}, want {}: axes {} to {} move together", next.stride, axis,
                                     joined.extent * joined.stride, first, end - 1));
    else
      joined.extent *= next.extent;
    outer = axis;
  }
  return joined;
}

/// The view as (axes before the two, outer axis with those between, inner axis, axes after). `shape`: this rank's.
template <class View>
View folded(const char* name, const View& view, const std::vector<std::int64_t>& shape, const DimensionSwitchSpec& spec) {
  const auto num_axes = static_cast<int>(shape.size());
  const int outer = std::min(spec.from, spec.to), inner = std::max(spec.from, spec.to);
  std::array<Axis, 8> all{};  // validate allows no more
  const std::span<Axis> axes(all.data(), shape.size());
  std::int64_t num_elements = 1;
  for (int axis = num_axes - 1; axis >= 0; --axis) {  // of contiguous memory
    const auto i = static_cast<std::size_t>(axis);
    axes[i] = {shape[i], num_elements};
    num_elements *= shape[i];
  }
  const auto wanted = [&] {
    return fmt::format("{} ({}), or one axis of {}", seqccl::name(spec.dtype), fmt::join(shape, ", "), num_elements);
  };
  if (!view && num_elements != 0) throw refuse(name, "is missing, want " + wanted());
  if (!view) return view;
  if (view.dtype != spec.dtype) throw refuse(name, fmt::format("is {}, want {}", seqccl::name(view.dtype), seqccl::name(spec.dtype)));
  const bool flat = view.geometry.num_axes == 1 && view.extent(0) == num_elements;
  bool same = flat || view.geometry.num_axes == num_axes;
  for (int axis = 0; !flat && same && axis < num_axes; ++axis) {
    const auto i = static_cast<std::size_t>(axis);
    same = view.extent(axis) == shape[i];
    axes[i].stride = view.stride(axis);
  }
  if (!same) throw refuse(name, fmt::format("has shape {}, want {}", to_string(view.geometry), wanted()));
  if (num_elements == 0) return View{nullptr, view.dtype, {}};
  if (const std::int64_t last = view.stride(view.geometry.num_axes - 1); last != 1 && view.extent(view.geometry.num_axes - 1) > 1)
    throw refuse(name, fmt::format("has stride {} along its last axis, want 1", last));

  View result{view.data, view.dtype, {}};
  const Axis parts[] = {join(name, axes, 0, outer), join(name, axes, outer, inner), axes[static_cast<std::size_t>(inner)],
                        join(name, axes, inner + 1, num_axes)};
  for (const Axis& part : parts) {
    result.geometry.shape[static_cast<std::size_t>(result.geometry.num_axes)] = part.extent;
    result.geometry.strides[static_cast<std::size_t>(result.geometry.num_axes++)] = part.stride;
  }
  if (result.extent(3) > 1 && result.stride(3) != 1)
    throw refuse(name, fmt::format("has stride {} along its last axis longer than 1, want 1", result.stride(3)));
  result.geometry.strides[3] = 1;
  return result;
}

}  // namespace

struct DimensionSwitch::State {
  Communicator* comm;
  DimensionSwitchSpec spec;
  std::vector<std::int64_t> shape_before, shape_after;  // this rank's
  PlannedPass plan{nullptr};
  KeptCall kept{};

  [[nodiscard]] std::vector<std::int64_t> local_shape(int axis) const {
    std::vector<std::int64_t> shape = spec.shape;
    const Rows share = collectives::dimension_share(spec, axis, comm->rank(), comm->size());
    shape[static_cast<std::size_t>(axis)] = share.count;
    return shape;
  }
};

DimensionSwitch::DimensionSwitch(Communicator& comm, DimensionSwitchSpec spec) {
  validate(spec, comm.size());
  state_ = std::make_unique<State>(State{&comm, std::move(spec)});
  State* state = state_.get();
  state->shape_before = state->local_shape(state->spec.from);
  state->shape_after = state->local_shape(state->spec.to);
  state->plan = PlannedPass([state](bool sendable, bool receivable) {
    return collectives::dimension_switch(state->spec, state->comm->rank(), state->comm->size(),
                                         {.inputs_sendable = sendable, .outputs_receivable = receivable});
  });
}
DimensionSwitch::~DimensionSwitch() = default;
DimensionSwitch::DimensionSwitch(DimensionSwitch&&) noexcept = default;
DimensionSwitch& DimensionSwitch::operator=(DimensionSwitch&&) noexcept = default;

Rows DimensionSwitch::share(int axis, Rank rank) const {
  return collectives::dimension_share(state_->spec, axis, rank, state_->comm->size());
}
std::vector<std::int64_t> DimensionSwitch::local_shape(int axis) const { return state_->local_shape(axis); }
const DimensionSwitchSpec& DimensionSwitch::spec() const noexcept { return state_->spec; }

void DimensionSwitch::run(ConstTensorView before, TensorView after) {
  const DimensionSwitchSpec& spec = state_->spec;
  if (state_->kept.repeat(*state_->comm, state_->plan, before, after)) return;
  const ConstTensorView from = folded("before", before, state_->shape_before, spec);
  const TensorView to = folded("after", after, state_->shape_after, spec);
  require_distinct("DimensionSwitch::run", {{"before", from}}, {{"after", to}});
  state_->kept.run(*state_->comm, state_->plan, spec, before, after, from, to, [&](OrderedCall& call) { call.bind(to); });
}

SEQCCL_END
