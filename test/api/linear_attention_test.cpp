// linear_attention_test.cpp - linear attention on thread ranks against the token by token recurrence in double.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/linear_attention.hpp"

#include "api/linear_cases.hpp"
#include "sequence/refusal.hpp"

namespace seqccl::test {
namespace {

/// Of a covering set, the cases of one scan.
class LinearScan : public ::testing::TestWithParam<Scan> {
 protected:
  [[nodiscard]] LinearSpec spec(LinearKind kind, const Partition& partition) const {
    LinearSpec result;
    result.partition = partition;
    result.head_dim = 16;
    result.heads = 2;
    result.kind = kind;
    result.scan = GetParam();
    result.ranks_per_node = 2;
    return result;
  }
};

TEST_P(LinearScan, AgreesWithTheRecurrence) {
  for (const std::vector<int>& level : pairwise_cases(linear_factors)) {
    if (all_scans[level[1]] != GetParam()) continue;
    run_linear_case(level);
    if (HasFailure()) return;
  }
}

TEST_P(LinearScan, DecayThatKillsTheStateIsRight) {
  for (const LinearKind kind : all_kinds) {
    if (kind == LinearKind::basic || kind == LinearKind::delta || kind == LinearKind::constant_decay) continue;
    LinearSpec layer = spec(kind, Partition::zigzag(100, 4));
    layer.state_in = layer.state_out = true;
    SCOPED_TRACE(layer.describe());
    const LinearProblem problem(layer, DecayOf::all);
    problem.expect_right(problem.run());
  }
}

// Documents that begin in the middle of a run, in a zigzag shard, with a given state that only the first of them sees.
TEST_P(LinearScan, DocumentsAreLayersOfTheirOwn) {
  for (const LinearKind kind : all_kinds) {
    LinearSpec layer = spec(kind, Partition::zigzag(96, 4));
    layer.documents = {5, 0, 30, 1, 40, 20};
    layer.state_in = layer.state_out = true;
    SCOPED_TRACE(layer.describe());
    const LinearProblem problem(layer);
    problem.expect_right(problem.run());
  }
}

// Long products of dense transitions, none of which shrink.
TEST_P(LinearScan, EveryTokenItsOwnRank) {
  LinearSpec layer = spec(LinearKind::delta, Partition::contiguous(8, 8));
  layer.state_in = layer.state_out = true;
  const LinearProblem problem(layer, DecayOf::none);
  problem.expect_right(problem.run());
}

// q, k, v packed side by side in one tensor, as many models store them: nothing of them is sent, so any strides will do.
TEST_P(LinearScan, InputsMayBeStrided) {
  for (const LinearKind kind : {LinearKind::scalar_gate, LinearKind::rwkv6, LinearKind::kda}) {
    const LinearSpec layer = spec(kind, Partition::zigzag(40, 4));
    const LinearProblem problem(layer);
    const LinearProblem::Run expected = problem.run();
    HostTensor whole(f32, {1, 40, 2, 16});
    std::mutex gathering;
    Watchdog watchdog(std::chrono::seconds(60));
    run_ranks(4, [&](Communicator& comm) {
      const auto leash = watchdog.watch(comm.transport());
      const std::int64_t T = layer.partition.tokens_on(comm.rank());
      HostTensor packed(f32, {1, T, 6, 16}), out(f32, {1, T, 2, 16});
      const auto part = [&](std::int64_t head) {
        TensorView view = packed.view();
        view.data = view.as<float>() + head * 16;
        view.geometry.shape[2] = 2;
        return view;
      };
      layer.partition.shard(problem.q.view(), comm.rank(), part(0));
      layer.partition.shard(problem.k.view(), comm.rank(), part(2));
      layer.partition.shard(problem.v.view(), comm.rank(), part(4));
      const HostTensor decay = problem.shard(problem.log_decay, comm.rank()), beta = problem.shard(problem.beta, comm.rank());
      LinearAttention attention(comm, layer);
      attention.forward({part(0), part(2), part(4), decay.view(), {}, beta.view(), problem.bonus.view()}, {out.view(), {}, {}});
      const std::lock_guard lock(gathering);
      layer.partition.unshard(out.view(), comm.rank(), whole.view());
    });
    EXPECT_EQ(whole.bytes, expected.whole.out.bytes) << name(kind);
  }
}

INSTANTIATE_TEST_SUITE_P(Scans, LinearScan, ::testing::ValuesIn(all_scans), [](const auto& test) { return std::string(name(test.param)); });

// The same steps in the same order, whoever does them.
TEST(LinearAttention, GatherAndChainGiveTheSameBits) {
  for (const LinearKind kind : {LinearKind::constant_decay, LinearKind::vector_gate, LinearKind::kda}) {
    LinearSpec spec;
    spec.partition = Partition::zigzag(100, 5);
    spec.head_dim = 16;
    spec.heads = 2;
    spec.kind = kind;
    const LinearProblem problem(spec);
    const LinearProblem::Run gathered = problem.run();
    for (const Scan scan : {Scan::chain, Scan::pipelined_chain}) {
      spec.scan = scan;
      const LinearProblem::Run chained = LinearProblem(spec).run();
      EXPECT_EQ(chained.whole.out.bytes, gathered.whole.out.bytes) << name(kind) << " " << name(scan);
      EXPECT_EQ(chained.whole.dk.bytes, gathered.whole.dk.bytes) << name(kind) << " " << name(scan);
    }
  }
}

// Every token reads the sum over its document; ranks without tokens, more ranks than columns, 16-bit results.
TEST(LinearAttention, WithoutOrderAgreesWithTheSum) {
  for (const int num_ranks : {1, 2, 3, 4, 5, 7, 8})
    for (const Partition& partition : all_partitions(num_ranks % 2 == 0 ? 64 : 61, num_ranks)) {
      if (!partition.has_contiguous_segments()) continue;
      for (const std::vector<std::int64_t>& documents : all_documents(partition.num_tokens(), num_ranks)) {
        LinearSpec spec;
        spec.partition = partition;
        spec.head_dim = 8;
        spec.v_head_dim = num_ranks == 7 ? 5 : 8;
        spec.heads = 2;
        spec.batch = 1 + num_ranks % 2;
        spec.dtype = num_ranks % 3 == 0 ? bf16 : f32;
        spec.documents = documents;
        spec.causal = false;
        spec.scale = 0.25f;
        SCOPED_TRACE(spec.describe());
        const LinearProblem problem(spec);
        const LinearProblem::Run run = problem.run();
        problem.expect_right(run);
        problem.expect_planned_bytes(run);
        if (::testing::Test::HasFailure()) return;
      }
    }
}

// Nodes as the communicator's topology has them.
TEST(LinearAttention, HierarchicalTakesNodesFromTheTopology) {
  LinearSpec spec;
  spec.partition = Partition::contiguous(48, 6);
  spec.head_dim = 8;
  spec.scan = Scan::hierarchical;
  run_ranks(6, [&](Communicator& comm) { EXPECT_EQ(LinearAttention(comm, spec).spec().ranks_per_node, 3); },
            {.topology = Topology::nodes(2, 3)});
}

TEST(LinearAttention, StripedIsRefusedWithTheReason) {
  run_ranks(2, [](Communicator& comm) {
    LinearSpec spec;
    spec.partition = Partition::striped(8, 2);
    spec.head_dim = 4;
    EXPECT_REFUSED("striped", LinearAttention(comm, spec));
    EXPECT_REFUSED("zigzag", LinearAttention(comm, spec));
  });
}

TEST(LinearAttention, RefusesGatesThatTheKindHasNot) {
  run_ranks(1, [](Communicator& comm) {
    LinearSpec spec;
    spec.partition = Partition::contiguous(4, 1);
    spec.head_dim = 2;
    HostTensor rows(f32, {1, 4, 1, 2}), gate(f32, {1, 4, 1}), bonus(f32, {1, 2}), out = rows;
    LinearInputs inputs{rows.view(), rows.view(), rows.view(), {}, {}};
    const auto forward = [&] { LinearAttention(comm, spec).forward(inputs, {out.view(), {}, {}}); };
    inputs.beta = gate.view();
    EXPECT_REFUSED("LinearAttention::forward: beta is given, want none with kind basic", forward());
    spec.kind = LinearKind::gated_delta;
    EXPECT_REFUSED("LinearAttention::forward: log_decay is missing, want f32 (1, 4, 1)", forward());
    inputs.log_decay = gate.view();
    inputs.bonus = bonus.view();
    EXPECT_REFUSED("LinearAttention::forward: bonus is given, want none with kind gated_delta", forward());
    spec.kind = LinearKind::rwkv6;
    inputs.beta = {};
    EXPECT_REFUSED("LinearAttention::forward: log_decay has shape (1, 4, 1), want (1, 4, 1, 2)", forward());
  });
}

}  // namespace
}  // namespace seqccl::test
