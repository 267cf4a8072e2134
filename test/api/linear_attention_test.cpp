// linear_attention_test.cpp - linear attention on thread ranks against the token by token recurrence in double.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/linear_attention.hpp"

#include <gtest/gtest.h>

#include <mutex>

#include "collectives/plans.hpp"
#include "seqccl/cost.hpp"
#include "seqccl/seqccl.hpp"
#include "support/pairwise.hpp"
#include "support/tensor.hpp"
#include "support/tolerance.hpp"
#include "support/watchdog.hpp"

namespace seqccl::test {
namespace {

struct LinearTensors {
  HostTensor out, state_out, dq, dk, dv, dlog_decay, dstate_in;
};

struct LinearProblem {
  LinearSpec spec;
  HostTensor q, k, v, log_decay, dout, state_in, dstate_out;
  LinearTensors exact, plain;

  [[nodiscard]] HostTensor decay_tensor(DType dtype, std::int64_t B, std::int64_t T) const {
    switch (spec.kind) {
      case LinearKind::constant_decay:
        return {dtype, {spec.heads}};
      case LinearKind::scalar_gate:
        return {dtype, {B, T, spec.heads}};
      case LinearKind::vector_gate:
        return {dtype, {B, T, spec.heads, spec.head_dim}};
      default:
        return {};
    }
  }
  [[nodiscard]] LinearTensors empty(DType dtype, std::int64_t T) const {
    const std::int64_t B = spec.batch, H = spec.heads, D = spec.head_dim, Dv = spec.dim_v();
    const DType wide = dtype == DType::f64 ? DType::f64 : f32;
    return {HostTensor(dtype, {B, T, H, Dv}), HostTensor(wide, {B, H, D, Dv}),  HostTensor(dtype, {B, T, H, D}),
            HostTensor(dtype, {B, T, H, D}),  HostTensor(dtype, {B, T, H, Dv}), decay_tensor(wide, B, T),
            HostTensor(wide, {B, H, D, Dv})};
  }

  explicit LinearProblem(const LinearSpec& layer, double kill_every = 0) : spec(layer) {
    const std::int64_t B = spec.batch, N = spec.partition.num_tokens(), H = spec.heads, D = spec.head_dim, Dv = spec.dim_v();
    q = random_tensor(spec.dtype, {B, N, H, D}, 1);
    k = random_tensor(spec.dtype, {B, N, H, D}, 2, 0.3);
    v = random_tensor(spec.dtype, {B, N, H, Dv}, 3);
    dout = random_tensor(spec.dtype, {B, N, H, Dv}, 4);
    state_in = random_tensor(f32, {B, H, D, Dv}, 5);
    dstate_out = random_tensor(f32, {B, H, D, Dv}, 6);
    log_decay = decay_tensor(f32, B, N);
    const HostTensor noise = random_tensor(f32, {std::max<std::int64_t>(log_decay.size(), 1)}, 7);
    for (std::int64_t i = 0; i < (spec.kind == LinearKind::basic ? 0 : log_decay.size()); ++i)
      log_decay.set(i, -0.2 * std::abs(noise.get(i)));
    if (kill_every > 0)
      for (std::int64_t i = 0; i < log_decay.size(); i += static_cast<std::int64_t>(kill_every))
        log_decay.set(i, -std::numeric_limits<double>::infinity());

    const bool decays = spec.kind != LinearKind::basic;
    const auto view = [](const HostTensor& tensor) { return tensor.view(); };
    const reference::Linear problem{
        view(q),   view(k), view(v), decays ? view(log_decay) : ConstTensorView{}, spec.state_in ? view(state_in) : ConstTensorView{},
        spec.scale};
    for (LinearTensors* results : {&exact, &plain}) {
      const bool is_exact = results == &exact;
      *results = empty(is_exact ? DType::f64 : spec.dtype, N);
      const reference::LinearGradients gradients{results->dq.view(), results->dk.view(), results->dv.view(),
                                                 decays ? results->dlog_decay.view() : TensorView{},
                                                 spec.state_in ? results->dstate_in.view() : TensorView{}};
      const ConstTensorView leaving = spec.state_out ? view(dstate_out) : ConstTensorView{};
      if (is_exact) {
        reference::linear(problem, results->out.view(), results->state_out.view(), 2);
        reference::linear_backward(problem, view(dout), leaving, gradients, 2);
      } else {
        reference::linear_plain(problem, results->out.view(), results->state_out.view(), 2);
        reference::linear_backward_plain(problem, view(dout), leaving, gradients, 2);
      }
    }
  }

  struct Run {
    LinearTensors whole;
    std::vector<std::uint64_t> received_forward, received_backward;
  };
  [[nodiscard]] Run run(int repeats = 1) const {
    const std::int64_t B = spec.batch, N = spec.partition.num_tokens();
    const int num_ranks = spec.partition.num_ranks();
    Run result{empty(spec.dtype, N), std::vector<std::uint64_t>(num_ranks), std::vector<std::uint64_t>(num_ranks)};
    std::vector<HostTensor> shares(num_ranks);  // of the gradient of a constant decay
    std::mutex adding;
    Watchdog watchdog(std::chrono::seconds(120));
    run_ranks(num_ranks, [&](Communicator& comm) {
      const auto leash = watchdog.watch(comm.transport());
      const Rank rank = comm.rank();
      const std::int64_t T = spec.partition.tokens_on(rank), runs = static_cast<std::int64_t>(spec.partition.segments(rank).size());
      const auto shard = [&](const HostTensor& from) {
        HostTensor to(from.dtype, {B, T, from.geometry.shape[2], from.geometry.num_axes > 3 ? from.geometry.shape[3] : 1});
        to.geometry.num_axes = from.geometry.num_axes;
        spec.partition.shard(from.view(), rank, to.view());
        return to;
      };
      const HostTensor my_q = shard(q), my_k = shard(k), my_v = shard(v), my_dout = shard(dout);
      HostTensor my_decay = log_decay;
      if (spec.kind == LinearKind::scalar_gate || spec.kind == LinearKind::vector_gate) {
        my_decay = decay_tensor(f32, B, T);
        spec.partition.shard(log_decay.view(), rank, my_decay.view());
      }
      LinearTensors mine = empty(spec.dtype, T);
      HostTensor entering(f32, {B, runs, spec.heads, spec.head_dim, spec.dim_v()});
      const auto view = [](const HostTensor& tensor) { return tensor.view(); };
      LinearAttention attention(comm, spec);
      const LinearInputs inputs{view(my_q), view(my_k), view(my_v), spec.kind == LinearKind::basic ? ConstTensorView{} : view(my_decay),
                                view(state_in)};
      const auto total = [&] {
        std::uint64_t sum = 0;
        for (const std::uint64_t bytes : comm.received_bytes()) sum += bytes;
        return sum;
      };
      for (int repeat = 0; repeat < repeats; ++repeat) {
        const std::uint64_t before = total();
        attention.forward(inputs, {mine.out.view(), entering.view(), mine.state_out.view()});
        const std::uint64_t between = total();
        attention.backward(inputs, {view(my_dout), view(entering), view(dstate_out)},
                           {mine.dq.view(), mine.dk.view(), mine.dv.view(),
                            spec.kind == LinearKind::basic ? TensorView{} : mine.dlog_decay.view(), mine.dstate_in.view()});
        result.received_forward[rank] = between - before;
        result.received_backward[rank] = total() - between;
      }
      const std::lock_guard lock(adding);
      const auto unshard = [&](const HostTensor& from, HostTensor& to) { spec.partition.unshard(from.view(), rank, to.view()); };
      unshard(mine.out, result.whole.out);
      unshard(mine.dq, result.whole.dq);
      unshard(mine.dk, result.whole.dk);
      unshard(mine.dv, result.whole.dv);
      if (spec.kind == LinearKind::constant_decay)
        shares[rank] = mine.dlog_decay;
      else if (spec.kind != LinearKind::basic)
        unshard(mine.dlog_decay, result.whole.dlog_decay);
      if (N == 0) return;
      if (spec.partition.place_of(N - 1).rank == rank) result.whole.state_out = mine.state_out;
      if (spec.partition.place_of(0).rank == rank) result.whole.dstate_in = mine.dstate_in;
    });
    if (spec.kind == LinearKind::constant_decay)
      for (std::int64_t h = 0; h < spec.heads; ++h) {
        double sum = 0;
        for (const HostTensor& share : shares) sum += share.get(h);
        result.whole.dlog_decay.set(h, sum);
      }
    return result;
  }

  void expect_right(const Run& run) const {
    expect_accurate(run.whole.out, exact.out, plain.out, spec.dtype, false, "out");
    if (spec.state_out) expect_accurate(run.whole.state_out, exact.state_out, plain.state_out, f32, true, "state_out");
    expect_accurate(run.whole.dq, exact.dq, plain.dq, spec.dtype, true, "dq");
    expect_accurate(run.whole.dk, exact.dk, plain.dk, spec.dtype, true, "dk");
    expect_accurate(run.whole.dv, exact.dv, plain.dv, spec.dtype, true, "dv");
    if (spec.state_in) expect_accurate(run.whole.dstate_in, exact.dstate_in, plain.dstate_in, f32, true, "dstate_in");
    if (spec.kind != LinearKind::basic) {
      // A running sum of terms that cancel: absolute error of about eps times the largest term.
      const Distance error = distance(run.whole.dlog_decay, exact.dlog_decay);
      const double terms = spec.kind == LinearKind::constant_decay ? 40 : 1;
      EXPECT_LE(error.max, 64 * terms * epsilon(f32) * std::max(1.0, error.reference_max) +
                               2 * epsilon(spec.dtype) * (spec.dtype == f32 ? 0 : error.reference_max))
          << "dlog_decay";
    }
  }
};

constexpr int ranks_of[] = {1, 2, 3, 4, 5, 7, 8};
constexpr DType dtypes[] = {f32, bf16, f16};
constexpr std::pair<std::int64_t, std::int64_t> dims[] = {{16, 16}, {8, 24}, {33, 8}};

class LinearScan : public ::testing::TestWithParam<std::tuple<LinearKind, Scan>> {};

TEST_P(LinearScan, AgreesWithTheRecurrence) {
  const auto [kind, scan] = GetParam();
  // ranks, partition (no striped), dtype, head sizes, divisible, states in / out, batch
  const auto cases = pairwise_cases({7, 4, 3, 3, 3, 4, 2}, 3 + static_cast<int>(kind) + 10 * static_cast<int>(scan));
  for (const auto& level : cases) {
    const int num_ranks = ranks_of[level[0]];
    const std::int64_t num_tokens = level[4] == 0 ? std::int64_t{16} * num_ranks : level[4] == 1 ? 203 : 5;
    auto partitions = all_partitions(num_tokens, num_ranks);
    partitions.erase(partitions.begin() + 2);
    LinearSpec spec;
    spec.partition = partitions[level[1]];
    spec.dtype = dtypes[level[2]];
    std::tie(spec.head_dim, spec.v_head_dim) = dims[level[3]];
    spec.state_in = (level[5] & 1) != 0;
    spec.state_out = (level[5] & 2) != 0;
    spec.batch = 1 + level[6];
    spec.heads = 2;
    spec.kind = kind;
    spec.scan = scan;
    spec.scale = 0.25f;
    SCOPED_TRACE(spec.describe());
    const LinearProblem problem(spec);
    const LinearProblem::Run first = problem.run();
    problem.expect_right(first);
    for (Rank rank = 0; rank < num_ranks; ++rank) {
      EXPECT_EQ(first.received_forward[rank], cost_of(collectives::linear_forward(spec, rank)).total_received_bytes);
      EXPECT_EQ(first.received_backward[rank], cost_of(collectives::linear_backward(spec, rank)).total_received_bytes);
    }
    const LinearProblem::Run second = problem.run(2);
    EXPECT_EQ(first.whole.out.bytes, second.whole.out.bytes) << "not bitwise repeatable";
    EXPECT_EQ(first.whole.dk.bytes, second.whole.dk.bytes);
    EXPECT_EQ(first.whole.dlog_decay.bytes, second.whole.dlog_decay.bytes);
    if (HasFailure()) return;
  }
}

class GatedScan : public LinearScan {};

TEST_P(GatedScan, DecayThatKillsTheStateIsRight) {
  const auto [kind, scan] = GetParam();
  LinearSpec spec;
  spec.partition = Partition::zigzag(100, 4);
  spec.head_dim = 16;
  spec.heads = 2;
  spec.kind = kind;
  spec.scan = scan;
  spec.state_in = spec.state_out = true;
  const LinearProblem problem(spec, 37);
  problem.expect_right(problem.run());
}

// q, k, v packed side by side in one tensor, as many models store them: nothing of them is sent, so any strides will do.
TEST_P(LinearScan, InputsMayBeStrided) {
  const LinearKind kind = std::get<0>(GetParam());
  LinearSpec spec;
  spec.partition = Partition::zigzag(40, 4);
  spec.head_dim = 16;
  spec.heads = 2;
  spec.kind = kind;
  spec.scan = std::get<1>(GetParam());
  const LinearProblem problem(spec);
  const LinearProblem::Run expected = problem.run();
  HostTensor whole(f32, {1, 40, 2, 16});
  std::mutex gathering;
  Watchdog watchdog(std::chrono::seconds(60));
  run_ranks(4, [&](Communicator& comm) {
    const auto leash = watchdog.watch(comm.transport());
    const std::int64_t T = spec.partition.tokens_on(comm.rank());
    HostTensor packed(f32, {1, T, 6, 16}), out(f32, {1, T, 2, 16}), decay = problem.log_decay;
    const auto part = [&](std::int64_t head) {
      TensorView view = packed.view();
      view.data = view.as<float>() + head * 16;
      view.geometry.shape[2] = 2;
      return view;
    };
    spec.partition.shard(problem.q.view(), comm.rank(), part(0));
    spec.partition.shard(problem.k.view(), comm.rank(), part(2));
    spec.partition.shard(problem.v.view(), comm.rank(), part(4));
    if (kind == LinearKind::scalar_gate || kind == LinearKind::vector_gate) {
      decay = problem.decay_tensor(f32, 1, T);
      spec.partition.shard(problem.log_decay.view(), comm.rank(), decay.view());
    }
    LinearAttention attention(comm, spec);
    attention.forward({part(0), part(2), part(4), kind == LinearKind::basic ? TensorView{} : decay.view(), {}}, {out.view(), {}, {}});
    const std::lock_guard lock(gathering);
    spec.partition.unshard(out.view(), comm.rank(), whole.view());
  });
  EXPECT_EQ(whole.bytes, expected.whole.out.bytes);
}

INSTANTIATE_TEST_SUITE_P(Gates, GatedScan,
                         ::testing::Combine(::testing::Values(LinearKind::scalar_gate, LinearKind::vector_gate),
                                            ::testing::Values(Scan::all_gather, Scan::chain)),
                         [](const auto& test) { return std::string(name(std::get<0>(test.param))) + "_" + name(std::get<1>(test.param)); });

INSTANTIATE_TEST_SUITE_P(Kinds, LinearScan,
                         ::testing::Combine(::testing::Values(LinearKind::basic, LinearKind::constant_decay, LinearKind::scalar_gate,
                                                              LinearKind::vector_gate),
                                            ::testing::Values(Scan::all_gather, Scan::chain)),
                         [](const auto& test) { return std::string(name(std::get<0>(test.param))) + "_" + name(std::get<1>(test.param)); });

TEST(LinearAttention, StripedIsRefusedWithTheReason) {
  run_ranks(2, [](Communicator& comm) {
    LinearSpec spec;
    spec.partition = Partition::striped(8, 2);
    spec.head_dim = 4;
    try {
      LinearAttention attention(comm, spec);
      FAIL() << "accepted";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("striped"), std::string::npos);
      EXPECT_NE(std::string(error.what()).find("zigzag"), std::string::npos);
    }
  });
}

}  // namespace
}  // namespace seqccl::test
