// movement.cpp - the movement primitives: check and bind the caller's tensors, run the plan.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/movement.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>

#include "call.hpp"
#include "seqccl/collectives.hpp"
#include "seqccl/mesh.hpp"

SEQCCL_BEGIN

// --- HeadSwap ---------------------------------------------------------------------------------------------------------------

struct HeadSwap::State {
  Communicator* comm;
  HeadSwapSpec spec;
  PlannedPass to_heads{nullptr}, to_tokens{nullptr};
  KeptCall kept_to_heads{}, kept_to_tokens{};

  void require_tokens(const char* who, const ConstTensorView& tokens) const {
    require_contiguous_rows(who, "tokens", tokens, spec.dtype,
                            {spec.batch, spec.partition.tokens_on(comm->rank()), spec.heads, spec.head_dim});
  }
  void require_heads(const char* who, const ConstTensorView& heads) const {
    const std::int64_t num_heads = collectives::head_swap_heads(spec, comm->rank()).count;
    require_contiguous_rows(who, "heads", heads, spec.dtype, {spec.batch, spec.partition.num_tokens(), num_heads, spec.head_dim});
  }
};

HeadSwap::HeadSwap(Communicator& comm, HeadSwapSpec spec) {
  validate(spec, comm.size());
  state_ = std::make_unique<State>(State{&comm, std::move(spec)});
  State* state = state_.get();
  state->to_heads = PlannedPass([state](bool sendable, bool receivable) {
    return collectives::head_swap_to_heads(state->spec, state->comm->rank(),
                                           {.inputs_sendable = sendable, .outputs_receivable = receivable});
  });
  state->to_tokens = PlannedPass(
      [state](bool sendable) { return collectives::head_swap_to_tokens(state->spec, state->comm->rank(), {.inputs_sendable = sendable}); });
}
HeadSwap::~HeadSwap() = default;
HeadSwap::HeadSwap(HeadSwap&&) noexcept = default;
HeadSwap& HeadSwap::operator=(HeadSwap&&) noexcept = default;

void HeadSwap::to_heads(ConstTensorView tokens, TensorView heads) {
  if (state_->kept_to_heads.repeat(*state_->comm, state_->to_heads, tokens, heads)) return;
  const char* who = "HeadSwap::to_heads";
  state_->require_tokens(who, tokens);
  state_->require_heads(who, heads);
  require_distinct(who, {{"tokens", tokens}}, {{"heads", heads}});
  state_->kept_to_heads.run(*state_->comm, state_->to_heads, state_->spec, tokens, heads, tokens, heads,
                            [&](OrderedCall& call) { call.bind(heads); });
}

void HeadSwap::to_tokens(ConstTensorView heads, TensorView tokens) {
  if (state_->kept_to_tokens.repeat(*state_->comm, state_->to_tokens, heads, tokens)) return;
  const char* who = "HeadSwap::to_tokens";
  state_->require_heads(who, heads);
  state_->require_tokens(who, tokens);
  require_distinct(who, {{"heads", heads}}, {{"tokens", tokens}});
  state_->kept_to_tokens.run(*state_->comm, state_->to_tokens, state_->spec, heads, tokens, heads, tokens,
                             [&](OrderedCall& call) { call.bind(tokens); });
}

Rows HeadSwap::heads_of(Rank rank) const { return collectives::head_swap_heads(state_->spec, rank); }
std::vector<Piece> HeadSwap::pieces() const { return collectives::head_swap_pieces(state_->spec); }
const HeadSwapSpec& HeadSwap::spec() const noexcept { return state_->spec; }

// --- KvAllGather ------------------------------------------------------------------------------------------------------------

struct KvAllGather::State {
  Communicator* comm;
  KvAllGatherSpec spec;
  std::vector<Piece> pieces;
  PlannedPass gather{nullptr}, reduce{nullptr};

  [[nodiscard]] std::int64_t own() const { return spec.partition.tokens_on(comm->rank()); }
  [[nodiscard]] std::int64_t num_rows() const { return pieces.empty() ? 0 : pieces.back().row + pieces.back().tokens.count; }
  void require_k(const char* who, const char* name, const ConstTensorView& view, DType dtype, std::int64_t rows) const {
    require_contiguous_rows(who, name, view, dtype, {spec.batch, rows, spec.kv_heads, spec.head_dim});
  }
  void require_v(const char* who, const char* name, const ConstTensorView& view, DType dtype, std::int64_t rows) const {
    require_contiguous_rows(who, name, view, dtype, {spec.batch, rows, spec.kv_heads, spec.dim_v()});
  }
};

KvAllGather::KvAllGather(Communicator& comm, KvAllGatherSpec spec) {
  validate(spec, comm.size());
  std::vector<Piece> pieces = collectives::kv_gather_pieces(spec, comm.rank());
  state_ = std::make_unique<State>(State{&comm, std::move(spec), std::move(pieces)});
  State* state = state_.get();
  state->gather = PlannedPass(
      [state](bool sendable) { return collectives::kv_gather(state->spec, state->comm->rank(), {.inputs_sendable = sendable}); });
  state->reduce = PlannedPass(
      [state](bool sendable) { return collectives::kv_reduce(state->spec, state->comm->rank(), {.inputs_sendable = sendable}); });
}
KvAllGather::~KvAllGather() = default;
KvAllGather::KvAllGather(KvAllGather&&) noexcept = default;
KvAllGather& KvAllGather::operator=(KvAllGather&&) noexcept = default;

std::int64_t KvAllGather::num_rows() const { return state_->num_rows(); }
std::vector<Piece> KvAllGather::pieces() const { return state_->pieces; }
const KvAllGatherSpec& KvAllGather::spec() const noexcept { return state_->spec; }

void KvAllGather::gather(ConstTensorView k, ConstTensorView v, TensorView k_all, TensorView v_all) {
  const char* who = "KvAllGather::gather";
  const DType dtype = state_->spec.dtype;
  state_->require_k(who, "k", k, dtype, state_->own());
  state_->require_v(who, "v", v, dtype, state_->own());
  state_->require_k(who, "k_all", k_all, dtype, num_rows());
  state_->require_v(who, "v_all", v_all, dtype, num_rows());
  require_distinct(who, {{"k", k}, {"v", v}}, {{"k_all", k_all}, {"v_all", v_all}});
  const bool sendable = (!k || tokens_are_contiguous(k)) && (!v || tokens_are_contiguous(v));
  OrderedCall call(*state_->comm, state_->gather.schedule(sendable));
  call.bind(k);
  call.bind(v);
  call.bind(k_all);
  call.bind(v_all);
  call.run(state_->gather.identity(call.schedule(), state_->spec));
}

void KvAllGather::reduce(ConstTensorView dk_all, ConstTensorView dv_all, TensorView dk, TensorView dv) {
  const char* who = "KvAllGather::reduce";
  state_->require_k(who, "dk_all", dk_all, f32, num_rows());
  state_->require_v(who, "dv_all", dv_all, f32, num_rows());
  state_->require_k(who, "dk", dk, f32, state_->own());
  state_->require_v(who, "dv", dv, f32, state_->own());
  require_distinct(who, {{"dk_all", dk_all}, {"dv_all", dv_all}}, {{"dk", dk}, {"dv", dv}});
  const bool sendable = (!dk_all || tokens_are_contiguous(dk_all)) && (!dv_all || tokens_are_contiguous(dv_all));
  OrderedCall call(*state_->comm, state_->reduce.schedule(sendable));
  call.bind(dk_all);
  call.bind(dv_all);
  call.bind(dk);
  call.bind(dv);
  call.run(state_->reduce.identity(call.schedule(), state_->spec));
}

// --- StateScan --------------------------------------------------------------------------------------------------------------

struct StateScan::State {
  Communicator* comm;
  StateScanSpec spec;
  PlannedPass run{nullptr};

  [[nodiscard]] std::int64_t num_runs() const { return static_cast<std::int64_t>(spec.partition.segments(comm->rank()).size()); }
  /// True on the rank whose run comes first in the order of the scan.
  [[nodiscard]] bool takes_initial() const {
    const std::int64_t num_tokens = spec.partition.num_tokens();
    return spec.initial && num_tokens != 0 && spec.partition.place_of(spec.reverse ? num_tokens - 1 : 0).rank == comm->rank();
  }
};

StateScan::StateScan(Communicator& comm, StateScanSpec spec) {
  validate(spec, comm.size());
  if (spec.scan == Scan::hierarchical && spec.ranks_per_node == 0) spec.ranks_per_node = Mesh::natural(comm.size(), comm.topology()).inner;
  state_ = std::make_unique<State>(State{&comm, std::move(spec)});
  State* state = state_.get();
  state->run = PlannedPass(
      [state](bool sendable) { return collectives::state_scan(state->spec, state->comm->rank(), {.inputs_sendable = sendable}); });
}
StateScan::~StateScan() = default;
StateScan::StateScan(StateScan&&) noexcept = default;
StateScan& StateScan::operator=(StateScan&&) noexcept = default;

std::int64_t StateScan::num_runs() const { return state_->num_runs(); }
const StateScanSpec& StateScan::spec() const noexcept { return state_->spec; }

void StateScan::run(ConstTensorView updates, ConstTensorView log_sums, ConstTensorView initial, TensorView entering) {
  const char* who = "StateScan::run";
  const StateScanSpec& spec = state_->spec;
  const std::int64_t R = num_runs(), B = spec.batch, H = spec.heads, Dk = spec.key_dim, Dv = spec.value_dim;
  const bool constant = spec.decay == LinearKind::constant_decay, dense = is_delta(spec.decay),
             gated = !dense && decay_size(spec.decay, Dk) != 0;
  require(who, "updates", updates, f32, {B, R, H, Dk, Dv});
  if (dense) require(who, "log_sums", log_sums, f32, {B, R, H, Dk, Dk});
  if (gated) require_contiguous_rows(who, "log_sums", log_sums, f32, {B, R, H, decay_size(spec.decay, Dk)});
  if (constant) require(who, "log_sums", log_sums, f32, {H});
  if (spec.decay == LinearKind::basic && log_sums)
    throw Error(ErrorKind::argument, fmt::format("{}: log_sums is given, want none with decay basic", who));
  if (initial && !spec.initial)
    throw Error(ErrorKind::argument, fmt::format("{}: initial is given, want none, or a spec with initial = true", who));
  if (state_->takes_initial()) require(who, "initial", initial, f32, {B, H, Dk, Dv});
  require(who, "entering", entering, f32, {B, R, H, Dk, Dv});
  require_distinct(who, {{"updates", updates}, {"log_sums", log_sums}, {"initial", initial}}, {{"entering", entering}});

  // States as slots (B, R, H, Dk Dv).
  const ConstTensorView flat_updates = updates ? joined(who, "updates", updates) : updates;
  const ConstTensorView transitions = dense && log_sums ? joined(who, "log_sums", log_sums) : log_sums;
  const TensorView flat_entering = entering ? joined(who, "entering", entering) : entering;
  bool sendable = !updates || tokens_are_contiguous(flat_updates);
  if ((gated || dense) && transitions) sendable = sendable && tokens_are_contiguous(transitions);
  OrderedCall call(*state_->comm, state_->run.schedule(sendable));
  call.bind(flat_updates);
  if (gated || dense) call.bind(transitions);
  if (constant) call.bind(rearranged(log_sums, {-1, -1, 0, -1}));
  if (state_->takes_initial()) call.bind(rearranged(joined(who, "initial", initial), {0, -1, 1, 2}));
  call.bind(flat_entering);
  call.run(state_->run.identity(call.schedule(), spec));
}

// --- Ring -------------------------------------------------------------------------------------------------------------------

struct Ring::State {
  Communicator* comm;
  RingSpec spec;
  RingStep step;
  std::vector<Slot> states{};  // what the plan was recorded for
  std::optional<PlannedPass> run{};
};

Ring::Ring(Communicator& comm, RingSpec spec, RingStep step) {
  validate(spec, comm.size());
  if (!step) throw Error(ErrorKind::argument, "Ring: step is empty, want a function");
  state_ = std::make_unique<State>(State{&comm, std::move(spec), std::move(step)});
}
Ring::~Ring() = default;
Ring::Ring(Ring&&) noexcept = default;
Ring& Ring::operator=(Ring&&) noexcept = default;

const RingSpec& Ring::spec() const noexcept { return state_->spec; }

void Ring::run(ConstTensorView k, ConstTensorView v, std::span<const TensorView> state) {
  const char* who = "Ring::run";
  const RingSpec& spec = state_->spec;
  const std::int64_t own = spec.partition.tokens_on(state_->comm->rank());
  require_contiguous_rows(who, "k", k, spec.dtype, {spec.batch, own, spec.kv_heads, spec.head_dim});
  require_contiguous_rows(who, "v", v, spec.dtype, {spec.batch, own, spec.kv_heads, spec.dim_v()});
  if (state.size() > max_states)
    throw Error(ErrorKind::argument, fmt::format("{}: state has {} tensors, want at most {}", who, state.size(), max_states));
  std::vector<Slot> states;
  for (std::size_t i = 0; i < state.size(); ++i) {
    const std::string name = fmt::format("state[{}]", i);
    const Geometry& geometry = state[i].geometry;
    if (geometry.num_axes != 4 || geometry.shape[2] > std::numeric_limits<std::int32_t>::max())
      throw Error(ErrorKind::argument,
                  fmt::format("{}: {} has shape {}, want four axes, the third below 2^31", who, name, to_string(geometry)));
    if (!state[i] && geometry.num_elements() != 0) throw Error(ErrorKind::argument, fmt::format("{}: {} has no memory", who, name));
    require_last_axis(who, name, state[i]);
    require_distinct(who, {{"k", k}, {"v", v}}, {{name.c_str(), state[i]}});
    for (std::size_t j = 0; j < i; ++j)
      require_distinct(who, {{fmt::format("state[{}]", j).c_str(), state[j]}}, {{name.c_str(), state[i]}});
    states.push_back({.dtype = state[i].dtype,
                      .batch = geometry.shape[0],
                      .tokens = geometry.shape[1],
                      .heads = geometry.shape[2],
                      .dim = geometry.shape[3]});
  }
  const auto same = [](const Slot& a, const Slot& b) {
    return a.dtype == b.dtype && a.batch == b.batch && a.tokens == b.tokens && a.heads == b.heads && a.dim == b.dim;
  };
  State* self = state_.get();
  if (!self->run || !std::equal(states.begin(), states.end(), self->states.begin(), self->states.end(), same)) {
    self->states = std::move(states);
    self->run = PlannedPass([self](bool sendable) {
      return collectives::ring_blocks(self->spec, self->comm->rank(), {.inputs_sendable = sendable}, self->step, self->states);
    });
  }
  const bool sendable = (!k || tokens_are_contiguous(k)) && (!v || tokens_are_contiguous(v));
  OrderedCall call(*self->comm, self->run->schedule(sendable));
  call.bind(k);
  call.bind(v);
  for (const TensorView& view : state) call.bind(view);
  call.run(self->run->identity(call.schedule(), spec));
}

SEQCCL_END
