// counters_test.cpp - what attention tiles cost: products, shared-memory passes, sectors of global memory.
// SPDX-License-Identifier: Apache-2.0
#include "cuda/linear_device.hpp"
#include "cuda/runtime/runtime.hpp"
#include "kernels/attention_case.hpp"

namespace seqccl::test {
namespace {

ptx::Counters counters(const AttentionCase& c) {
  standin::runtime().reset(0);
  const AttentionProblem p(c);
  HostTensor new_out = p.new_out(), new_lse = p.new_lse();
  const DeviceTensor q(p.q), k(p.k), v(p.v), out(new_out, false), lse(new_lse, false);
  AttendArguments a = p.arguments();
  a.q = q.device, a.k = k.device, a.v = v.device, a.out = out.device, a.lse = lse.device;
  attend_on_device(a);
  EXPECT_EQ(standin::runtime().reports(), "");
  return standin::runtime().launches.at(0).result.counters;
}

class CudaCounters : public ::testing::TestWithParam<std::pair<std::int64_t, std::int64_t>> {};

TEST_P(CudaCounters, MainLoopHasNoBankConflictsAndReadsWholeSectors) {
  const auto [dk, dv] = GetParam();
  const AttentionCase c{.num_queries = 128, .num_keys = 256, .q_heads = 1, .kv_heads = 1, .dk = dk, .dv = dv, .dtype = bf16};
  const ptx::Counters got = counters(c);
  const auto& matrix = got.of(ptx::Work::matrix);
  EXPECT_EQ(matrix.executed, static_cast<std::uint64_t>(128 / 16 * 256 / 16 * (2 * dk / 16 + 2 * dv / 16)));  // 16 x 8 x 16 each
  const auto& fragment = got.of(ptx::Work::fragment);
  EXPECT_EQ(fragment.bank_waves, fragment.min_waves);
  const auto& copy = got.of(ptx::Work::copy);
  EXPECT_EQ(copy.bank_waves, copy.min_waves);
  EXPECT_EQ(copy.sectors, copy.min_sectors);
  EXPECT_EQ(got.of(ptx::Work::local).executed, 0U);
  // A fragment of k or v serves both 16-row tiles of a warp where it has two.
  const std::uint64_t per_fragment = matrix.executed / fragment.executed;
  EXPECT_GE(per_fragment, dk > 192 ? 1U : 2U);
}

INSTANTIATE_TEST_SUITE_P(HeadSizes, CudaCounters,
                         ::testing::Values(std::pair{64, 64}, std::pair{96, 96}, std::pair{128, 128}, std::pair{192, 128},
                                           std::pair{256, 256}));

TEST(CudaCounters, CausalTilesThatNobodySeesAreSkipped) {
  const AttentionCase full{.num_queries = 512, .num_keys = 512, .q_heads = 1, .kv_heads = 1, .dk = 64, .dv = 64, .dtype = bf16};
  AttentionCase causal = full;
  causal.shape = Shape::causal;
  const auto all = counters(full), half = counters(causal);
  // Warps of 32 rows, tiles of 64 keys: of 16 x 8 pairs of them 72 are seen.
  EXPECT_EQ(half.of(ptx::Work::matrix).executed * 128, all.of(ptx::Work::matrix).executed * 72);
}

/// The rest of a main loop: softmax, fragments, copies, bookkeeping. In PTX; a device needs fewer instructions, for many are moves.
TEST(CudaCounters, ATenthOfTheInstructionsAreProducts) {
  const auto got = counters({.num_queries = 128, .num_keys = 1024, .q_heads = 2, .kv_heads = 1, .dk = 128, .dv = 128, .dtype = bf16});
  EXPECT_GE(10 * got.of(ptx::Work::matrix).executed, got.total.executed);
}

/// Packing for a head swap: 16 bytes a thread, whole sectors, whatever the order of heads and tokens.
TEST(CudaCounters, APermutationOfHeadsReadsAndWritesWholeSectors) {
  standin::runtime().reset(0);
  const HostTensor q = random_tensor(bf16, {1, 64, 8, 64}, 1);
  const DeviceTensor from(q), to(q, false);
  TensorView by_heads = to.device;
  by_heads.geometry.strides = {0, 64, 64 * 64, 1};
  cuda::copy(from.device, by_heads, nullptr);
  require(cudaDeviceSynchronize(), "wait");
  const auto& global = standin::runtime().launches.at(0).result.counters.of(ptx::Work::generic).requests > 0
                           ? standin::runtime().launches.at(0).result.counters.of(ptx::Work::generic)
                           : standin::runtime().launches.at(0).result.counters.of(ptx::Work::global);
  EXPECT_EQ(global.executed, static_cast<std::uint64_t>(2 * 64 * 8 * 64 * 2 / 16 / 32));
  EXPECT_EQ(global.sectors, global.min_sectors);
}

/// Linear attention with whole tiles of bf16: a product of two such takes one mma, with an f32 two, of two f32 three.
TEST(CudaCounters, LinearProductsMeetInNoBank) {
  standin::runtime().reset(0);
  const LinearInputs in = linear_inputs({1, 128, 1, 64, 64}, Decay::none, bf16, 1);
  Box q(in.q, false), k(in.k, false), v(in.v, false), out(DType::f32, 1, 128, 1, 64, false);
  DeviceKernels::share = 1;
  DeviceKernels::linear_local({.q = q.view(), .k = k.view(), .v = v.view(), .log_decay = {}, .out = out.view()});
  ASSERT_EQ(standin::runtime().launches.size(), 3U);  // states, scores, outputs
  // Of 16 x 8 x 8 numbers: per chunk 64^3 / 1024 of each kind; k^T v and q k^T exact, then q times f32 states and f32 scores times v.
  constexpr std::uint64_t num_chunks = 2, whole = 64 * 64 * 64 / 1024, products[] = {whole, whole, 2 * whole + 2 * whole};
  for (std::size_t n = 0; n < 3; ++n) {
    const ptx::Counters& c = standin::runtime().launches[n].result.counters;
    const auto &matrix = c.of(ptx::Work::matrix), &shared = c.of(ptx::Work::shared);
    EXPECT_EQ(c.of(ptx::Work::local).executed, 0U);
    EXPECT_LE(shared.bank_waves * (n == 0 ? 10 : 12), shared.min_waves * 12) << n;  // the sweep adds to its states by twos
    EXPECT_EQ(matrix.executed, num_chunks * products[n]) << n;
  }
}

}  // namespace
}  // namespace seqccl::test
