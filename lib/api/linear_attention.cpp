// linear_attention.cpp - the LinearAttention class: binds the caller's tensors, runs the plan.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/linear_attention.hpp"

#include <fmt/format.h>

#include <utility>

#include "operation.hpp"
#include "seqccl/collectives.hpp"
#include "seqccl/explain.hpp"
#include "seqccl/mesh.hpp"
#include "seqccl/simulate.hpp"

SEQCCL_BEGIN

struct LinearAttention::State {
  Communicator* comm;
  LinearSpec spec;
  PlannedPass forward, backward;
  Buffer unwanted_states;  // where entering states go that the caller does not ask for

  [[nodiscard]] std::int64_t tokens() const { return spec.partition.tokens_on(comm->rank()); }
  [[nodiscard]] std::int64_t runs() const { return static_cast<std::int64_t>(spec.partition.segments(comm->rank()).size()); }

  /// Checks q, k, v, log_decay, beta, bonus.
  void require_inputs(const char* who, const LinearInputs& inputs) const {
    require(who, "q", inputs.q, spec.dtype, {spec.batch, tokens(), spec.heads, spec.head_dim});
    require(who, "k", inputs.k, spec.dtype, {spec.batch, tokens(), spec.heads, spec.head_dim});
    require(who, "v", inputs.v, spec.dtype, {spec.batch, tokens(), spec.heads, spec.dim_v()});
    require_gates(who, {"log_decay", inputs.log_decay}, {"beta", inputs.beta}, {"bonus", inputs.bonus});
  }
  /// The same of log_decay, beta and bonus or their gradients: there if the kind has them, else absent.
  void require_gates(const char* who, const NamedView& decay, const NamedView& beta, const NamedView& bonus) const {
    const std::int64_t decays = decay_size(spec.kind, spec.head_dim);
    const auto refuse_given = [&](const NamedView& named) {
      if (named.view)
        throw Error(ErrorKind::argument, fmt::format("{}: {} is given, want none with kind {}", who, named.name, name(spec.kind)));
    };
    if (spec.kind == LinearKind::constant_decay)
      require(who, decay.name, decay.view, f32, {spec.heads});
    else if (decays == 1 && !has_wide_decay())
      require(who, decay.name, decay.view, f32, {spec.batch, tokens(), spec.heads});
    else if (decays != 0)
      require(who, decay.name, decay.view, f32, {spec.batch, tokens(), spec.heads, spec.head_dim});
    else
      refuse_given(decay);
    if (is_delta(spec.kind))
      require(who, beta.name, beta.view, f32, {spec.batch, tokens(), spec.heads});
    else
      refuse_given(beta);
    if (spec.kind == LinearKind::rwkv6)
      require(who, bonus.name, bonus.view, f32, {spec.heads, spec.head_dim});
    else
      refuse_given(bonus);
  }
  /// True if log_decay has head_dim numbers, which may be one.
  [[nodiscard]] bool has_wide_decay() const {
    return spec.kind == LinearKind::vector_gate || spec.kind == LinearKind::rwkv6 || spec.kind == LinearKind::kda;
  }
  /// A decay, or its gradient, as a slot (B, T, H, 1 | Dk) or (1, 1, H, 1).
  template <class View>
  [[nodiscard]] View decay_slot(const View& view) const {
    if (spec.kind == LinearKind::constant_decay) return rearranged(view, {-1, -1, 0, -1});
    return has_wide_decay() ? view : rearranged(view, {0, 1, 2, -1});
  }
  /// log_decay, beta and bonus, or their gradients, where the schedule has them.
  template <class View>
  void bind_gates(Bindings& memory, std::pair<Tensor, View> decay, std::pair<Tensor, View> beta, std::pair<Tensor, View> bonus) const {
    const auto has = [&](Tensor tensor) { return memory.schedule().find(tensor) != no_slot; };
    if (has(decay.first)) memory.bind(decay.first, decay_slot(decay.second));
    if (has(beta.first)) memory.bind(beta.first, rearranged(beta.second, {0, 1, 2, -1}));
    if (has(bonus.first)) memory.bind(bonus.first, rearranged(bonus.second, {-1, -1, 0, 1}));
  }
  /// A state (B, H, Dk, Dv) as a slot (B, 1, H, Dk Dv), checked. Absent stays absent.
  template <class View>
  [[nodiscard]] View state_slot(const char* who, const char* name, const View& view) const {
    require(who, name, view, f32, {spec.batch, spec.heads, spec.head_dim, spec.dim_v()});
    const View flat = joined(who, name, view);
    return rearranged(flat, {0, -1, 1, 2});
  }
  /// A state that the spec does not speak of would be left aside without a word.
  template <class View>
  void refuse_unasked(const char* who, const char* name, const View& view, const char* flag, bool asked) const {
    if (view && !asked) throw Error(ErrorKind::argument, fmt::format("{}: {} is given, want none, or a spec with {}", who, name, flag));
  }
  void bind_inputs(Bindings& memory, const LinearInputs& inputs) const {
    memory.bind(Tensor::q, inputs.q);
    memory.bind(Tensor::k, inputs.k);
    memory.bind(Tensor::v, inputs.v);
    bind_gates<ConstTensorView>(memory, {Tensor::log_decay, inputs.log_decay}, {Tensor::beta, inputs.beta}, {Tensor::bonus, inputs.bonus});
  }
};

LinearAttention::LinearAttention(Communicator& comm, LinearSpec spec) {
  validate(spec, comm.size());
  if (spec.scan == Scan::hierarchical && spec.ranks_per_node == 0) spec.ranks_per_node = Mesh::natural(comm.size(), comm.topology()).inner;
  state_ = std::make_unique<State>(State{&comm, std::move(spec), PlannedPass({}), PlannedPass({}), Buffer{}});
  State* state = state_.get();
  state->forward = PlannedPass(
      [state](bool sendable) { return collectives::linear_forward(state->spec, state->comm->rank(), {.inputs_sendable = sendable}); });
  state->backward = PlannedPass(
      [state](bool sendable) { return collectives::linear_backward(state->spec, state->comm->rank(), {.inputs_sendable = sendable}); });
}
LinearAttention::~LinearAttention() = default;
LinearAttention::LinearAttention(LinearAttention&&) noexcept = default;
LinearAttention& LinearAttention::operator=(LinearAttention&&) noexcept = default;

void LinearAttention::forward(const LinearInputs& inputs, const LinearOutputs& outputs) {
  const char* who = "LinearAttention::forward";
  const LinearSpec& spec = state_->spec;
  state_->require_inputs(who, inputs);
  require(who, "out", outputs.out, spec.dtype, {spec.batch, state_->tokens(), spec.heads, spec.dim_v()});
  state_->refuse_unasked(who, "state_in", inputs.state_in, "state_in = true", spec.state_in);
  state_->refuse_unasked(who, "state_out", outputs.state_out, "state_out = true", spec.state_out);
  state_->refuse_unasked(who, "entering_state", outputs.entering_state, "causal = true", spec.causal);
  require_distinct(who,
                   {{"q", inputs.q},
                    {"k", inputs.k},
                    {"v", inputs.v},
                    {"log_decay", inputs.log_decay},
                    {"state_in", inputs.state_in},
                    {"beta", inputs.beta},
                    {"bonus", inputs.bonus}},
                   {{"out", outputs.out}, {"entering_state", outputs.entering_state}, {"state_out", outputs.state_out}});

  const Schedule& schedule = state_->forward.schedule(true);
  Bindings memory(schedule, state_->comm->arena(schedule.workspace_bytes));
  state_->bind_inputs(memory, inputs);
  memory.bind(Tensor::out, outputs.out);

  TensorView entering = outputs.entering_state;
  if (!entering && spec.causal) {
    const auto num_bytes =
        static_cast<std::size_t>(spec.batch * state_->runs() * spec.heads * spec.head_dim * spec.dim_v()) * size_bytes(f32);
    if (state_->unwanted_states.num_bytes() < num_bytes) state_->unwanted_states = state_->comm->allocate(num_bytes);
    entering = view(static_cast<void*>(state_->unwanted_states.data()), f32,
                    {spec.batch, state_->runs(), spec.heads, spec.head_dim, spec.dim_v()});
  }
  if (spec.causal) {
    require(who, "entering_state", entering, f32, {spec.batch, state_->runs(), spec.heads, spec.head_dim, spec.dim_v()});
    memory.bind(Tensor::entering_state, joined(who, "entering_state", entering));
  }
  if (schedule.find(Tensor::state_in) != no_slot) memory.bind(Tensor::state_in, state_->state_slot(who, "state_in", inputs.state_in));
  if (schedule.find(Tensor::state_out) != no_slot) memory.bind(Tensor::state_out, state_->state_slot(who, "state_out", outputs.state_out));
  run_on(*state_->comm, memory, state_->forward.identity(schedule, spec), {}, nullptr);
}

void LinearAttention::backward(const LinearInputs& inputs, const LinearOutputGradients& gradients, const LinearInputGradients& results) {
  const char* who = "LinearAttention::backward";
  const LinearSpec& spec = state_->spec;
  state_->require_inputs(who, inputs);
  require(who, "dout", gradients.dout, spec.dtype, {spec.batch, state_->tokens(), spec.heads, spec.dim_v()});
  if (spec.causal)
    require(who, "entering_state", gradients.entering_state, f32, {spec.batch, state_->runs(), spec.heads, spec.head_dim, spec.dim_v()});
  require(who, "dq", results.dq, spec.dtype, {spec.batch, state_->tokens(), spec.heads, spec.head_dim});
  require(who, "dk", results.dk, spec.dtype, {spec.batch, state_->tokens(), spec.heads, spec.head_dim});
  require(who, "dv", results.dv, spec.dtype, {spec.batch, state_->tokens(), spec.heads, spec.dim_v()});
  state_->refuse_unasked(who, "state_in", inputs.state_in, "state_in = true", spec.state_in);
  state_->refuse_unasked(who, "dstate_in", results.dstate_in, "state_in = true", spec.state_in);
  state_->refuse_unasked(who, "dstate_out", gradients.dstate_out, "state_out = true", spec.state_out);
  state_->refuse_unasked(who, "entering_state", gradients.entering_state, "causal = true", spec.causal);
  state_->require_gates(who, {"dlog_decay", results.dlog_decay}, {"dbeta", results.dbeta}, {"dbonus", results.dbonus});
  require_distinct(who,
                   {{"q", inputs.q},
                    {"k", inputs.k},
                    {"v", inputs.v},
                    {"log_decay", inputs.log_decay},
                    {"beta", inputs.beta},
                    {"bonus", inputs.bonus},
                    {"dout", gradients.dout},
                    {"entering_state", gradients.entering_state},
                    {"dstate_out", gradients.dstate_out}},
                   {{"dq", results.dq},
                    {"dk", results.dk},
                    {"dv", results.dv},
                    {"dlog_decay", results.dlog_decay},
                    {"dstate_in", results.dstate_in},
                    {"dbeta", results.dbeta},
                    {"dbonus", results.dbonus}});

  const Schedule& schedule = state_->backward.schedule(true);
  Bindings memory(schedule, state_->comm->arena(schedule.workspace_bytes));
  state_->bind_inputs(memory, inputs);
  memory.bind(Tensor::dout, gradients.dout);
  if (spec.causal) memory.bind(Tensor::entering_state, joined(who, "entering_state", gradients.entering_state));
  memory.bind(Tensor::dq, results.dq);
  memory.bind(Tensor::dk, results.dk);
  memory.bind(Tensor::dv, results.dv);
  state_->bind_gates<TensorView>(memory, {Tensor::dlog_decay, results.dlog_decay}, {Tensor::dbeta, results.dbeta},
                                 {Tensor::dbonus, results.dbonus});
  if (schedule.find(Tensor::dstate_out) != no_slot)
    memory.bind(Tensor::dstate_out, state_->state_slot(who, "dstate_out", gradients.dstate_out));
  if (schedule.find(Tensor::dstate_in) != no_slot) memory.bind(Tensor::dstate_in, state_->state_slot(who, "dstate_in", results.dstate_in));
  run_on(*state_->comm, memory, state_->backward.identity(schedule, spec), {}, nullptr);
}

const LinearSpec& LinearAttention::spec() const noexcept { return state_->spec; }
const Schedule& LinearAttention::forward_schedule() { return state_->forward.schedule(true); }
const Schedule& LinearAttention::backward_schedule() { return state_->backward.schedule(true); }

std::string LinearAttention::explain() const {
  Cluster cluster = Cluster::thread_ranks();
  cluster.topology = state_->comm->topology();
  const auto schedules = record_all(collectives::linear_forward, state_->spec);
  return fmt::format(
             "kind {}, {}\n", name(state_->spec.kind),
             state_->spec.causal ? fmt::format("scan {}", name(state_->spec.scan)) : "an all-reduce of states: without order no scan") +
         seqccl::explain(schedules, simulate(schedules, cluster), cluster);
}

SEQCCL_END
