// halo_exchange.cpp - binds tokens and halos to the plans of both directions.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/halo_exchange.hpp"

#include <utility>

#include "call.hpp"
#include "seqccl/collectives.hpp"

SEQCCL_BEGIN

struct HaloExchange::State {
  Communicator* comm;
  HaloExchangeSpec spec;
  PlannedPass exchange{nullptr}, reduce{nullptr};

  [[nodiscard]] std::int64_t num_rows() const {
    return static_cast<std::int64_t>(spec.partition.segments(comm->rank()).size()) * spec.width;
  }
  void require_tokens(const char* who, const char* name, const ConstTensorView& view, DType dtype) const {
    require_contiguous_rows(who, name, view, dtype, {spec.batch, spec.partition.tokens_on(comm->rank()), spec.heads, spec.head_dim});
  }
  void require_halo(const char* who, const char* name, const ConstTensorView& view, DType dtype) const {
    require_contiguous_rows(who, name, view, dtype, {spec.batch, num_rows(), spec.heads, spec.head_dim});
  }
};

HaloExchange::HaloExchange(Communicator& comm, HaloExchangeSpec spec) {
  validate(spec, comm.size());
  state_ = std::make_unique<State>(State{&comm, std::move(spec)});
  State* state = state_.get();
  state->exchange = PlannedPass(
      [state](bool sendable) { return collectives::halo_exchange(state->spec, state->comm->rank(), {.inputs_sendable = sendable}); });
  state->reduce = PlannedPass(
      [state](bool sendable) { return collectives::halo_reduce(state->spec, state->comm->rank(), {.inputs_sendable = sendable}); });
}
HaloExchange::~HaloExchange() = default;
HaloExchange::HaloExchange(HaloExchange&&) noexcept = default;
HaloExchange& HaloExchange::operator=(HaloExchange&&) noexcept = default;

std::int64_t HaloExchange::num_rows() const { return state_->num_rows(); }
const HaloExchangeSpec& HaloExchange::spec() const noexcept { return state_->spec; }

void HaloExchange::exchange(ConstTensorView x, TensorView halo) {
  const char* who = "HaloExchange::exchange";
  state_->require_tokens(who, "x", x, state_->spec.dtype);
  state_->require_halo(who, "halo", halo, state_->spec.dtype);
  require_distinct(who, {{"x", x}}, {{"halo", halo}});
  const Schedule& plan = state_->exchange.schedule(tokens_are_contiguous(x));
  OrderedCall call(*state_->comm, plan);
  call.bind(x);
  call.bind(halo);
  call.run(state_->exchange.identity(plan, state_->spec));
}

void HaloExchange::reduce(ConstTensorView dhalo, TensorView dx) {
  const char* who = "HaloExchange::reduce";
  state_->require_halo(who, "dhalo", dhalo, f32);
  state_->require_tokens(who, "dx", dx, f32);
  require_distinct(who, {{"dhalo", dhalo}}, {{"dx", dx}});
  const Schedule& plan = state_->reduce.schedule(tokens_are_contiguous(dhalo));
  OrderedCall call(*state_->comm, plan);
  call.bind(dhalo);
  call.bind(dx);
  call.run(state_->reduce.identity(plan, state_->spec));
}

SEQCCL_END
