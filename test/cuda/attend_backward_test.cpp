// attend_backward_test.cpp - CUDA gradients against the double loops.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "cuda/device_cases.hpp"

namespace seqccl::test {
namespace {

struct Gradients {
  HostTensor dq, dk, dv;
};
Gradients new_gradients(const AttentionCase& c, DType dtype) {
  return {HostTensor(dtype, {c.batch, c.num_queries, c.q_heads, c.dk}), HostTensor(dtype, {c.batch, c.num_keys, c.kv_heads, c.dk}),
          HostTensor(dtype, {c.batch, c.num_keys, c.kv_heads, c.dv})};
}

/// lse and delta as forward leaves them, by the CPU kernels in f32; then the device. `before`: added to.
Gradients run_backward(const AttentionProblem& p, const Gradients* before = nullptr) {
  Forward state{p.new_out(), p.new_lse()};
  HostTensor delta = p.new_lse();
  AttendArguments forward = p.arguments();
  forward.out = state.out.view(), forward.lse = state.lse.view();
  cpu::attend(forward);
  cpu::row_dot(p.dout.view(), state.out.view(), delta.view(), 1);
  Gradients result = before != nullptr ? *before : new_gradients(p.shape, f32);
  const DeviceTensor q(p.q), k(p.k), v(p.v), dout(p.dout), lse(state.lse), device_delta(delta);
  const bool add = before != nullptr;
  const DeviceTensor dq(result.dq, add), dk(result.dk, add), dv(result.dv, add);
  attend_backward_on_device({.q = q.device,
                             .k = k.device,
                             .v = v.device,
                             .dout = dout.device,
                             .lse = lse.device,
                             .delta = device_delta.device,
                             .dq = dq.device,
                             .dk = dk.device,
                             .dv = dv.device,
                             .slices = p.slices,
                             .heads = p.heads(),
                             .scale = static_cast<float>(p.scale),
                             .softcap = p.shape.softcap,
                             .fresh_dq = !add,
                             .fresh_dkv = !add});
  dq.download(result.dq);
  dk.download(result.dk);
  dv.download(result.dv);
  return result;
}

::testing::AssertionResult close_to(const Gradients& got, const AttentionProblem& p) {
  Gradients right = new_gradients(p.shape, DType::f64), plain = new_gradients(p.shape, f32);
  HostTensor dsinks(DType::f64, {p.shape.q_heads});
  reference::attend_backward(p.reference_problem(), p.dout.view(), right.dq.view(), right.dk.view(), right.dv.view(), dsinks.view());
  reference::attend_backward_plain(p.reference_problem(), p.dout.view(), plain.dq.view(), plain.dk.view(), plain.dv.view());
  const auto close = [&](const char* name, const HostTensor& a, const HostTensor& b, const HostTensor& c) {
    const Distance error = distance(a, c);
    // Rows with one visible key: ds is 0; what is left is the rounding of dout v^T and of delta, both about sqrt(Dv).
    if (error.reference_max < 1e-6 && error.max <= 1e-4) return ::testing::AssertionSuccess();
    const ::testing::AssertionResult result = close_on_device(a, b, c, p.shape.dtype, 3);
    return result ? result : ::testing::AssertionFailure() << name << ": " << result.message();
  };
  if (const auto result = close("dv", got.dv, plain.dv, right.dv); !result) return result;
  if (const auto result = close("dq", got.dq, plain.dq, right.dq); !result) return result;
  return close("dk", got.dk, plain.dk, right.dk);
}

class CudaBackwardCases : public ::testing::TestWithParam<AttentionCase> {};
TEST_P(CudaBackwardCases, AgreesWithTheDoubleLoopsAndIsClean) {
  begin(GetParam().seed % 3);
  const AttentionProblem p(GetParam());
  const Gradients got = run_backward(p);
  EXPECT_EQ(reports(), "");
  EXPECT_TRUE(close_to(got, p)) << GetParam();
}
INSTANTIATE_TEST_SUITE_P(Odd, CudaBackwardCases, ::testing::ValuesIn(device_cases()));

TEST(CudaBackward, AddsToWhatIsThere) {
  begin(0);
  for (const DType dtype : {bf16, f32}) {
    const AttentionProblem p(
        {.num_queries = 40, .num_keys = 70, .q_heads = 4, .kv_heads = 2, .dk = 64, .dv = 64, .dtype = dtype, .shape = Shape::random});
    const Gradients fresh = run_backward(p), twice = run_backward(p, &fresh);
    for (const auto& [one, two] : {std::pair{&fresh.dq, &twice.dq}, std::pair{&fresh.dk, &twice.dk}, std::pair{&fresh.dv, &twice.dv}})
      for (std::int64_t i = 0; i < one->size(); ++i) ASSERT_EQ(two->get(i), 2 * one->get(i));
    AttentionProblem none = p;
    none.slices.clear();
    EXPECT_EQ(run_backward(none, &fresh).dk.bytes, fresh.dk.bytes);
    for (const HostTensor& zero : {run_backward(none).dq, run_backward(none).dk, run_backward(none).dv})
      for (std::int64_t i = 0; i < zero.size(); ++i) ASSERT_EQ(zero.get(i), 0);
    EXPECT_EQ(reports(), "");
  }
}

/// Query heads 3..7 of a layer with two query heads per key/value head, on key/value heads 0..4 of which nobody uses the first and last.
TEST(CudaBackward, KeysThatNoHeadUsesGetZeros) {
  begin(1);
  for (const DType dtype : {bf16, f32}) {
    AttentionProblem p({.num_queries = 20, .num_keys = 30, .q_heads = 5, .kv_heads = 5, .dk = 64, .dv = 64, .dtype = dtype});
    HostTensor lse = p.new_lse(), delta = p.new_lse();
    lse.fill(3), delta.fill(0.1);
    Gradients got = new_gradients(p.shape, f32), want = got;
    AttendBackwardArguments host{.q = p.q.view(),
                                 .k = p.k.view(),
                                 .v = p.v.view(),
                                 .dout = p.dout.view(),
                                 .lse = lse.view(),
                                 .delta = delta.view(),
                                 .dq = want.dq.view(),
                                 .dk = want.dk.view(),
                                 .dv = want.dv.view(),
                                 .slices = p.slices,
                                 .heads = {3, 0, 2},
                                 .scale = 0.1F,
                                 .fresh_dq = true,
                                 .fresh_dkv = true};
    cpu::attend_backward(host);
    const DeviceTensor q(p.q), k(p.k), v(p.v), dout(p.dout), dlse(lse), ddelta(delta), dq(got.dq, false), dk(got.dk, false),
        dv(got.dv, false);
    AttendBackwardArguments a = host;
    a.q = q.device, a.k = k.device, a.v = v.device, a.dout = dout.device, a.lse = dlse.device, a.delta = ddelta.device;
    a.dq = dq.device, a.dk = dk.device, a.dv = dv.device;
    attend_backward_on_device(a);
    dq.download(got.dq), dk.download(got.dk), dv.download(got.dv);
    EXPECT_EQ(reports(), "");
    const double cap = dtype == f32 ? 6e-6 : 3.6e-2;
    EXPECT_LE(distance(got.dq, want.dq).relative_rms, cap);
    EXPECT_LE(distance(got.dk, want.dk).relative_rms, cap);
    EXPECT_LE(distance(got.dv, want.dv).relative_rms, cap);
    for (std::int64_t j = 0; j < 30; ++j) EXPECT_EQ(got.dk.get(j * 5 * 64), 0);
  }
}

TEST(CudaBackward, BitwiseRepeatableUnderEverySchedule) {
  const AttentionProblem p(
      {.num_queries = 100, .num_keys = 130, .q_heads = 4, .kv_heads = 2, .dk = 128, .dv = 128, .dtype = bf16, .shape = Shape::random});
  begin(0);
  const Gradients one = run_backward(p);
  for (const std::uint64_t seed : {1, 2}) {
    begin(seed);
    const Gradients other = run_backward(p);
    EXPECT_EQ(other.dq.bytes, one.dq.bytes);
    EXPECT_EQ(other.dk.bytes, one.dk.bytes);
    EXPECT_EQ(other.dv.bytes, one.dv.bytes);
  }
}

}  // namespace
}  // namespace seqccl::test
