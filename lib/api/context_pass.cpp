// context_pass.cpp - the ContextPass class, and the selection of rows.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/context_pass.hpp"

#include <fmt/format.h>

#include <cstring>
#include <utility>

#include "operation.hpp"
#include "seqccl/collectives.hpp"

SEQCCL_BEGIN

struct ContextPass::State {
  Communicator* comm;
  ContextPassSpec spec;
  PlannedPass plan{nullptr};
  std::vector<TraceEvent>* trace = nullptr;
};

ContextPass::ContextPass(Communicator& comm, ContextPassSpec spec) {
  validate(spec, comm.size());
  state_ = std::make_unique<State>(State{&comm, std::move(spec)});
  State* state = state_.get();
  state->plan = PlannedPass(
      [state](bool sendable) { return collectives::context_pass(state->spec, state->comm->rank(), {.inputs_sendable = sendable}); });
}
ContextPass::~ContextPass() = default;
ContextPass::ContextPass(ContextPass&&) noexcept = default;
ContextPass& ContextPass::operator=(ContextPass&&) noexcept = default;

void ContextPass::forward(ConstTensorView q, ConstTensorView k, ConstTensorView v, ConstTensorView k_anchor, ConstTensorView v_anchor,
                          ConstTensorView k_passed, ConstTensorView v_passed, TensorView out, TensorView lse) {
  const char* who = "ContextPass::forward";
  const ContextPassSpec& spec = state_->spec;
  const Rank rank = state_->comm->rank();
  const std::int64_t tokens = spec.tokens_on(rank), kv_heads = spec.num_kv_heads();
  const auto require_keys = [&](const char* k_name, const ConstTensorView& keys, const char* v_name, const ConstTensorView& values,
                                std::int64_t count) {
    require(who, k_name, keys, spec.dtype, {spec.batch, count, kv_heads, spec.head_dim});
    require(who, v_name, values, spec.dtype, {spec.batch, count, kv_heads, spec.dim_v()});
  };
  require(who, "q", q, spec.dtype, {spec.batch, tokens, spec.q_heads, spec.head_dim});
  require_keys("k", k, "v", v, tokens);
  require_keys("k_anchor", k_anchor, "v_anchor", v_anchor, spec.anchor_on(rank));
  require_keys("k_passed", k_passed, "v_passed", v_passed, spec.passed_by(rank));
  require(who, "out", out, spec.dtype, {spec.batch, tokens, spec.q_heads, spec.dim_v()});
  require(who, "lse", lse, f32, {spec.batch, spec.q_heads, tokens});
  require_distinct(
      who, {{"q", q}, {"k", k}, {"v", v}, {"k_anchor", k_anchor}, {"v_anchor", v_anchor}, {"k_passed", k_passed}, {"v_passed", v_passed}},
      {{"out", out}, {"lse", lse}});

  const Schedule& schedule = state_->plan.schedule(tokens_are_contiguous(k_passed) && tokens_are_contiguous(v_passed));
  Bindings memory(schedule, state_->comm->arena(schedule.workspace_bytes));
  memory.bind(Tensor::q, q);
  memory.bind(Tensor::out, out);
  memory.bind(Tensor::lse, rearranged(lse, {0, 2, 1, -1}));
  // Three slots hold keys and three hold values: own, anchor, passed.
  SlotIndex slot = 0;
  for (const ConstTensorView& view : {k, v, k_anchor, v_anchor, k_passed, v_passed}) {
    while (schedule.slots[slot].tensor != Tensor::k && schedule.slots[slot].tensor != Tensor::v) ++slot;
    if (view) memory.bind(slot, view);
    ++slot;
  }
  run_on(*state_->comm, memory, state_->plan.identity(schedule, spec), spec.kernel, state_->trace);
}

const ContextPassSpec& ContextPass::spec() const noexcept { return state_->spec; }
const Schedule& ContextPass::schedule() { return state_->plan.schedule(true); }
void ContextPass::set_trace(std::vector<TraceEvent>* trace) noexcept { state_->trace = trace; }

void select_rows(ConstTensorView from, std::span<const std::int64_t> rows, TensorView passed) {
  const char* who = "select_rows";
  const auto refuse = [who](const std::string& what) { return Error(ErrorKind::argument, fmt::format("{}: {}", who, what)); };
  for (const auto& [name, view] : {std::pair{"from", from}, std::pair{"passed", ConstTensorView(passed)}})
    if (view.geometry.num_axes != 4) throw refuse(fmt::format("{} has {} axes, want 4", name, view.geometry.num_axes));
  const std::int64_t batch = from.extent(0), heads = from.extent(2), dim = from.extent(3), count = passed.extent(1);
  require(who, "passed", passed, from.dtype, {batch, count, heads, dim});
  require(who, "from", from, from.dtype, {batch, from.extent(1), heads, dim});
  require_distinct(who, {{"from", from}}, {{"passed", passed}});
  for (const auto& [name, view] : {std::pair{"from", from}, std::pair{"passed", ConstTensorView(passed)}})
    if (view && view.geometry.num_elements() != 0 && dim > 1 && view.stride(3) != 1)
      throw refuse(fmt::format("{} has stride {} along its last axis, want 1", name, view.stride(3)));
  const auto num_rows = static_cast<std::int64_t>(rows.size());
  const bool per_batch = num_rows == batch * count || num_rows == batch * heads * count, per_head = num_rows == batch * heads * count;
  if (!per_batch && num_rows != count)
    throw refuse(fmt::format("there are {} rows, want {}, {} per batch row or {} per batch row and head", num_rows, count, batch * count,
                             batch * heads * count));
  for (std::size_t i = 0; i < rows.size(); ++i)
    if (rows[i] < 0 || rows[i] >= from.extent(1))
      throw refuse(fmt::format("rows[{}] is {}, want 0 <= row < {}", i, rows[i], from.extent(1)));

  const auto element = static_cast<std::int64_t>(size_bytes(from.dtype));
  for (std::int64_t b = 0; b < batch; ++b)
    for (std::int64_t s = 0; s < count; ++s)
      for (std::int64_t h = 0; h < heads; ++h) {
        const std::int64_t list = per_head ? b * heads + h : per_batch ? b : 0;
        const std::int64_t row = rows[static_cast<std::size_t>(list * count + s)];
        std::memcpy(passed.as<std::byte>() + (b * passed.stride(0) + s * passed.stride(1) + h * passed.stride(2)) * element,
                    from.as<std::byte>() + (b * from.stride(0) + row * from.stride(1) + h * from.stride(2)) * element,
                    static_cast<std::size_t>(dim * element));
      }
}

SEQCCL_END
