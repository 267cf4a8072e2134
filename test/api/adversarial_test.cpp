// adversarial_test.cpp - the methods' own schedules under random lane interleavings, puts at any moment after their credit, and
// ranks one run apart: the same bits as on threads.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <memory>

#include "api/softmax_problem.hpp"
#include "seqccl/execute.hpp"

namespace seqccl::test {
namespace {

/// One rank's tensors and arena.
struct RankMemory {
  HostTensor q, k, v, dout, sinks;
  SoftmaxTensors results;
  std::vector<std::byte> arena;
};

struct Adversary {
  const SoftmaxProblem& problem;
  const AttentionSpec& spec = problem.spec;
  std::vector<std::unique_ptr<RankMemory>> ranks{};

  explicit Adversary(const SoftmaxProblem& whole) : problem(whole) {
    for (Rank rank = 0; rank < spec.partition.num_ranks(); ++rank) {
      const std::int64_t T = spec.partition.tokens_on(rank);
      const auto shard = [&](const HostTensor& from) {
        HostTensor to(from.dtype, {spec.batch, T, from.geometry.shape[2], from.geometry.shape[3]});
        spec.partition.shard(from.view(), rank, to.view());
        return to;
      };
      ranks.push_back(std::make_unique<RankMemory>(RankMemory{shard(problem.q),
                                                              shard(problem.k),
                                                              shard(problem.v),
                                                              shard(problem.dout),
                                                              problem.sinks,
                                                              problem.empty(spec.dtype, spec.batch, T),
                                                              {}}));
    }
  }

  [[nodiscard]] Bindings bind(const Schedule& schedule) const {
    RankMemory& memory = *ranks[schedule.rank];
    memory.arena.assign(schedule.workspace_bytes + 64, std::byte{0xff});
    auto* base = reinterpret_cast<std::byte*>((reinterpret_cast<std::uintptr_t>(memory.arena.data()) + 63) / 64 * 64);
    Bindings bindings(schedule, base);
    const auto read = [&](Tensor tensor, const HostTensor& from) { bindings.bind(tensor, from.view()); };
    read(Tensor::q, memory.q);
    read(Tensor::k, memory.k);
    read(Tensor::v, memory.v);
    read(Tensor::dout, memory.dout);
    bindings.bind(Tensor::out, memory.results.out.view());
    TensorView lse = memory.results.lse.view();  // (B, Hq, T) as (B, T, Hq, 1)
    const Geometry old = lse.geometry;
    lse.geometry = {4, {old.shape[0], old.shape[2], old.shape[1], 1}, {old.strides[0], 1, old.strides[1], 1}};
    bindings.bind(Tensor::lse, lse);
    bindings.bind(Tensor::dq, memory.results.dq.view());
    bindings.bind(Tensor::dk, memory.results.dk.view());
    bindings.bind(Tensor::dv, memory.results.dv.view());
    return bindings;
  }

  /// Runs all ranks' schedules `num_runs` times on one thread in the order that `seed` picks.
  bool run(const std::vector<Schedule>& schedules, std::uint64_t seed, bool ignore_comm_clocks, std::string& why) const {
    std::vector<Bindings> bindings;
    for (const Schedule& schedule : schedules) bindings.push_back(bind(schedule));
    InOrderOptions options;
    options.seed = seed;
    options.num_runs = 2;
    options.ignore_comm_clocks = ignore_comm_clocks;
    return run_in_order(schedules, bindings, options, why);
  }

  [[nodiscard]] bool same(const SoftmaxProblem::Run& expected, bool backward) const {
    for (Rank rank = 0; rank < spec.partition.num_ranks(); ++rank) {
      const SoftmaxTensors& mine = ranks[rank]->results;
      const auto equal = [&](const HostTensor& whole, const HostTensor& part) {
        HostTensor want(part.dtype, {part.geometry.shape[0], part.geometry.shape[1], part.geometry.shape[2], part.geometry.shape[3]});
        spec.partition.shard(whole.view(), rank, want.view());
        return want.bytes == part.bytes;
      };
      if (!equal(expected.whole.out, mine.out)) return false;
      if (backward && !(equal(expected.whole.dq, mine.dq) && equal(expected.whole.dk, mine.dk) && equal(expected.whole.dv, mine.dv)))
        return false;
    }
    return true;
  }
};

AttentionSpec spec_of(Method method, int num_ranks) {
  AttentionSpec spec;
  spec.partition = Partition::zigzag(6 * num_ranks + 1, num_ranks);
  spec.mask = Mask::causal();
  spec.q_heads = 4;
  spec.kv_heads = 2;
  spec.head_dim = 8;
  spec.dtype = bf16;
  spec.method = method;
  return spec;
}

/// A published name: a method, or a mesh or backward around one.
class AnyOrder : public ::testing::TestWithParam<std::string> {};

TEST_P(AnyOrder, GivesTheSameBitsAsThreads) {
  for (const int num_ranks : {2, 4, 5}) {
    AttentionSpec spec = spec_of(Method::ring, num_ranks);
    choose_method(spec, GetParam());
    if (spec.method == Method::kv_all_gather || spec.mesh) spec.head_groups = spec.mesh && spec.mesh->heads == 1 ? 1 : 2;
    const SoftmaxProblem problem(spec);
    const SoftmaxProblem::Run expected = problem.run();
    const MethodEntry& entry = entry_of(spec.method);
    const Adversary adversary(problem);
    const auto forward = record_all(entry.forward, problem.spec);
    const auto backward = record_all(entry.backward, problem.spec);
    for (std::uint64_t seed = 1; seed <= 10; ++seed) {
      std::string why;
      ASSERT_TRUE(adversary.run(forward, seed, false, why)) << why;
      ASSERT_TRUE(adversary.same(expected, false)) << num_ranks << " ranks, forward, seed " << seed;
      ASSERT_TRUE(adversary.run(backward, seed, false, why)) << why;
      ASSERT_TRUE(adversary.same(expected, true)) << num_ranks << " ranks, backward, seed " << seed;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Softmax, AnyOrder, ::testing::ValuesIn(method_names()), [](const auto& test) { return test.param; });

// The mutant: exchanges that do not wait for computes. From 4 ranks up a spare block is overwritten while it is still read.
TEST(AnyOrder, RingWithoutClocksGoesWrong) {
  const SoftmaxProblem problem(spec_of(Method::ring, 5));
  const SoftmaxProblem::Run expected = problem.run();
  const Adversary adversary(problem);
  const auto forward = record_all(collectives::ring_forward, problem.spec);
  int wrong = 0;
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    std::string why;
    if (!adversary.run(forward, seed, true, why) || !adversary.same(expected, false)) ++wrong;
  }
  EXPECT_GT(wrong, 0);
}

}  // namespace
}  // namespace seqccl::test
