// launch_test.cpp - a launch only enqueues, on the stream that it is given, and can be captured into a graph.
// SPDX-License-Identifier: Apache-2.0
#include "cuda/device.hpp"
#include "cuda/runtime/runtime.hpp"
#include "kernels/attention_case.hpp"

namespace seqccl::test {
namespace {

TEST(CudaLaunch, EnqueuesOnlyAndCanBeCapturedIntoAGraph) {
  begin(1);
  const AttentionProblem p({.num_queries = 1, .num_keys = 1100, .q_heads = 2, .kv_heads = 1, .dk = 64, .dv = 64, .dtype = bf16});
  Forward result{p.new_out(), p.new_lse()};
  const DeviceTensor q(p.q), k(p.k), v(p.v), out(result.out, false), lse(result.lse, false);
  AttendArguments a = p.arguments();
  a.q = q.device, a.k = k.device, a.v = v.device, a.out = out.device, a.lse = lse.device;
  const cuda::AttendPlan plan = cuda::plan_attend(a);
  const DeviceBuffer slices(plan.slices.data(), plan.slices.size()), workspace(plan.workspace_bytes);
  cudaStream_t stream = nullptr;
  require(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  const auto waits = standin::runtime().num_host_waits;
  require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "begin");
  cuda::attend(a, plan, slices.data(), workspace.data(), stream);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  require(cudaStreamEndCapture(stream, &graph), "end");
  require(cudaGraphInstantiate(&executable, graph, 0), "instantiate");
  EXPECT_TRUE(standin::runtime().launches.empty());
  for (int replay = 0; replay < 2; ++replay) {
    require(cudaGraphLaunch(executable, stream), "launch");
    EXPECT_EQ(standin::runtime().num_host_waits, waits + static_cast<std::uint64_t>(replay));
    require(cudaStreamSynchronize(stream), "wait");
  }
  EXPECT_EQ(standin::runtime().launches.size(), 4U);  // two kernels, twice
  out.download(result.out);
  lse.download(result.lse);
  EXPECT_EQ(reports(), "");
  EXPECT_LE(distance(result.out, right_forward(p).out).relative_rms, 1.2e-2);
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
}

}  // namespace
}  // namespace seqccl::test
