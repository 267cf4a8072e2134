// linear_test.cpp - whole layers of linear attention on a device, every kind and scan, ranks as threads, each with a device, NCCL between
// them. SPDX-License-Identifier: Apache-2.0
#include "api/linear_problem.hpp"
#include "collectives/linear_plans.hpp"
#include "cuda_layers/on_device.hpp"
#include "support/ranks.hpp"

namespace seqccl::test {
namespace {

struct LinearLayer {
  LinearKind kind;
  Scan scan;
  int num_ranks;
  std::uint64_t seed;
};
std::ostream& operator<<(std::ostream& to, const LinearLayer& c) {
  return to << "kind " << static_cast<int>(c.kind) << ", scan " << static_cast<int>(c.scan) << ", " << c.num_ranks << " ranks";
}

std::vector<LinearLayer> linear_layers() {
  std::vector<LinearLayer> all;
  constexpr int counts[] = {1, 2, 3, 4, 8};
  std::uint64_t seed = 0;
  for (const LinearKind kind : all_kinds)
    for (const Scan scan : all_scans) {
      if (is_sanitized && seed % 4 != 0) {
        ++seed;
        continue;
      }
      all.push_back({kind, scan, counts[seed % 5], seed});
      ++seed;
    }
  return all;
}

class CudaLinearLayers : public ::testing::TestWithParam<LinearLayer> {};
TEST_P(CudaLinearLayers, AgreeWithTheRecurrence) {
  const LinearLayer& c = GetParam();
  LinearSpec spec;
  spec.kind = c.kind, spec.scan = c.scan;
  const std::int64_t num_tokens = c.seed % 2 == 0 ? std::int64_t{16} * c.num_ranks : 101;
  spec.partition = c.seed % 3 == 0 ? Partition::zigzag(num_tokens, c.num_ranks) : Partition::contiguous(num_tokens, c.num_ranks);
  spec.state_in = c.seed % 4 == 1, spec.state_out = c.seed % 4 == 2;
  spec.dtype = c.seed % 3 == 1 ? f32 : bf16;
  spec.head_dim = 16, spec.v_head_dim = 16, spec.heads = 2, spec.batch = 1, spec.scale = 0.25f;
  spec.column_blocks = 1 + c.num_ranks % 3;
  spec.ranks_per_node = c.num_ranks < 3 ? 0 : 2;
  SCOPED_TRACE(spec.describe());
  const LinearProblem problem(spec, DecayOf::usual);
  begin(c.seed % 3);
  const LinearProblem::Run run = problem.run(1, MakeNccl(c.num_ranks, c.seed));
  EXPECT_EQ(reports(), "");
  EXPECT_EQ(nccl_world().violations, "");
  problem.expect_right(run, 2);  // products of split f32
  problem.expect_planned_bytes(run);
}
INSTANTIATE_TEST_SUITE_P(Kinds, CudaLinearLayers, ::testing::ValuesIn(linear_layers()));

}  // namespace
}  // namespace seqccl::test
