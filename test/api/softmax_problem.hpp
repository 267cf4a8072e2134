// softmax_problem.hpp - a whole softmax layer with its double reference, and the same layer run on ranks.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <mutex>

#include "api/place.hpp"
#include "seqccl/collectives.hpp"
#include "seqccl/cost.hpp"
#include "seqccl/seqccl.hpp"
#include "support/tensor.hpp"
#include "support/tolerance.hpp"
#include "support/watchdog.hpp"

namespace seqccl::test {

struct SoftmaxTensors {
  HostTensor out, lse, dq, dk, dv, dsinks;
};

/// Inputs of realistic magnitude (normal, sd 1), the exact results, and those of plain f32 loops.
struct SoftmaxProblem {
  AttentionSpec spec;
  HostTensor q, k, v, dout, sinks;
  SoftmaxTensors exact, plain;

  explicit SoftmaxProblem(const AttentionSpec& layer, std::uint64_t seed = 7) : spec(layer) {
    const std::int64_t B = spec.batch, N = spec.partition.num_tokens(), Hq = spec.q_heads, Hkv = spec.num_kv_heads(), D = spec.head_dim,
                       Dv = spec.dim_v();
    q = random_tensor(spec.dtype, {B, N, Hq, D}, seed);
    k = random_tensor(spec.dtype, {B, N, Hkv, D}, seed + 1);
    v = random_tensor(spec.dtype, {B, N, Hkv, Dv}, seed + 2);
    dout = random_tensor(spec.dtype, {B, N, Hq, Dv}, seed + 3);
    if (spec.sinks) sinks = random_tensor(f32, {Hq}, seed + 4);
    const std::vector<BandSlice> slices = spec.mask.bind(N, B);
    const reference::Attention problem{std::as_const(q).view(),
                                       std::as_const(k).view(),
                                       std::as_const(v).view(),
                                       spec.sinks ? std::as_const(sinks).view() : ConstTensorView{},
                                       slices,
                                       spec.scale_or_default(),
                                       spec.softcap};
    exact = empty(DType::f64, B, N);
    reference::attend(problem, exact.out.view(), exact.lse.view(), {}, 2);
    reference::attend_backward(problem, std::as_const(dout).view(), exact.dq.view(), exact.dk.view(), exact.dv.view(),
                               spec.sinks ? exact.dsinks.view() : TensorView{}, 2);
    plain = empty(spec.dtype, B, N);
    reference::attend_plain(problem, plain.out.view(), plain.lse.view(), 2);
    reference::attend_backward_plain(problem, std::as_const(dout).view(), plain.dq.view(), plain.dk.view(), plain.dv.view(), 2);
  }

  [[nodiscard]] SoftmaxTensors empty(DType dtype, std::int64_t B, std::int64_t T) const {
    const DType narrow = dtype == DType::f64 ? DType::f64 : f32;
    const std::int64_t Hq = spec.q_heads, Hkv = spec.num_kv_heads();
    return {HostTensor(dtype, {B, T, Hq, spec.dim_v()}),  HostTensor(narrow, {B, Hq, T}),
            HostTensor(dtype, {B, T, Hq, spec.head_dim}), HostTensor(dtype, {B, T, Hkv, spec.head_dim}),
            HostTensor(dtype, {B, T, Hkv, spec.dim_v()}), HostTensor(narrow, {Hq})};
  }

  struct Run {
    SoftmaxTensors whole;                       // gathered from all ranks
    std::vector<std::uint64_t> received_bytes;  // per rank, forward
    std::vector<std::uint64_t> received_backward;
  };

  /// Shards the inputs, runs forward and backward on thread ranks `repeats` times, gathers the results.
  [[nodiscard]] Run run(int repeats = 1, const MakePlace& make_place = on_host) const {
    const std::int64_t B = spec.batch, N = spec.partition.num_tokens();
    const int num_ranks = spec.partition.num_ranks();
    Run result;
    result.whole = empty(spec.dtype, B, N);
    std::vector<HostTensor> sink_shares(num_ranks);
    result.received_bytes.resize(num_ranks);
    result.received_backward.resize(num_ranks);
    std::mutex adding;
    Watchdog watchdog(std::chrono::seconds(120));
    run_ranks(num_ranks, [&](Communicator& comm) {
      const auto leash = watchdog.watch(comm.transport());
      const Rank rank = comm.rank();
      const std::int64_t T = spec.partition.tokens_on(rank);
      const auto shard = [&](const HostTensor& from) {
        HostTensor to(from.dtype, {B, T, from.geometry.shape[2], from.geometry.shape[3]});
        spec.partition.shard(from.view(), rank, to.view());
        return to;
      };
      const HostTensor my_q = shard(q), my_k = shard(k), my_v = shard(v), my_dout = shard(dout);
      SoftmaxTensors mine = empty(spec.dtype, B, T);
      const std::unique_ptr<Place> place = make_place(comm);
      const auto in = [&](const HostTensor& x) { return place->in(x.view()); };
      const auto out = [&](HostTensor& x) { return place->out(x.view()); };
      Attention attention(comm, spec);
      const auto total = [&] {
        std::uint64_t sum = 0;
        for (const std::uint64_t bytes : comm.received_bytes()) sum += bytes;
        return sum;
      };
      for (int repeat = 0; repeat < repeats; ++repeat) {
        const std::uint64_t before = total();
        const ConstTensorView my_sinks = spec.sinks ? in(sinks) : ConstTensorView{};
        attention.forward(in(my_q), in(my_k), in(my_v), out(mine.out), out(mine.lse), my_sinks);
        const std::uint64_t between = total();
        result.received_bytes[rank] = between - before;
        attention.backward(in(my_dout), in(my_q), in(my_k), in(my_v), in(mine.out), in(mine.lse), out(mine.dq), out(mine.dk), out(mine.dv),
                           my_sinks, spec.sinks ? out(mine.dsinks) : TensorView{});
        result.received_backward[rank] = total() - between;
      }
      place->finish();
      const std::lock_guard lock(adding);
      const auto unshard = [&](const HostTensor& from, HostTensor& to) { spec.partition.unshard(from.view(), rank, to.view()); };
      unshard(mine.out, result.whole.out);
      unshard(mine.dq, result.whole.dq);
      unshard(mine.dk, result.whole.dk);
      unshard(mine.dv, result.whole.dv);
      const std::int64_t Hq = spec.q_heads;
      for (std::int64_t row = 0; row < B * Hq; ++row)
        for (std::int64_t t = 0; t < T; ++t)
          result.whole.lse.set(row * N + spec.partition.global_position(rank, t), mine.lse.get(row * T + t));
      sink_shares[rank] = mine.dsinks;
    });
    for (std::int64_t h = 0; h < spec.q_heads; ++h) {
      double sum = 0;
      for (const HostTensor& share : sink_shares) sum += share.get(h);
      result.whole.dsinks.set(h, sum);
    }
    return result;
  }

  void expect_right(const Run& run) const {
    expect_accurate(run.whole.out, exact.out, plain.out, spec.dtype, false, "out");
    expect_accurate(run.whole.lse, exact.lse, plain.lse, f32, false, "lse");
    expect_accurate(run.whole.dq, exact.dq, plain.dq, spec.dtype, true, "dq");
    expect_accurate(run.whole.dk, exact.dk, plain.dk, spec.dtype, true, "dk");
    expect_accurate(run.whole.dv, exact.dv, plain.dv, spec.dtype, true, "dv");
    if (spec.sinks) {
      const Distance error = distance(run.whole.dsinks, exact.dsinks);
      EXPECT_LE(error.max, 20 * epsilon(spec.dtype) * std::max(1.0, error.reference_max)) << "dsinks";
    }
  }
};

}  // namespace seqccl::test
