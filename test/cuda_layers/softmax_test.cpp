// softmax_test.cpp - whole softmax layers on a device: the plans of every method on streams, ranks as threads, each with a device, NCCL
// between them. SPDX-License-Identifier: Apache-2.0
#include "api/softmax_cases.hpp"
#include "cuda/device_cases.hpp"
#include "cuda_layers/on_device.hpp"

namespace seqccl::test {
namespace {

struct LayerCase {
  Method method;
  int num_ranks;
  std::uint64_t seed;
};
std::ostream& operator<<(std::ostream& to, const LayerCase& c) { return to << name(c.method) << " on " << c.num_ranks << " ranks"; }

AttentionSpec spec_of(const LayerCase& c) {
  AttentionSpec spec;
  const std::int64_t num_tokens = c.seed % 2 == 0 ? std::int64_t{8} * c.num_ranks : 61;
  spec.partition = all_partitions(num_tokens, c.num_ranks)[c.seed % 5];
  spec.mask = all_masks(num_tokens)[c.seed % all_masks(num_tokens).size()];
  spec.dtype = c.seed % 4 == 3 ? f32 : bf16;
  const HeadCounts& heads = heads_of[c.seed % 4];
  spec.q_heads = heads.q, spec.kv_heads = heads.kv, spec.head_dim = heads.dim, spec.v_head_dim = heads.dim_v;
  spec.sinks = c.seed % 3 == 1;
  spec.method = c.method;
  choose(spec, static_cast<int>(c.seed % 7));
  return spec;
}

std::vector<LayerCase> layer_cases() {
  std::vector<LayerCase> all;
  std::uint64_t seed = 0;
  for (const Method method : all_methods())
    for (const int num_ranks : {1, 2, 3, 4, 8})
      if (!is_sanitized || num_ranks == 3) all.push_back({method, num_ranks, seed++});
  return all;
}

class CudaSoftmaxLayers : public ::testing::TestWithParam<LayerCase> {};
TEST_P(CudaSoftmaxLayers, AgreeWithTheDoubleLoops) {
  const LayerCase& c = GetParam();
  const SoftmaxProblem problem(spec_of(c));
  SCOPED_TRACE(problem.spec.describe());
  begin(c.seed % 3);
  const SoftmaxProblem::Run run = problem.run(1, MakeNccl(c.num_ranks, c.seed));
  EXPECT_EQ(reports(), "");
  EXPECT_EQ(nccl_world().violations, "");
  const DType dtype = problem.spec.dtype;
  const auto close = [&](const HostTensor& got, const HostTensor& plain, const HostTensor& exact, DType type) {
    return close_on_device(got, plain, exact, type, 2);
  };
  EXPECT_TRUE(close(run.whole.out, problem.plain.out, problem.exact.out, dtype));
  EXPECT_LE(distance(run.whole.lse, problem.exact.lse).max, 1e-4);
  EXPECT_TRUE(close(run.whole.dq, problem.plain.dq, problem.exact.dq, dtype));
  EXPECT_TRUE(close(run.whole.dk, problem.plain.dk, problem.exact.dk, dtype));
  EXPECT_TRUE(close(run.whole.dv, problem.plain.dv, problem.exact.dv, dtype));
  for (Rank rank = 0; rank < c.num_ranks; ++rank)
    EXPECT_EQ(run.received_bytes[static_cast<std::size_t>(rank)],
              cost_of(entry_of(c.method).forward(problem.spec, rank, {})).total_received_bytes)
        << "rank " << rank;
}
INSTANTIATE_TEST_SUITE_P(Methods, CudaSoftmaxLayers, ::testing::ValuesIn(layer_cases()));

}  // namespace
}  // namespace seqccl::test
