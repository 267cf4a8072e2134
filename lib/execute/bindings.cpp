// bindings.cpp - memory for the slots of a schedule: scratch in the arena, the caller's tensors as he laid them out.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "seqccl/execute.hpp"

SEQCCL_BEGIN
namespace {

// Scratch, and whatever is sent in place, is stored (T, B, H, D).
std::array<std::int64_t, 4> token_major_strides(const Slot& slot) noexcept {
  return {slot.heads * slot.dim, slot.batch * slot.heads * slot.dim, slot.dim, 1};
}

std::string extents_of(const Slot& slot) { return fmt::format("({}, {}, {}, {})", slot.batch, slot.tokens, slot.heads, slot.dim); }

SlotBinding bound(const Schedule& schedule, const Slot& slot, const ConstTensorView& view) {
  const auto fail = [&](const std::string& what) -> Error {
    return {ErrorKind::argument, fmt::format("{}: {} {}", schedule.name, name(slot.tensor), what)};
  };
  const std::array<std::int64_t, 4> extents{slot.batch, slot.tokens, slot.heads, slot.dim};
  if (slot.num_bytes() == 0 && view.data == nullptr) return {nullptr, token_major_strides(slot)};  // a rank without tokens may leave it out
  bool same = view.geometry.num_axes == 4;
  for (int axis = 0; same && axis < 4; ++axis) same = view.extent(axis) == extents[axis];
  if (!same) throw fail(fmt::format("has shape {}, want {}", to_string(view.geometry), extents_of(slot)));
  if (view.dtype != slot.dtype) throw fail(fmt::format("is {}, want {}", name(view.dtype), name(slot.dtype)));

  SlotBinding binding;
  binding.base = static_cast<std::byte*>(const_cast<void*>(view.data));  // run_op writes only what the schedule declares as output
  for (int axis = 0; axis < 4; ++axis) binding.strides[axis] = view.stride(axis);
  if (slot.num_bytes() == 0) return binding;
  if (view.data == nullptr) throw fail("has no memory, want " + extents_of(slot));
  if (slot.dim > 1 && view.stride(3) != 1) throw fail(fmt::format("has stride {} along its last axis, want 1", view.stride(3)));
  if ((slot.kind == SlotKind::input && slot.sendable) || slot.receivable) {
    const auto dense = token_major_strides(slot);
    for (int axis = 0; axis < 3; ++axis) {
      if (extents[axis] > 1 && view.stride(axis) != dense[axis]) {
        throw fail(fmt::format("is {} in place: it has stride {} along axis {}, want {}", slot.receivable ? "received" : "sent",
                               view.stride(axis), axis, dense[axis]));
      }
    }
  }
  return binding;
}

}  // namespace

Bindings::Bindings(const Schedule& schedule, std::byte* arena) : schedule_(&schedule) {
  if (schedule.slots.size() > few_.size()) many_.resize(schedule.slots.size());
  for (std::size_t i = 0; i < schedule.slots.size(); ++i) {
    const Slot& slot = schedule.slots[i];
    if (slot.kind == SlotKind::scratch) slots()[i] = {slot.num_bytes() == 0 ? arena : arena + slot.offset_bytes, token_major_strides(slot)};
  }
}

void Bindings::bind(Tensor tensor, const TensorView& view) {
  if (const SlotIndex slot = schedule_->find(tensor); slot != no_slot) bind(slot, view);
}

void Bindings::bind(Tensor tensor, const ConstTensorView& view) {
  if (const SlotIndex slot = schedule_->find(tensor); slot != no_slot) bind(slot, view);
}

void Bindings::bind(SlotIndex slot, const TensorView& view) { slots()[slot] = bound(*schedule_, schedule_->slots[slot], view); }

void Bindings::bind(SlotIndex slot, const ConstTensorView& view) {
  const Slot& to = schedule_->slots[slot];
  if (to.kind == SlotKind::output)
    throw Error(ErrorKind::argument, fmt::format("{}: {} is read-only, want memory to write into", schedule_->name, name(to.tensor)));
  slots()[slot] = bound(*schedule_, to, view);
}

void Bindings::require_complete() const {
  for (std::size_t i = 0; i < schedule_->slots.size(); ++i) {
    const Slot& slot = schedule_->slots[i];
    if (slots()[i].base != nullptr || slot.num_bytes() == 0) continue;
    if (slot.kind == SlotKind::scratch) {
      throw Error(ErrorKind::argument, fmt::format("{}: arena is null, want {} bytes", schedule_->name, schedule_->workspace_bytes));
    }
    throw Error(ErrorKind::argument, fmt::format("{}: {} is not bound, want {}", schedule_->name, name(slot.tensor), extents_of(slot)));
  }
}

TensorView Bindings::view(const Block& block) const {
  if (!block.present()) return {};
  const Slot& slot = schedule_->slots[block.slot];
  const SlotBinding& binding = slots()[block.slot];
  return {data(block),
          slot.dtype,
          {4,
           {slot.batch, block.num_tokens, block.num_heads, slot.dim},
           {binding.strides[0], binding.strides[1], binding.strides[2], binding.strides[3]}}};
}

SEQCCL_END
