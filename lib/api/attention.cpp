// attention.cpp - the Attention class: chooses a method, binds the caller's tensors, runs the plan.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/attention.hpp"

#include <fmt/format.h>

#include <utility>

#include "operation.hpp"
#include "seqccl/collectives.hpp"
#include "seqccl/explain.hpp"
#include "seqccl/simulate.hpp"

SEQCCL_BEGIN

namespace {

/// Simulated times of every candidate, forward and backward together; the cheapest wins, the earlier name on a tie. Candidates are the
/// published names: methods, and meshes natural to the cluster.
struct Choice {
  AttentionSpec spec;
  std::string table;
};
[[nodiscard]] Choice choose(const AttentionSpec& given, const Cluster& cluster) {
  Choice choice{given, {}};
  double best = -1;
  for (const std::string& candidate : method_names()) {
    AttentionSpec spec = given;
    choose_method(spec, candidate, cluster.topology);
    try {
      validate(spec, spec.partition.num_ranks());
    } catch (const Error& cannot) {  // this method has no such mesh, backward or head groups
      choice.table += fmt::format("  {:<18} not considered: {}\n", candidate, cannot.what());
      continue;
    }
    const MethodEntry& entry = entry_of(spec.method);
    const double seconds =
        simulate(record_all(entry.forward, spec), cluster).seconds + simulate(record_all(entry.backward, spec), cluster).seconds;
    choice.table += fmt::format("  {:<18} {:>10} simulated, forward and backward\n", candidate, human_seconds(seconds));
    if (best < 0 || seconds < best) {
      best = seconds;
      choice.spec = std::move(spec);
    }
  }
  if (best < 0) {
    throw Error(
        ErrorKind::argument,
        fmt::format("AttentionSpec: no method has this mesh, backward and head_groups together; leave one of them to its default:\n{}",
                    choice.table));
  }
  return choice;
}

/// Sinks that the spec does not speak of would be left aside without a word.
void refuse_sinks(const char* who, const char* name, const ConstTensorView& sinks, const AttentionSpec& spec) {
  if (sinks && !spec.sinks)
    throw Error(ErrorKind::argument, fmt::format("{}: {} is given, want none, or a spec with sinks = true", who, name));
}

Cluster threads_with(Topology topology) {
  Cluster cluster = Cluster::thread_ranks();
  cluster.topology = std::move(topology);
  return cluster;
}

}  // namespace

AttentionSpec fastest_method(const AttentionSpec& spec, const Topology& topology) {
  validate(spec, spec.partition.num_ranks());
  return spec.method == Method::automatic ? choose(spec, threads_with(topology)).spec : spec;
}

struct Attention::State {
  Communicator* comm;
  AttentionSpec spec;
  std::string candidates;  // the table of Method::automatic, or empty
  PlannedPass forward, backward;
  std::vector<TraceEvent>* trace = nullptr;

  [[nodiscard]] const MethodEntry& entry() const { return entry_of(spec.method); }
  [[nodiscard]] std::int64_t tokens() const { return spec.partition.tokens_on(comm->rank()); }
};

Attention::Attention(Communicator& comm, AttentionSpec spec) {
  validate(spec, comm.size());
  std::string candidates;
  if (spec.method == Method::automatic) {
    Choice choice = choose(spec, threads_with(comm.topology()));
    spec = std::move(choice.spec);
    candidates = std::move(choice.table);
  }
  state_ = std::make_unique<State>(State{&comm, std::move(spec), std::move(candidates), PlannedPass({}), PlannedPass({})});
  State* state = state_.get();
  state->forward = PlannedPass(
      [state](bool sendable) { return state->entry().forward(state->spec, state->comm->rank(), {.inputs_sendable = sendable}); });
  state->backward = PlannedPass(
      [state](bool sendable) { return state->entry().backward(state->spec, state->comm->rank(), {.inputs_sendable = sendable}); });
}
Attention::~Attention() = default;
Attention::Attention(Attention&&) noexcept = default;
Attention& Attention::operator=(Attention&&) noexcept = default;

void Attention::forward(ConstTensorView q, ConstTensorView k, ConstTensorView v, TensorView out, TensorView lse, ConstTensorView sinks) {
  const char* who = "Attention::forward";
  const AttentionSpec& spec = state_->spec;
  const std::int64_t tokens = state_->tokens(), kv_heads = spec.num_kv_heads();
  require(who, "q", q, spec.dtype, {spec.batch, tokens, spec.q_heads, spec.head_dim});
  require(who, "k", k, spec.dtype, {spec.batch, tokens, kv_heads, spec.head_dim});
  require(who, "v", v, spec.dtype, {spec.batch, tokens, kv_heads, spec.dim_v()});
  require(who, "out", out, spec.dtype, {spec.batch, tokens, spec.q_heads, spec.dim_v()});
  require(who, "lse", lse, f32, {spec.batch, spec.q_heads, tokens});
  if (spec.sinks) require(who, "sinks", sinks, f32, {spec.q_heads});
  refuse_sinks(who, "sinks", sinks, spec);
  require_distinct(who, {{"q", q}, {"k", k}, {"v", v}, {"sinks", sinks}}, {{"out", out}, {"lse", lse}});

  const bool sendable = tokens_are_contiguous(q) && tokens_are_contiguous(k) && tokens_are_contiguous(v);
  const Schedule& schedule = state_->forward.schedule(sendable);
  Bindings memory(schedule, state_->comm->arena(schedule.workspace_bytes));
  memory.bind(Tensor::q, q);
  memory.bind(Tensor::k, k);
  memory.bind(Tensor::v, v);
  memory.bind(Tensor::out, out);
  memory.bind(Tensor::lse, rearranged(lse, {0, 2, 1, -1}));
  if (spec.sinks) memory.bind(Tensor::sinks, rearranged(sinks, {-1, -1, 0, -1}));
  run_on(*state_->comm, memory, state_->forward.identity(schedule, spec), spec.kernel, state_->trace);
}

void Attention::backward(ConstTensorView dout, ConstTensorView q, ConstTensorView k, ConstTensorView v, ConstTensorView out,
                         ConstTensorView lse, TensorView dq, TensorView dk, TensorView dv, ConstTensorView sinks, TensorView dsinks) {
  const char* who = "Attention::backward";
  const AttentionSpec& spec = state_->spec;
  const std::int64_t tokens = state_->tokens(), kv_heads = spec.num_kv_heads();
  for (const auto& [name, view] : {std::pair{"q", q}, std::pair{"dq", ConstTensorView(dq)}})
    require(who, name, view, spec.dtype, {spec.batch, tokens, spec.q_heads, spec.head_dim});
  for (const auto& [name, view] : {std::pair{"k", k}, std::pair{"dk", ConstTensorView(dk)}})
    require(who, name, view, spec.dtype, {spec.batch, tokens, kv_heads, spec.head_dim});
  for (const auto& [name, view] : {std::pair{"v", v}, std::pair{"dv", ConstTensorView(dv)}})
    require(who, name, view, spec.dtype, {spec.batch, tokens, kv_heads, spec.dim_v()});
  for (const auto& [name, view] : {std::pair{"dout", dout}, std::pair{"out", out}})
    require(who, name, view, spec.dtype, {spec.batch, tokens, spec.q_heads, spec.dim_v()});
  require(who, "lse", lse, f32, {spec.batch, spec.q_heads, tokens});
  refuse_sinks(who, "sinks", sinks, spec);
  refuse_sinks(who, "dsinks", dsinks, spec);
  if (spec.sinks) {
    require(who, "sinks", sinks, f32, {spec.q_heads});
    require(who, "dsinks", dsinks, f32, {spec.q_heads});
  }
  require_distinct(who, {{"dout", dout}, {"q", q}, {"k", k}, {"v", v}, {"out", out}, {"lse", lse}, {"sinks", sinks}},
                   {{"dq", dq}, {"dk", dk}, {"dv", dv}, {"dsinks", dsinks}});

  bool sendable = true;
  for (const ConstTensorView& view : {q, k, v, dout, out}) sendable = sendable && tokens_are_contiguous(view);
  const Schedule& schedule = state_->backward.schedule(sendable);
  Bindings memory(schedule, state_->comm->arena(schedule.workspace_bytes));
  memory.bind(Tensor::dout, dout);
  memory.bind(Tensor::q, q);
  memory.bind(Tensor::k, k);
  memory.bind(Tensor::v, v);
  memory.bind(Tensor::out, out);
  memory.bind(Tensor::lse, rearranged(lse, {0, 2, 1, -1}));
  memory.bind(Tensor::dq, dq);
  memory.bind(Tensor::dk, dk);
  memory.bind(Tensor::dv, dv);
  if (spec.sinks) {
    memory.bind(Tensor::sinks, rearranged(sinks, {-1, -1, 0, -1}));
    memory.bind(Tensor::dsinks, rearranged(dsinks, {-1, -1, 0, -1}));
  }
  run_on(*state_->comm, memory, state_->backward.identity(schedule, spec), spec.kernel, state_->trace);
}

Method Attention::method() const noexcept { return state_->spec.method; }
const AttentionSpec& Attention::spec() const noexcept { return state_->spec; }
const Schedule& Attention::forward_schedule() { return state_->forward.schedule(true); }
const Schedule& Attention::backward_schedule() { return state_->backward.schedule(true); }
void Attention::set_trace(std::vector<TraceEvent>* trace) noexcept { state_->trace = trace; }

std::string Attention::explain() const {
  const Cluster cluster = threads_with(state_->comm->topology());
  const auto schedules = record_all(state_->entry().forward, state_->spec);
  const AttentionSpec& spec = state_->spec;
  std::string text = fmt::format("method {}", state_->entry().name);
  if (spec.mesh && !spec.mesh->is_flat())
    text += fmt::format(", mesh heads {} x outer {} x inner {}", spec.mesh->heads, spec.mesh->outer, spec.mesh->inner);
  if (spec.backward == Backward::burst) text += ", burst backward";
  text += state_->candidates.empty() ? ", as asked\n" : ", the cheapest of\n" + state_->candidates;
  return text + seqccl::explain(schedules, simulate(schedules, cluster), cluster);
}

SEQCCL_END
