// arguments_test.cpp - what attend on a device refuses, before anything is launched, and how it plans.
// SPDX-License-Identifier: Apache-2.0
#include "cuda/device.hpp"
#include "cuda/runtime/runtime.hpp"
#include "kernels/attention_case.hpp"
#include "seqccl/error.hpp"

namespace seqccl::test {
namespace {

/// Arguments whose memory is never touched.
struct Planned {
  AttentionProblem problem;
  HostTensor out, lse;
  AttendArguments a;
  explicit Planned(const AttentionCase& c) : problem(c), out(problem.new_out()), lse(problem.new_lse()), a(problem.arguments()) {
    a.out = out.view(), a.lse = lse.view();
  }
};
const AttentionCase usual{.num_queries = 20, .num_keys = 30, .q_heads = 4, .kv_heads = 2, .dk = 64, .dv = 64, .dtype = bf16};

std::string refusal(const AttendArguments& a) {
  standin::runtime().reset(0);
  try {
    const cuda::AttendPlan plan = cuda::plan_attend(a);
    return "planned";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::argument);
    return error.what();
  }
}

TEST(CudaAttendArguments, NamesWhatIsWrongAndWhatWouldBeRight) {
  const Planned right(usual);
  EXPECT_EQ(refusal(right.a), "planned");
  AttendArguments a = right.a;
  a.heads.group = 1;
  EXPECT_EQ(refusal(a), "attend: heads maps query head 3 to key/value head 3, want 0 <= head < 2");
  a = right.a;
  a.k.dtype = f16;
  EXPECT_EQ(refusal(a), "attend: q, k, v are bf16, f16, bf16, want one of f32, f16, bf16 for all");
  a = right.a;
  a.out.dtype = bf16;
  EXPECT_EQ(refusal(a), "attend: out is bf16, want f32");
  a = right.a;
  a.lse.geometry.shape[1] = 21;
  EXPECT_EQ(refusal(a), "attend: lse is (1, 21, 4, 1), want (1, 20, 4, 1)");
  a = right.a;
  a.v.geometry.strides[3] = 2;
  EXPECT_EQ(refusal(a), "attend: the last axis of v has stride 2, want 1");
  a = right.a;
  a.sinks = right.problem.sinks.view(), a.fresh = false;
  EXPECT_EQ(refusal(a), "attend: sinks are given with fresh = false, want fresh = true: they join a fresh state");
  const Planned wide({.num_queries = 2, .num_keys = 2, .dk = 264, .dv = 8, .dtype = bf16});
  EXPECT_EQ(refusal(wide.a), "attend: heads have Dk = 264, Dv = 8 elements, want at most 256 on a CUDA device");
}

TEST(CudaAttendArguments, ALaunchWithoutItsDeviceMemoryIsRefused) {
  standin::runtime().reset(0);
  const Planned p({.num_queries = 1, .num_keys = 1200, .dk = 64, .dv = 64, .dtype = bf16});
  const cuda::AttendPlan plan = cuda::plan_attend(p.a);
  int somewhere = 0;
  EXPECT_THROW(cuda::attend(p.a, plan, nullptr, &somewhere, nullptr), Error);
  EXPECT_THROW(cuda::attend(p.a, plan, &somewhere, nullptr, nullptr), Error);
  EXPECT_TRUE(standin::runtime().pending.empty());
}

TEST(CudaAttendArguments, AFailedLaunchIsAnErrorInCudasWords) {
  standin::runtime().reset(0);
  const Planned p(usual);
  const cuda::AttendPlan plan = cuda::plan_attend(p.a);
  standin::runtime().sticky_error = cudaErrorLaunchFailure;
  int somewhere = 0;
  try {
    cuda::attend(p.a, plan, &somewhere, nullptr, nullptr);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::local);
    EXPECT_STREQ(error.what(), "attend: the launch failed: unspecified launch failure (cudaErrorLaunchFailure)");
  }
  standin::runtime().reset(0);
}

TEST(CudaAttendArguments, TensorCoresTakeWhatTheyCan) {
  const auto uses = [](auto change) {
    Planned p(usual);
    change(p);
    return cuda::attend_uses_tensor_cores(p.a);
  };
  EXPECT_TRUE(uses([](Planned&) {}));
  EXPECT_FALSE(uses([](Planned& p) { p.a.scale = 0; }));
  EXPECT_TRUE(uses([](Planned& p) { p.a.scale = -1, p.a.softcap = 3; }));
  EXPECT_FALSE(uses([](Planned& p) { p.a.q.geometry.strides[1] += 4; }));
  EXPECT_FALSE(uses([](Planned& p) { p.a.k.data = p.a.k.as<char>() + 2; }));
  EXPECT_FALSE(uses([](Planned& p) { p.a.q.dtype = p.a.k.dtype = p.a.v.dtype = f32; }));
}

TEST(CudaAttendPlan, CutsTheKeysOnlyForFewQueries) {
  const auto parts = [](std::int64_t num_queries, std::int64_t num_keys) {
    AttendArguments a;  // shapes only
    a.q = view(static_cast<const void*>(nullptr), bf16, {1, num_queries, 32, 128});
    a.k = a.v = view(static_cast<const void*>(nullptr), bf16, {1, num_keys, 8, 128});
    a.out = view(static_cast<void*>(nullptr), f32, {1, num_queries, 32, 128});
    a.lse = view(static_cast<void*>(nullptr), f32, {1, num_queries, 32, 1});
    a.heads = {0, 0, 4};
    const cuda::AttendPlan plan = cuda::plan_attend(a);
    EXPECT_EQ(plan.workspace_bytes, plan.num_parts == 1 ? 0U : static_cast<std::size_t>(plan.num_parts * num_queries * 32 * 129 * 4));
    EXPECT_GE(std::int64_t{plan.num_parts} * plan.part_keys, num_keys);
    EXPECT_LT(std::int64_t{plan.num_parts - 1} * plan.part_keys, std::max<std::int64_t>(1, num_keys));
    return plan.num_parts;
  };
  EXPECT_EQ(parts(1, 131072), 32);
  EXPECT_EQ(parts(1, 600), 1);
  EXPECT_EQ(parts(1, 0), 1);
  EXPECT_EQ(parts(8192, 131072), 1);
  EXPECT_EQ(parts((std::int64_t{1} << 30) - 1, 100), 1);
}

}  // namespace
}  // namespace seqccl::test
