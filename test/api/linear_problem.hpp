// linear_problem.hpp - a linear attention layer: whole by the reference, and over thread ranks by LinearAttention.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <mutex>
#include <vector>

#include "api/place.hpp"
#include "seqccl/collectives.hpp"
#include "seqccl/cost.hpp"
#include "seqccl/seqccl.hpp"
#include "support/tensor.hpp"
#include "support/tolerance.hpp"
#include "support/watchdog.hpp"

namespace seqccl::test {

/// How strongly states decay.
enum class DecayOf { usual, none, all, mixed };  // log decays about -0.2; 0; -infinity; -60 now and then, else next to nothing

struct LinearTensors {
  HostTensor out, state_out, dq, dk, dv, dlog_decay, dstate_in, dbeta, dbonus;
};

/// The view, or none.
template <class View>
View only(bool wanted, const View& view) {
  return wanted ? view : View{};
}

struct LinearProblem {
  LinearSpec spec;
  HostTensor q, k, v, log_decay, beta, bonus, dout, state_in, dstate_out;
  LinearTensors exact, plain;

  [[nodiscard]] bool is_constant() const { return spec.kind == LinearKind::constant_decay; }
  [[nodiscard]] bool has_decay() const { return is_constant() || decay_size(spec.kind, spec.head_dim) != 0; }
  [[nodiscard]] bool has_beta() const { return is_delta(spec.kind); }
  [[nodiscard]] bool has_bonus() const { return spec.kind == LinearKind::rwkv6; }

  [[nodiscard]] HostTensor decay_tensor(DType dtype, std::int64_t T) const {
    if (is_constant()) return {dtype, {spec.heads}};
    if (!has_decay()) return {};
    if (spec.kind == LinearKind::scalar_gate || spec.kind == LinearKind::gated_delta) return {dtype, {spec.batch, T, spec.heads}};
    return {dtype, {spec.batch, T, spec.heads, spec.head_dim}};
  }
  [[nodiscard]] HostTensor beta_tensor(DType dtype, std::int64_t T) const {
    return has_beta() ? HostTensor(dtype, {spec.batch, T, spec.heads}) : HostTensor();
  }
  [[nodiscard]] HostTensor bonus_tensor(DType dtype) const {
    return has_bonus() ? HostTensor(dtype, {spec.heads, spec.head_dim}) : HostTensor();
  }
  [[nodiscard]] LinearTensors empty(DType dtype, std::int64_t T) const {
    const std::int64_t B = spec.batch, H = spec.heads, D = spec.head_dim, Dv = spec.dim_v();
    const DType wide = dtype == DType::f64 ? DType::f64 : f32;
    return {HostTensor(dtype, {B, T, H, Dv}),
            HostTensor(wide, {B, H, D, Dv}),
            HostTensor(dtype, {B, T, H, D}),
            HostTensor(dtype, {B, T, H, D}),
            HostTensor(dtype, {B, T, H, Dv}),
            decay_tensor(wide, T),
            HostTensor(wide, {B, H, D, Dv}),
            beta_tensor(wide, T),
            bonus_tensor(wide)};
  }

  explicit LinearProblem(const LinearSpec& layer, DecayOf decay = DecayOf::usual) : spec(layer) {
    const std::int64_t B = spec.batch, N = spec.partition.num_tokens(), H = spec.heads, D = spec.head_dim, Dv = spec.dim_v();
    q = random_tensor(spec.dtype, {B, N, H, D}, 1);
    k = random_tensor(spec.dtype, {B, N, H, D}, 2, 0.3);
    v = random_tensor(spec.dtype, {B, N, H, Dv}, 3);
    dout = random_tensor(spec.dtype, {B, N, H, Dv}, 4);
    state_in = random_tensor(f32, {B, H, D, Dv}, 5);
    dstate_out = random_tensor(f32, {B, H, D, Dv}, 6);
    fill_decay(decay);
    if (has_beta()) {  // |beta k k^T| < 2: a longer k would let states grow without bound
      beta = beta_tensor(f32, N);
      const HostTensor noise = random_tensor(f32, {std::max<std::int64_t>(beta.size(), 1)}, 8);
      for (std::int64_t i = 0; i < beta.size(); ++i) beta.set(i, 1.8 / (1 + std::exp(-noise.get(i))));
      for (std::int64_t row = 0; row < B * N * H; ++row) {
        double length = 0;
        for (std::int64_t d = 0; d < D; ++d) length += k.get(row * D + d) * k.get(row * D + d);
        for (std::int64_t d = 0; d < D; ++d) k.set(row * D + d, k.get(row * D + d) / std::sqrt(length));
      }
    }
    if (has_bonus()) bonus = random_tensor(f32, {H, D}, 9);
    solve();
  }

  struct Run {
    LinearTensors whole;
    std::vector<std::uint64_t> received_forward, received_backward;
  };
  [[nodiscard]] Run run(int repeats = 1, const MakePlace& make_place = on_host) const {
    const std::int64_t N = spec.partition.num_tokens();
    const int num_ranks = spec.partition.num_ranks();
    Run result{empty(spec.dtype, N), std::vector<std::uint64_t>(num_ranks), std::vector<std::uint64_t>(num_ranks)};
    std::vector<HostTensor> decay_shares(num_ranks), bonus_shares(num_ranks);
    std::mutex adding;
    Watchdog watchdog(std::chrono::seconds(120));
    run_ranks(num_ranks, [&](Communicator& comm) {
      const auto leash = watchdog.watch(comm.transport());
      const Rank rank = comm.rank();
      const std::int64_t T = spec.partition.tokens_on(rank);
      const HostTensor my_q = shard(q, rank), my_k = shard(k, rank), my_v = shard(v, rank), my_dout = shard(dout, rank);
      const HostTensor my_decay = is_constant() ? log_decay : shard(log_decay, rank), my_beta = shard(beta, rank);
      LinearTensors mine = empty(spec.dtype, T);
      HostTensor entering = entering_states(rank);
      const std::unique_ptr<Place> place = make_place(comm);
      const auto in = [&](const HostTensor& x) { return place->in(x.view()); };
      const auto out = [&](HostTensor& x) { return place->out(x.view()); };
      LinearAttention attention(comm, spec);
      const LinearInputs inputs{in(my_q), in(my_k), in(my_v), in(my_decay), only(spec.state_in, in(state_in)), in(my_beta), in(bonus)};
      const auto total = [&] {
        std::uint64_t sum = 0;
        for (const std::uint64_t bytes : comm.received_bytes()) sum += bytes;
        return sum;
      };
      for (int repeat = 0; repeat < repeats; ++repeat) {
        const std::uint64_t before = total();
        attention.forward(inputs, {out(mine.out), spec.causal ? out(entering) : TensorView{}, only(spec.state_out, out(mine.state_out))});
        const std::uint64_t between = total();
        attention.backward(inputs, {in(my_dout), only(spec.causal, in(entering)), only(spec.state_out, in(dstate_out))},
                           {out(mine.dq), out(mine.dk), out(mine.dv), out(mine.dlog_decay), only(spec.state_in, out(mine.dstate_in)),
                            out(mine.dbeta), out(mine.dbonus)});
        result.received_forward[rank] = between - before;
        result.received_backward[rank] = total() - between;
      }
      place->finish();
      const std::lock_guard lock(adding);
      const auto unshard = [&](const HostTensor& from, HostTensor& to) {
        if (from.geometry.num_axes != 0) spec.partition.unshard(from.view(), rank, to.view());
      };
      unshard(mine.out, result.whole.out);
      unshard(mine.dq, result.whole.dq);
      unshard(mine.dk, result.whole.dk);
      unshard(mine.dv, result.whole.dv);
      unshard(mine.dbeta, result.whole.dbeta);
      if (!is_constant()) unshard(mine.dlog_decay, result.whole.dlog_decay);
      decay_shares[rank] = mine.dlog_decay;
      bonus_shares[rank] = mine.dbonus;
      if (N == 0) return;
      if (spec.partition.place_of(N - 1).rank == rank) result.whole.state_out = mine.state_out;
      if (spec.partition.place_of(0).rank == rank) result.whole.dstate_in = mine.dstate_in;
    });
    if (is_constant()) add_up(decay_shares, result.whole.dlog_decay);
    if (has_bonus()) add_up(bonus_shares, result.whole.dbonus);
    return result;
  }

  void expect_right(const Run& run, double leniency = 1) const {
    expect_accurate(run.whole.out, exact.out, plain.out, spec.dtype, false, "out", leniency);
    if (spec.state_out) expect_accurate(run.whole.state_out, exact.state_out, plain.state_out, f32, true, "state_out", leniency);
    expect_accurate(run.whole.dq, exact.dq, plain.dq, spec.dtype, true, "dq", leniency);
    expect_accurate(run.whole.dk, exact.dk, plain.dk, spec.dtype, true, "dk", leniency);
    expect_accurate(run.whole.dv, exact.dv, plain.dv, spec.dtype, true, "dv", leniency);
    if (spec.state_in) expect_accurate(run.whole.dstate_in, exact.dstate_in, plain.dstate_in, f32, true, "dstate_in", leniency);
    if (has_beta()) expect_accurate(run.whole.dbeta, exact.dbeta, plain.dbeta, f32, true, "dbeta", leniency);
    if (has_bonus()) expect_accurate(run.whole.dbonus, exact.dbonus, plain.dbonus, f32, true, "dbonus", leniency);
    if (has_decay()) {
      // A running sum of terms that cancel: absolute error of about eps times the largest term.
      const Distance error = distance(run.whole.dlog_decay, exact.dlog_decay);
      const double terms = is_constant() ? 40 : 1;
      EXPECT_LE(error.max, 64 * terms * epsilon(f32) * std::max(1.0, error.reference_max) +
                               2 * epsilon(spec.dtype) * (spec.dtype == f32 ? 0 : error.reference_max))
          << "dlog_decay";
    }
  }
  /// What the transport counted is what the plans say.
  void expect_planned_bytes(const Run& run) const {
    for (Rank rank = 0; rank < spec.partition.num_ranks(); ++rank) {
      EXPECT_EQ(run.received_forward[rank], cost_of(collectives::linear_forward(spec, rank)).total_received_bytes);
      EXPECT_EQ(run.received_backward[rank], cost_of(collectives::linear_backward(spec, rank)).total_received_bytes);
    }
  }

  [[nodiscard]] HostTensor shard(const HostTensor& from, Rank rank) const {
    if (from.geometry.num_axes == 0) return {};
    const auto& shape = from.geometry.shape;
    const std::int64_t T = spec.partition.tokens_on(rank);
    HostTensor to = from.geometry.num_axes > 3 ? HostTensor(from.dtype, {shape[0], T, shape[2], shape[3]})
                                               : HostTensor(from.dtype, {shape[0], T, shape[2]});
    spec.partition.shard(from.view(), rank, to.view());
    return to;
  }
  [[nodiscard]] HostTensor entering_states(Rank rank) const {
    const auto segments = static_cast<std::int64_t>(spec.partition.segments(rank).size());
    return {f32, {spec.batch, segments, spec.heads, spec.head_dim, spec.dim_v()}};
  }

 private:
  void fill_decay(DecayOf decay) {
    log_decay = decay_tensor(f32, spec.partition.num_tokens());
    const HostTensor noise = random_tensor(f32, {std::max<std::int64_t>(log_decay.size(), 1)}, 7);
    for (std::int64_t i = 0; has_decay() && i < log_decay.size(); ++i) {
      const double usual = -0.2 * std::abs(noise.get(i));
      if (decay == DecayOf::usual) log_decay.set(i, usual);
      if (decay == DecayOf::none) log_decay.set(i, 0);
      if (decay == DecayOf::all) log_decay.set(i, i % 37 == 0 ? -std::numeric_limits<double>::infinity() : usual);
      if (decay == DecayOf::mixed) log_decay.set(i, i % 5 == 0 ? -60 : -1e-3);
    }
  }

  void solve() {
    const reference::Linear problem{.q = q.view(),
                                    .k = k.view(),
                                    .v = v.view(),
                                    .log_decay = log_decay.view(),
                                    .state_in = spec.state_in ? std::as_const(state_in).view() : ConstTensorView{},
                                    .scale = spec.scale,
                                    .beta = beta.view(),
                                    .bonus = bonus.view(),
                                    .documents = spec.documents,
                                    .causal = spec.causal};
    const ConstTensorView leaving = spec.state_out ? std::as_const(dstate_out).view() : ConstTensorView{};
    for (LinearTensors* results : {&exact, &plain}) {
      const bool is_exact = results == &exact;
      *results = empty(is_exact ? DType::f64 : spec.dtype, spec.partition.num_tokens());
      const reference::LinearGradients gradients{results->dq.view(),
                                                 results->dk.view(),
                                                 results->dv.view(),
                                                 results->dlog_decay.view(),
                                                 spec.state_in ? results->dstate_in.view() : TensorView{},
                                                 results->dbeta.view(),
                                                 results->dbonus.view()};
      const TensorView state_out = spec.state_out ? results->state_out.view() : TensorView{};
      if (is_exact) {
        reference::linear(problem, results->out.view(), state_out, 2);
        reference::linear_backward(problem, std::as_const(dout).view(), leaving, gradients, 2);
      } else {
        reference::linear_plain(problem, results->out.view(), state_out, 2);
        reference::linear_backward_plain(problem, std::as_const(dout).view(), leaving, gradients, 2);
      }
    }
  }

  static void add_up(const std::vector<HostTensor>& shares, HostTensor& sum) {
    for (std::int64_t i = 0; i < sum.size(); ++i) {
      double all = 0;
      for (const HostTensor& share : shares) all += share.get(i);
      sum.set(i, all);
    }
  }
};

}  // namespace seqccl::test
