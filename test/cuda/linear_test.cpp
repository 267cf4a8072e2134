// linear_test.cpp - CUDA kernels of linear attention, all kinds, forward and backward, against the double recurrence.
// SPDX-License-Identifier: Apache-2.0
#include <functional>
#include <limits>

#include "cuda/linear_device.hpp"
#include "kernels/delta_problem.hpp"
#include "seqccl/error.hpp"
#include "support/ranks.hpp"

namespace seqccl::test {
namespace {

class CudaLinear : public ::testing::Test {
 protected:
  void SetUp() override { begin(0); }
};

/// The rule of the CPU kernels with twice their roundings: products are split in two numbers of 11 bits, so 2^-22 where f32 has 2^-24.
void expect_close_on_device(const LinearResults& got, const LinearInputs& in, const std::string& note = {}) {
  if (in.kind == Kind::delta) return expect_delta_close(got, in, note, 16);
  const LinearResults want = reference_results(in), plain = reference_results(in, true);
  const auto tensors = got.all(), wanted = want.all(), plains = plain.all();
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const HostTensor& tensor = *tensors[i].second;
    if (tensor.size() == 0 || tensor.bytes.empty()) continue;
    const Distance error = distance(tensor, *wanted[i].second), bar = distance(*plains[i].second, *wanted[i].second);
    const std::string what = std::string(tensors[i].first) + " of " + describe(in) + note;
    const double cap = (tensor.dtype == DType::f32 ? 2e-6 : tensor.dtype == DType::f16 ? 2e-3 : 1.2e-2) * (what[0] == 'd' ? 3 : 1);
    EXPECT_LE(error.max, (tensor.size() < 16 ? 2 : 1) * (3 * bar.max + 8 * epsilon(tensor.dtype) * error.reference_max)) << what;
    if (tensor.size() < 16) continue;  // a few sums may cancel
    EXPECT_LE(error.relative_rms, cap) << what;
  }
}

struct LinearCase {
  Kind kind;
  Decay decay;
  DType dtype;
  LinearShape shape;
  std::vector<std::int64_t> cuts;
  bool strided, local_has_state;
  double share;  // of the workspace
  std::uint64_t seed;
};
std::ostream& operator<<(std::ostream& to, const LinearCase& c) {
  return to << name(c.kind) << ' ' << name(c.decay) << ' ' << name(c.dtype) << " T " << c.shape.tokens << " Dk " << c.shape.key_dim
            << " Dv " << c.shape.value_dim << " share " << c.share;
}

/// Every kind with every decay, in turn with types, lengths around blocks and chunks, head sizes around tiles, cuts, strides, segments.
std::vector<LinearCase> cases() {
  constexpr std::int64_t lengths[] = {1, 17, 64, 130, 65, 200},
                         sizes[][2] = {{8, 16}, {33, 40}, {64, 64}, {40, 72}, {24, 33}, {80, 1}, {1, 8}};
  constexpr DType types[] = {DType::f32, DType::bf16, DType::f16};
  std::vector<LinearCase> all;
  std::uint64_t n = 0;
  for (int round = 0; round < (is_sanitized ? 1 : 3); ++round)
    for (const Kind kind : all_kinds)
      for (const Decay decay : all_decays) {
        if (kind == Kind::delta && decay == Decay::constant) continue;
        const auto& size = sizes[n % 7];
        const std::int64_t tokens = lengths[(n + static_cast<std::uint64_t>(round)) % 6];
        LinearCase c{kind, decay,      types[n % 3], {n % 4 == 3 ? 2 : 1, tokens, n % 2 == 0 ? 2 : 1, size[0], size[1]},
                     {},   n % 3 == 1, n % 2 == 1,   n % 2 == 0 ? 0.0 : 1.0,
                     n};
        if (n % 3 == 0 && tokens > 2) c.cuts = {tokens / 3};
        all.push_back(c);
        ++n;
      }
  return all;
}

class CudaLinearCases : public ::testing::TestWithParam<LinearCase> {};
TEST_P(CudaLinearCases, AgreesWithTheRecurrenceAndIsClean) {
  const LinearCase& c = GetParam();
  begin(c.seed % 3);
  const LinearInputs in = linear_inputs(c.shape, c.decay, c.dtype, c.seed, DType::f32, c.kind);
  const LinearResults got = device_results(in, {.cuts = c.cuts, .strided = c.strided, .local_has_state = c.local_has_state}, c.share);
  EXPECT_EQ(reports(), "");
  expect_close_on_device(got, in);
}
INSTANTIATE_TEST_SUITE_P(Odd, CudaLinearCases, ::testing::ValuesIn(cases()));

/// Decays from none to total: nothing is a difference of two sums, so no digit is lost and -inf gives no NaN.
TEST_F(CudaLinear, StrongAndTotalDecay) {
  for (const Kind kind : all_kinds)
    for (const Decay decay : {Decay::scalar, Decay::vector}) {
      LinearInputs in = linear_inputs({1, 100, 1, 24, 16}, decay, DType::f32, 31, DType::f32, kind);
      for (std::int64_t i = 0; i < in.log_decay.size(); ++i) {
        const std::int64_t turn = i * 7919 % 23;
        in.log_decay.set(i, turn < 3 ? -std::numeric_limits<double>::infinity() : turn < 6 ? -60 : turn < 9 ? -1e-6 : -0.3);
      }
      expect_close_on_device(device_results(in), in, ", strong decay");
      EXPECT_EQ(reports(), "");
    }
}

/// Products of powers of the chunk's matrix would be wrong by many orders of magnitude here; substitution is not.
TEST_F(CudaLinear, SixtyFourEqualKeys) {
  for (const double beta : {0.0, 1.0, 1.9}) {
    LinearInputs in = delta_inputs({1, 80, 1, 32, 16}, Decay::none, DType::f32, 500);
    repeat_first_key(in);
    in.beta.fill(beta);
    expect_delta_close(device_results(in), in, fmt::format(", beta {}", beta), beta > 1 ? 64 : 16);  // 1.9 turns all around 64 times
    EXPECT_EQ(reports(), "");
  }
}

/// What a run is cut into does not change its results beyond the sweep of the states, which is the same: bit for bit.
TEST_F(CudaLinear, AnyWorkspaceGivesTheSameBits) {
  for (const Kind kind : all_kinds) {
    const LinearInputs in = linear_inputs({1, 200, 1, 24, 16}, Decay::scalar, bf16, 600, DType::f32, kind);
    const LinearResults whole = device_results(in, {}, 1);
    for (const double share : {0.0, 0.5}) {
      LinearResults cut = device_results(in, {}, share);
      expect_same_bits(cut, whole, describe(in));
    }
  }
  EXPECT_EQ(reports(), "");
}

TEST_F(CudaLinear, NanShowsInEveryTokenThatSeesItAndInNoEarlierChunk) {
  for (const Kind kind : all_kinds) {
    LinearInputs in = linear_inputs({1, 140, 1, 8, 8}, Decay::scalar, DType::f32, 700, DType::f32, kind);
    in.k.set(70 * 8 + 3, std::nan(""));
    const LinearResults got = device_results(in);
    for (std::int64_t t = 0; t < 140; t = t == 63 ? 71 : t + 1)
      EXPECT_EQ(std::isnan(got.out.get(t * 8)), t > 70) << name(kind) << " token " << t;
  }
}

TEST_F(CudaLinear, NoTokensLeaveZeroAndTheIdentity) {
  const LinearInputs in = delta_inputs({1, 0, 2, 8, 16}, Decay::none, DType::f32, 800);
  HostTensor state = random_tensor(DType::f32, {1, 2, 8, 16}, 1), transition = random_tensor(DType::f32, {1, 2, 8, 8}, 2);
  const HostTensor k = random_tensor(DType::f32, {1, 0, 2, 8}, 1), v = random_tensor(DType::f32, {1, 0, 2, 16}, 1),
                   beta = random_tensor(DType::f32, {1, 0, 2, 1}, 1);
  std::byte nothing[1];
  const auto at = [&](const HostTensor& x) { return ConstTensorView{nothing, x.dtype, x.geometry}; };
  DeviceKernels::linear_summary({.k = at(k), .v = at(v), .state = state.view(), .beta = at(beta), .transition = transition.view()});
  for (std::int64_t i = 0; i < state.size(); ++i) EXPECT_EQ(state.get(i), 0);
  for (std::int64_t i = 0; i < transition.size(); ++i) EXPECT_EQ(transition.get(i), i / 8 % 8 == i % 8 ? 1 : 0);
  expect_delta_close(device_results(in), in);
  EXPECT_EQ(reports(), "");
}

TEST_F(CudaLinear, CanBeCapturedAndNothingWaits) {
  const LinearInputs in = linear_inputs({1, 100, 1, 16, 16}, Decay::vector, bf16, 900);
  Box q(in.q, false), k(in.k, false), v(in.v, false), out(DType::f32, 1, 100, 1, 16, false), replayed = out;
  DeviceOperands there;
  const LinearLocalArguments a{
      .q = there.in(q.view()), .k = there.in(k.view()), .v = there.in(v.view()), .log_decay = {}, .out = there.out(out.view())};
  const cuda::WorkspaceNeed need = cuda::workspace_need(a);
  const DeviceBuffer workspace(need.most_bytes);
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  require(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "begin");
  cuda::linear_local(a, {workspace.data(), need.most_bytes}, stream);
  require(cudaStreamEndCapture(stream, &graph), "end");
  require(cudaGraphInstantiate(&executable, graph, 0), "instantiate");
  require(cudaGraphLaunch(executable, stream), "launch");
  require(cudaStreamSynchronize(stream), "wait");
  there.download();
  DeviceKernels::linear_local({.q = q.view(), .k = k.view(), .v = v.view(), .log_decay = {}, .out = replayed.view()});
  EXPECT_EQ(out.storage.bytes, replayed.storage.bytes);
  EXPECT_EQ(reports(), "");
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
}

std::string refusal(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::argument);
    return error.what();
  }
  return "nothing was thrown";
}

TEST_F(CudaLinear, WrongArgumentsAreNamed) {
  const LinearInputs in = linear_inputs({1, 10, 2, 8, 16}, Decay::none, DType::f32, 1000);
  Box q(in.q, false), k(in.k, false), v(in.v, false), out(DType::f32, 1, 10, 2, 16, false), state(in.state, false),
      big(DType::f32, 1, 1, 1, 300, false);
  LinearLocalArguments a{.q = q.view(), .k = k.view(), .v = v.view(), .log_decay = {}, .out = out.view()};
  const cuda::WorkspaceNeed need = cuda::workspace_need(a);
  EXPECT_LE(need.least_bytes, need.most_bytes);
  EXPECT_NE(
      refusal([&] { cuda::linear_local(a, {}, nullptr); }).find(fmt::format("workspace has 0 bytes, want at least {}", need.least_bytes)),
      std::string::npos);
  EXPECT_NE(refusal([&] {
              cuda::linear_local(a, {out.storage.bytes.data() + 1, 1}, nullptr);
            }).find("want a multiple of 256"),
            std::string::npos);
  LinearLocalArguments wrong = a;
  wrong.v = q.view(), wrong.out = out.view();
  EXPECT_EQ(refusal([&] { (void)cuda::workspace_need(wrong); }), "linear_local: out is (1, 10, 2, 16), want (1, 10, 2, 8)");
  wrong = a, wrong.beta = wrong.bonus = q.view();
  EXPECT_EQ(refusal([&] { (void)cuda::workspace_need(wrong); }),
            "linear_local: beta and bonus are both given, want one kind: delta or RWKV6");
  wrong = a, wrong.q = wrong.k = wrong.v = big.view(), wrong.out = big.view();
  EXPECT_NE(refusal([&] { (void)cuda::workspace_need(wrong); }).find("Dk = 300, Dv = 300 elements, want 1 to 256"), std::string::npos);
  LinearBackwardArguments b{
      .q = q.view(), .k = k.view(), .v = v.view(), .log_decay = {}, .dout = v.view(), .dq = q.view(), .dk = k.view(), .dv = v.view()};
  b.dlog_decay = q.view();
  EXPECT_EQ(refusal([&] { (void)cuda::workspace_need(b); }), "linear_backward: dlog_decay is given and log_decay is not, want both");
  LinearSummaryArguments c{.k = k.view(), .v = v.view(), .log_decay = {}, .state = state.view()};
  c.transition = state.view();
  EXPECT_EQ(refusal([&] { (void)cuda::workspace_need(c); }), "linear_summary: beta is (), want (1, 10, 2, 1)");
}

}  // namespace
}  // namespace seqccl::test
