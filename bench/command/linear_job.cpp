// linear_job.cpp - shards whole tensors over ranks, runs the scan forward and backward, joins the results.
// SPDX-License-Identifier: Apache-2.0
#include "command/linear_job.hpp"

#include <fmt/format.h>

#include <cmath>

namespace seqccl::command {
namespace {

void require(const char* name, const HostTensor& tensor, const std::vector<std::int64_t>& want, const char* letters, DType dtype) {
  if (tensor.shape() != want)
    throw Error(ErrorKind::argument, fmt::format("{}: shape is {}, want {} {}", name, to_text(tensor.shape()), letters, to_text(want)));
  if (tensor.dtype != dtype)
    throw Error(ErrorKind::argument, fmt::format("{}: dtype is {}, want {}", name, seqccl::name(tensor.dtype), seqccl::name(dtype)));
}

/// This rank's part of (B, N, ...); what has no token axis (a constant decay, a bonus) is the same on all ranks.
HostTensor shard_of(const HostTensor& whole, const Partition& partition, Rank rank) {
  if (whole.geometry.num_axes < 3) return whole;
  std::vector<std::int64_t> shape = whole.shape();
  shape[1] = partition.tokens_on(rank);
  HostTensor part(whole.dtype, shape);
  partition.shard(whole.view(), rank, part.view());
  return part;
}

struct RankRun {
  const LinearTensors& tensors;
  const LinearSpec& spec;
  const RunSettings& settings;
  bool backward;
  Lockstep& lockstep;
  LinearResult& result;
  const Measurements &forward_times, &backward_times;
  std::vector<HostTensor>&decay_shares, &bonus_shares;  // every rank's share of a constant dlog_decay, and of dbonus

  void operator()(Communicator& comm) {
    const Rank rank = comm.rank();
    const auto at = static_cast<std::size_t>(rank);
    const Partition& partition = spec.partition;
    const std::int64_t B = spec.batch, T = partition.tokens_on(rank), H = spec.heads, Dk = spec.head_dim, Dv = spec.dim_v();
    const auto R = static_cast<std::int64_t>(partition.segments(rank).size());
    const HostTensor q = shard_of(tensors.q, partition, rank), k = shard_of(tensors.k, partition, rank),
                     v = shard_of(tensors.v, partition, rank);
    const HostTensor log_decay = shard_of(tensors.log_decay, partition, rank), beta = shard_of(tensors.beta, partition, rank);
    HostTensor out(spec.dtype, {B, T, H, Dv}), entering(f32, {B, R, H, Dk, Dv}), state_out;
    if (spec.state_out) state_out = HostTensor(f32, {B, H, Dk, Dv});
    const bool holds_first = partition.place_of(0).rank == rank, holds_last = partition.place_of(partition.num_tokens() - 1).rank == rank;

    const SteadyClock::time_point before = SteadyClock::now();
    LinearAttention attention(comm, spec);
    forward_times.plan(rank, attention.forward_schedule());
    forward_times.counts(rank).planning_s = std::chrono::duration<double>(SteadyClock::now() - before).count();
    const LinearInputs inputs{q.view(), k.view(), v.view(), log_decay.view(), tensors.state_in.view(), beta.view(), tensors.bonus.view()};
    const LinearOutputs outputs{out.view(), spec.causal ? entering.view() : TensorView{}, state_out.view()};
    measure(lockstep, comm, settings, forward_times, [&] { attention.forward(inputs, outputs); });
    partition.unshard(out.view(), rank, result.out.view());
    if (holds_last) copy_to(state_out, result.state_out);

    if (backward) {
      const HostTensor dout = shard_of(tensors.dout, partition, rank);
      HostTensor dq = like(q), dk = like(k), dv = like(v), dlog_decay = like(log_decay), dstate_in = like(tensors.state_in),
                 dbeta = like(beta), dbonus = like(tensors.bonus);
      const LinearOutputGradients given{dout.view(), spec.causal ? std::as_const(entering).view() : ConstTensorView{},
                                        tensors.dstate_out.view()};
      const LinearInputGradients wanted{dq.view(), dk.view(), dv.view(), dlog_decay.view(), dstate_in.view(), dbeta.view(), dbonus.view()};
      backward_times.plan(rank, attention.backward_schedule());
      measure(lockstep, comm, settings, backward_times, [&] { attention.backward(inputs, given, wanted); });
      partition.unshard(dq.view(), rank, result.dq.view());
      partition.unshard(dk.view(), rank, result.dk.view());
      partition.unshard(dv.view(), rank, result.dv.view());
      if (spec.kind == LinearKind::constant_decay)
        copy_to(dlog_decay, decay_shares[at]);
      else if (dlog_decay.present())
        partition.unshard(dlog_decay.view(), rank, result.dlog_decay.view());
      if (dbeta.present()) partition.unshard(dbeta.view(), rank, result.dbeta.view());
      copy_to(dbonus, bonus_shares[at]);
      if (holds_first) copy_to(dstate_in, result.dstate_in);
    }
    lockstep.meet(comm);  // nobody leaves while others still compute
  }
};

/// (B, N, H, Dk) with every key of length 1.
void normalize(HostTensor& keys) {
  const std::int64_t dim = keys.extent(3);
  for (std::int64_t row = 0; row < keys.size(); row += dim) {
    double square = 0;
    for (std::int64_t d = 0; d < dim; ++d) square += keys.get(row + d) * keys.get(row + d);
    for (std::int64_t d = 0; d < dim && square > 0; ++d) keys.set(row + d, keys.get(row + d) / std::sqrt(square));
  }
}

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

/// What log_decay of a kind looks like, with the letters of it. No shape: the kind has none.
struct DecayShape {
  std::vector<std::int64_t> shape;
  const char* letters;
};
DecayShape decay_shape(const LinearSpec& spec, std::int64_t num_tokens) {
  if (spec.kind == LinearKind::constant_decay) return {{spec.heads}, "[H]"};
  if (decay_size(spec.kind, spec.head_dim) == 0) return {{}, ""};
  if (spec.kind == LinearKind::scalar_gate || spec.kind == LinearKind::gated_delta)
    return {{spec.batch, num_tokens, spec.heads}, "[B, N, H]"};
  return {{spec.batch, num_tokens, spec.heads, spec.head_dim}, "[B, N, H, Dk]"};
}

/// A tensor that only some kinds have: there, and of the right shape, or not there.
void require_of_kind(const char* name, const HostTensor& tensor, LinearKind kind, const DecayShape& want) {
  if (!want.shape.empty()) {
    if (!tensor.present())
      throw Error(ErrorKind::argument, fmt::format("{}: it is not there, but --kind {} needs it: {} {}", name, seqccl::name(kind),
                                                   want.letters, to_text(want.shape)));
    require(name, tensor, want.shape, fmt::format("{} for --kind {}", want.letters, seqccl::name(kind)).c_str(), f32);
  } else if (tensor.present()) {
    throw Error(ErrorKind::argument,
                fmt::format("{}: --kind {} has none; leave the tensor out or choose the kind that fits", name, seqccl::name(kind)));
  }
}

}  // namespace

LinearKind kind_of(const LinearTensors& tensors) {
  const int num_axes = tensors.log_decay.geometry.num_axes;
  if (tensors.bonus.present() && num_axes == 4) return LinearKind::rwkv6;
  if (tensors.beta.present()) {
    if (num_axes == 0) return LinearKind::delta;
    if (num_axes == 3) return LinearKind::gated_delta;
    if (num_axes == 4) return LinearKind::kda;
  } else {
    if (num_axes == 0) return LinearKind::basic;
    if (num_axes == 1) return LinearKind::constant_decay;
    if (num_axes == 3) return LinearKind::scalar_gate;
    if (num_axes == 4) return LinearKind::vector_gate;
  }
  throw Error(ErrorKind::argument, fmt::format("log_decay: shape is {}, want {}[B, N, H] or [B, N, H, Dk]",
                                               to_text(tensors.log_decay.shape()), tensors.beta.present() ? "" : "[H], "));
}

void describe_shapes(const LinearTensors& tensors, LinearSpec& spec) {
  const HostTensor &q = tensors.q, &k = tensors.k, &v = tensors.v;
  for (const auto& [name, tensor] : {std::pair{"q", &q}, std::pair{"v", &v}})
    if (tensor->geometry.num_axes != 4 || tensor->size() == 0)
      throw Error(ErrorKind::argument,
                  fmt::format("{}: shape is {}, want four axes [B, N, H, D] of at least 1", name, to_text(tensor->shape())));
  const std::int64_t B = q.extent(0), N = q.extent(1), H = q.extent(2), Dk = q.extent(3), Dv = v.extent(3);
  require("k", k, {B, N, H, Dk}, "[B, N, H, Dk]", q.dtype);
  require("v", v, {B, N, H, Dv}, "[B, N, H, Dv]", q.dtype);
  if (tensors.dout.present()) require("dout", tensors.dout, {B, N, H, Dv}, "[B, N, H, Dv]", q.dtype);
  if (tensors.state_in.present()) require("state_in", tensors.state_in, {B, H, Dk, Dv}, "[B, H, Dk, Dv]", f32);
  if (tensors.dstate_out.present()) require("dstate_out", tensors.dstate_out, {B, H, Dk, Dv}, "[B, H, Dk, Dv]", f32);
  spec.batch = B;
  spec.heads = H;
  spec.head_dim = Dk;
  spec.v_head_dim = Dv;
  spec.dtype = q.dtype;
  spec.state_in = tensors.state_in.present();
  spec.state_out = true;
  const HostTensor& log_decay = tensors.log_decay;
  require_of_kind("log_decay", log_decay, spec.kind, decay_shape(spec, N));
  require_of_kind("beta", tensors.beta, spec.kind, is_delta(spec.kind) ? DecayShape{{B, N, H}, "[B, N, H]"} : DecayShape{{}, ""});
  require_of_kind("bonus", tensors.bonus, spec.kind, spec.kind == LinearKind::rwkv6 ? DecayShape{{H, Dk}, "[H, Dk]"} : DecayShape{{}, ""});
  for (std::int64_t i = 0; i < log_decay.size(); ++i)
    if (log_decay.get(i) > 0)
      throw Error(ErrorKind::argument, fmt::format("log_decay: element {} is {}, want natural logarithms <= 0", i, log_decay.get(i)));
}

LinearTensors random_linear(const LinearSpec& spec, bool backward, std::uint64_t seed) {
  const std::int64_t B = spec.batch, N = spec.partition.num_tokens(), H = spec.heads, Dk = spec.head_dim, Dv = spec.dim_v();
  LinearTensors tensors;
  tensors.q = random_tensor(spec.dtype, {B, N, H, Dk}, seed);
  tensors.k = random_tensor(spec.dtype, {B, N, H, Dk}, seed + 1, 1 / std::sqrt(static_cast<double>(Dk)));
  tensors.v = random_tensor(spec.dtype, {B, N, H, Dv}, seed + 2);
  if (const DecayShape decay = decay_shape(spec, N); !decay.shape.empty()) tensors.log_decay = random_tensor(f32, decay.shape, seed + 3);
  for (std::int64_t i = 0; i < tensors.log_decay.size(); ++i) {
    // RetNet's ladder of decays for the constant kind; gates of sigmoid(x + 3), mostly near 1, for the others.
    const double decay = spec.kind == LinearKind::constant_decay ? std::log1p(-std::exp2(-5 - static_cast<double>(i % 8)))
                                                                 : std::log(sigmoid(tensors.log_decay.get(i) + 3));
    tensors.log_decay.set(i, decay);
  }
  if (is_delta(spec.kind)) {
    normalize(tensors.k);
    tensors.beta = random_tensor(f32, {B, N, H}, seed + 5);
    for (std::int64_t i = 0; i < tensors.beta.size(); ++i) tensors.beta.set(i, sigmoid(tensors.beta.get(i)));
  }
  if (spec.kind == LinearKind::rwkv6) tensors.bonus = random_tensor(f32, {H, Dk}, seed + 6, 0.5);
  if (backward) tensors.dout = random_tensor(spec.dtype, {B, N, H, Dv}, seed + 4);
  return tensors;
}

LinearResult run_linear(const LinearTensors& given, const LinearSpec& spec, const RunSettings& settings, bool backward) {
  const std::int64_t N = spec.partition.num_tokens();
  const auto P = static_cast<std::size_t>(settings.num_ranks);
  LinearTensors tensors = given;
  if (backward && spec.state_out && !tensors.dstate_out.present())  // state_out had no consumer: its gradient is zero
    tensors.dstate_out = HostTensor(f32, {spec.batch, spec.heads, spec.head_dim, spec.dim_v()});
  LinearResult result;
  result.out = HostTensor(spec.dtype, {spec.batch, N, spec.heads, spec.dim_v()}, Sharing::shared);
  if (spec.state_out) result.state_out = HostTensor(f32, {spec.batch, spec.heads, spec.head_dim, spec.dim_v()}, Sharing::shared);
  const bool constant_decay = spec.kind == LinearKind::constant_decay;
  std::vector<HostTensor> decay_shares(P), bonus_shares(P);
  if (backward) {
    result.dq = like(tensors.q, Sharing::shared);
    result.dk = like(tensors.k, Sharing::shared);
    result.dv = like(tensors.v, Sharing::shared);
    result.dlog_decay = like(tensors.log_decay, Sharing::shared);
    result.dbeta = like(tensors.beta, Sharing::shared);
    result.dstate_in = like(tensors.state_in, Sharing::shared);
    for (HostTensor& share : decay_shares)
      if (constant_decay) share = like(tensors.log_decay, Sharing::shared);
    for (HostTensor& share : bonus_shares) share = like(tensors.bonus, Sharing::shared);
  }
  const Measurements forward_times(settings), backward_times(settings);
  Lockstep lockstep(settings.num_ranks);
  on_ranks(settings,
           RankRun{tensors, spec, settings, backward, lockstep, result, forward_times, backward_times, decay_shares, bonus_shares});

  result.forward = forward_times.combined();
  if (backward) result.backward = backward_times.combined();
  if (backward && constant_decay) result.dlog_decay = sum_of(decay_shares);
  if (backward) result.dbonus = sum_of(bonus_shares);
  return result;
}

}  // namespace seqccl::command
