// attention_job.cpp - shards whole tensors over ranks, runs forward and backward, joins the results.
// SPDX-License-Identifier: Apache-2.0
#include "command/attention_job.hpp"

#include <fmt/format.h>

namespace seqccl::command {
namespace {

void require_shape(const char* name, const HostTensor& tensor, const std::vector<std::int64_t>& want, const char* letters) {
  if (tensor.shape() != want)
    throw Error(ErrorKind::argument, fmt::format("{}: shape is {}, want {} {}", name, to_text(tensor.shape()), letters, to_text(want)));
}
void require_dtype(const char* name, const HostTensor& tensor, DType want) {
  if (tensor.dtype != want)
    throw Error(ErrorKind::argument,
                fmt::format("{}: dtype is {}, but q is {}; --dtype converts all", name, seqccl::name(tensor.dtype), seqccl::name(want)));
}

/// This rank's part of a whole tensor (B, N, ...); absent tensors stay absent.
HostTensor shard_of(const HostTensor& whole, const Partition& partition, Rank rank) {
  if (!whole.present()) return {};
  std::vector<std::int64_t> shape = whole.shape();
  shape[1] = partition.tokens_on(rank);
  HostTensor part(whole.dtype, shape);
  partition.shard(whole.view(), rank, part.view());
  return part;
}

/// Copies a rank's (B, H, T) into the whole (B, H, N).
void unshard_rows(const HostTensor& part, const Partition& partition, Rank rank, HostTensor& whole) {
  partition.unshard(swap_axes(part.view(), 1, 2), rank, swap_axes(whole.view(), 1, 2));
}

/// (B, H, T) as a plan has it: (B, T, H, 1).
template <class View>
View rows_for_plan(const View& rows) {
  View view = swap_axes(rows, 1, 2);
  view.geometry.num_axes = 4;
  view.geometry.shape[3] = 1;
  view.geometry.strides[3] = 1;
  return view;
}

/// All that one rank does.
struct RankRun {
  const AttentionTensors& tensors;
  const AttentionSpec& spec;
  const RunSettings& settings;
  bool backward;
  Lockstep& lockstep;
  AttentionResult& result;
  const Measurements &forward_times, &backward_times;
  std::vector<HostTensor>& dsinks;  // every rank's share
  TraceBoard& traces;
  const LaneMeasurements &forward_lanes, &backward_lanes;

  void operator()(Communicator& comm) {
    const Rank rank = comm.rank();
    const Partition& partition = spec.partition;
    const HostTensor q = shard_of(tensors.q, partition, rank), k = shard_of(tensors.k, partition, rank),
                     v = shard_of(tensors.v, partition, rank);
    const std::int64_t T = partition.tokens_on(rank);
    HostTensor out(spec.dtype, {spec.batch, T, spec.q_heads, spec.dim_v()}), lse(f32, {spec.batch, spec.q_heads, T});
    const ConstTensorView sinks = tensors.sinks.view();

    const SteadyClock::time_point before = SteadyClock::now();
    Attention attention(comm, spec);
    const Schedule& schedule = attention.forward_schedule();
    forward_times.counts(rank).planning_s = std::chrono::duration<double>(SteadyClock::now() - before).count();
    forward_times.plan(rank, schedule);
    std::vector<TraceEvent> events;
    if (settings.trace) attention.set_trace(&events);
    measure(lockstep, comm, settings, forward_times,
            [&] { attention.forward(q.view(), k.view(), v.view(), out.view(), lse.view(), sinks); });
    if (settings.trace) traces.add(schedule, events, forward_times.runs(rank).back().begin);
    partition.unshard(out.view(), rank, result.out.view());
    unshard_rows(lse, partition, rank, result.lse);
    if (settings.lanes) {
      HostTensor spoilt_out = like(out), spoilt_lse = like(lse);
      forward_lanes.measure(lockstep, comm, settings, schedule, [&](Bindings& memory) {
        bind_inputs(memory, q, k, v);
        memory.bind(Tensor::out, spoilt_out.view());
        memory.bind(Tensor::lse, rows_for_plan(spoilt_lse.view()));
      });
    }
    if (backward) run_backward(comm, attention, q, k, v, out, lse, events);
    lockstep.meet(comm);  // nobody leaves while others still compute
  }

  void bind_inputs(Bindings& memory, const HostTensor& q, const HostTensor& k, const HostTensor& v) const {
    memory.bind(Tensor::q, q.view());
    memory.bind(Tensor::k, k.view());
    memory.bind(Tensor::v, v.view());
    if (spec.sinks) throw Error(ErrorKind::internal, "attention with sinks is not measured lane by lane");
  }

  void run_backward(Communicator& comm, Attention& attention, const HostTensor& q, const HostTensor& k, const HostTensor& v,
                    const HostTensor& out, const HostTensor& lse, std::vector<TraceEvent>& events) {
    const Rank rank = comm.rank();
    const auto at = static_cast<std::size_t>(rank);
    const HostTensor dout = shard_of(tensors.dout, spec.partition, rank);
    HostTensor dq = like(q), dk = like(k), dv = like(v);
    const SteadyClock::time_point before = SteadyClock::now();
    const Schedule& schedule = attention.backward_schedule();
    backward_times.counts(rank).planning_s = std::chrono::duration<double>(SteadyClock::now() - before).count();
    backward_times.plan(rank, schedule);
    HostTensor own_dsinks = like(dsinks[at]);
    measure(lockstep, comm, settings, backward_times, [&] {
      attention.backward(dout.view(), q.view(), k.view(), v.view(), out.view(), lse.view(), dq.view(), dk.view(), dv.view(),
                         tensors.sinks.view(), own_dsinks.view());
    });
    copy_to(own_dsinks, dsinks[at]);
    if (settings.trace) traces.add(schedule, events, backward_times.runs(rank).back().begin);
    spec.partition.unshard(dq.view(), rank, result.dq.view());
    spec.partition.unshard(dk.view(), rank, result.dk.view());
    spec.partition.unshard(dv.view(), rank, result.dv.view());
    if (settings.lanes)  // the gradients are not read any more
      backward_lanes.measure(lockstep, comm, settings, schedule, [&](Bindings& memory) {
        bind_inputs(memory, q, k, v);
        memory.bind(Tensor::dout, dout.view());
        memory.bind(Tensor::out, out.view());
        memory.bind(Tensor::lse, rows_for_plan(lse.view()));
        memory.bind(Tensor::dq, dq.view());
        memory.bind(Tensor::dk, dk.view());
        memory.bind(Tensor::dv, dv.view());
      });
  }
};

}  // namespace

void describe_shapes(const AttentionTensors& tensors, AttentionSpec& spec) {
  const HostTensor &q = tensors.q, &k = tensors.k, &v = tensors.v;
  for (const auto& [name, tensor] : {std::pair{"q", &q}, std::pair{"k", &k}, std::pair{"v", &v}})
    if (tensor->geometry.num_axes != 4)
      throw Error(ErrorKind::argument, fmt::format("{}: shape is {}, want four axes [B, N, H, D]", name, to_text(tensor->shape())));
  for (int axis = 0; axis < 4; ++axis)
    if (q.extent(axis) < 1) throw Error(ErrorKind::argument, fmt::format("q: shape is {}, want extents of at least 1", to_text(q.shape())));
  require_shape("k", k, {q.extent(0), q.extent(1), k.extent(2), q.extent(3)}, "[B, N, Hkv, D]");
  require_shape("v", v, {q.extent(0), q.extent(1), k.extent(2), v.extent(3)}, "[B, N, Hkv, Dv]");
  require_dtype("k", k, q.dtype);
  require_dtype("v", v, q.dtype);
  spec.batch = q.extent(0);
  spec.q_heads = q.extent(2);
  spec.kv_heads = k.extent(2);
  spec.head_dim = q.extent(3);
  spec.v_head_dim = v.extent(3);
  spec.dtype = q.dtype;
  spec.sinks = tensors.sinks.present();
  if (spec.kv_heads < 1 || spec.q_heads % spec.kv_heads != 0)
    throw Error(ErrorKind::argument, fmt::format("k: it has {} heads, want a divisor of the {} heads of q", spec.kv_heads, spec.q_heads));
  if (spec.v_head_dim < 1) throw Error(ErrorKind::argument, fmt::format("v: shape is {}, want extents of at least 1", to_text(v.shape())));
  if (tensors.dout.present()) {
    require_shape("dout", tensors.dout, {spec.batch, q.extent(1), spec.q_heads, spec.v_head_dim}, "[B, N, Hq, Dv]");
    require_dtype("dout", tensors.dout, q.dtype);
  }
  if (spec.sinks) {
    require_shape("sinks", tensors.sinks, {spec.q_heads}, "[Hq]");
    if (tensors.sinks.dtype != f32)
      throw Error(ErrorKind::argument, fmt::format("sinks: dtype is {}, want f32", seqccl::name(tensors.sinks.dtype)));
  }
}

AttentionTensors random_attention(const AttentionSpec& spec, bool backward, std::uint64_t seed) {
  const std::int64_t B = spec.batch, N = spec.partition.num_tokens();
  AttentionTensors tensors;
  tensors.q = random_tensor(spec.dtype, {B, N, spec.q_heads, spec.head_dim}, seed);
  tensors.k = random_tensor(spec.dtype, {B, N, spec.num_kv_heads(), spec.head_dim}, seed + 1);
  tensors.v = random_tensor(spec.dtype, {B, N, spec.num_kv_heads(), spec.dim_v()}, seed + 2);
  if (backward) tensors.dout = random_tensor(spec.dtype, {B, N, spec.q_heads, spec.dim_v()}, seed + 3);
  return tensors;
}

AttentionResult run_attention(const AttentionTensors& tensors, const AttentionSpec& given, const RunSettings& settings, bool backward) {
  const AttentionSpec spec = fastest_method(given, settings.topology);  // once, not on every rank
  const std::int64_t N = spec.partition.num_tokens();
  AttentionResult result;
  result.chosen = spec;
  result.out = HostTensor(spec.dtype, {spec.batch, N, spec.q_heads, spec.dim_v()}, Sharing::shared);
  result.lse = HostTensor(f32, {spec.batch, spec.q_heads, N}, Sharing::shared);
  std::vector<HostTensor> dsinks(static_cast<std::size_t>(settings.num_ranks));
  if (backward) {
    result.dq = like(tensors.q, Sharing::shared);
    result.dk = like(tensors.k, Sharing::shared);
    result.dv = like(tensors.v, Sharing::shared);
    for (HostTensor& share : dsinks) share = like(tensors.sinks, Sharing::shared);
  }
  const Measurements forward_times(settings), backward_times(settings);
  const LaneMeasurements forward_lanes(settings), backward_lanes(settings);
  TraceBoard traces(settings);
  Lockstep lockstep(settings.num_ranks);
  on_ranks(settings, RankRun{tensors, spec, settings, backward, lockstep, result, forward_times, backward_times, dsinks, traces,
                             forward_lanes, backward_lanes});

  result.forward = forward_times.combined();
  if (backward) result.backward = backward_times.combined();
  if (backward) result.dsinks = sum_of(dsinks);  // every rank has its own tokens' share
  if (settings.lanes) result.forward_lanes = forward_lanes.combined();
  if (settings.lanes && backward) result.backward_lanes = backward_lanes.combined();
  result.trace = traces.steps();
  return result;
}

double attention_flops(const AttentionSpec& spec, bool backward) {
  const BoundMask mask(spec.mask, spec.partition.num_tokens(), spec.batch);
  const double pairs = mask.num_pairs() * static_cast<double>(spec.q_heads);
  const auto Dk = static_cast<double>(spec.head_dim), Dv = static_cast<double>(spec.dim_v());
  return backward ? 2 * pairs * (3 * Dk + 2 * Dv) : 2 * pairs * (Dk + Dv);
}

}  // namespace seqccl::command
