// movement_test.cpp - copies, sums, merges and steps of states on the device against those of the CPU.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <limits>

#include "cuda/device.hpp"
#include "seqccl/error.hpp"
#include "seqccl/kernels.hpp"

namespace seqccl::test {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

class CudaMovement : public ::testing::Test {
 protected:
  void SetUp() override { begin(1); }
  void TearDown() override { EXPECT_EQ(reports(), ""); }
  static void wait() { require(cudaDeviceSynchronize(), "cudaDeviceSynchronize"); }
};

/// The same extents (B, T, H, D) over memory in the given order of axes, outermost first, `gap` elements between rows of the last.
Geometry ordered(std::array<std::int64_t, 4> shape, std::array<int, 4> order, std::int64_t gap = 0) {
  Geometry result;
  result.num_axes = 4;
  std::int64_t stride = 1;
  for (int i = 3; i >= 0; --i) {
    const auto axis = static_cast<std::size_t>(order[static_cast<std::size_t>(i)]);
    result.shape[axis] = shape[axis];
    result.strides[axis] = stride;
    stride *= shape[axis];
    if (i == 3) stride += gap;
  }
  return result;
}
/// Memory that a geometry spans.
HostTensor memory_of(DType dtype, const Geometry& geometry, std::uint64_t seed) {
  std::int64_t last = 1;
  for (int axis = 0; axis < 4; ++axis) last += (geometry.shape[axis] - 1) * geometry.strides[axis];
  return random_tensor(dtype, {last}, seed);
}
TensorView with(TensorView view, const Geometry& geometry) {
  view.geometry = geometry;
  return view;
}

TEST_F(CudaMovement, CopiesBetweenAllTypesAndOrdersAsTheCpuDoes) {
  constexpr std::array<int, 4> orders[] = {{0, 1, 2, 3}, {2, 0, 1, 3}, {0, 2, 1, 3}, {3, 0, 1, 2}};
  int n = 0;
  for (const DType from : {f32, f16, bf16}) {
    for (const DType to : {f32, f16, bf16}) {
      for (const std::int64_t size : {16, 7}) {
        const std::array<std::int64_t, 4> shape{2, 5, 3, size};
        const Geometry a = ordered(shape, orders[n % 4], n % 3 == 1 ? 8 : 0), b = ordered(shape, orders[(n + 1) % 4], n % 3 == 2 ? 8 : 0);
        HostTensor source = memory_of(from, a, 1), target = memory_of(to, b, 2);
        source.set(0, infinity), source.set(1, -0.0), source.set(2, 7e4), source.set(3, 1e-40);
        const DeviceTensor device_source(source), device_target(target);
        cuda::copy(with(device_source.device, a), with(device_target.device, b), nullptr);
        cpu::copy(with(source.view(), a), with(target.view(), b), 1);
        HostTensor got = target;
        device_target.download(got);
        EXPECT_EQ(got.bytes, target.bytes) << name(from) << " to " << name(to) << ", " << n;
        ++n;
      }
    }
  }
}

TEST_F(CudaMovement, AddsAndZeroes) {
  for (const DType from : {f32, bf16}) {
    const HostTensor more = random_tensor(from, {2, 5, 3, 16}, 1);
    HostTensor sum = random_tensor(f32, {2, 5, 3, 16}, 2), got = sum;
    const DeviceTensor device_more(more), device_sum(sum);
    cuda::add(device_more.device, device_sum.device, nullptr);
    cpu::add(more.view(), sum.view(), 1);
    device_sum.download(got);
    EXPECT_EQ(got.bytes, sum.bytes);
    const Geometry heads = ordered({2, 5, 2, 16}, {0, 1, 2, 3}, 0);  // the first two heads of three
    Geometry part = sum.geometry;
    part.shape = heads.shape;
    cuda::zero(with(device_sum.device, part), nullptr);
    cpu::zero(with(sum.view(), part), 1);
    device_sum.download(got);
    EXPECT_EQ(got.bytes, sum.bytes);
  }
}

TEST_F(CudaMovement, MergesAsTheCpuDoes) {
  for (const DType part : {f32, f16, bf16}) {
    const HostTensor part_out = random_tensor(part, {2, 5, 3, 40}, 1);
    HostTensor part_lse = random_tensor(f32, {2, 5, 3, 1}, 2, 4), out = random_tensor(f32, {2, 5, 3, 40}, 3),
               lse = random_tensor(f32, {2, 5, 3, 1}, 4, 4);
    part_lse.set(0, -infinity), lse.set(1, -infinity), part_lse.set(2, -infinity), lse.set(2, -infinity), lse.set(3, 500);
    for (int d = 0; d < 40; ++d) out.set(40 + d, std::nan(""));  // what holds nothing yet
    const DeviceTensor a(part_out), b(part_lse), c(out), d(lse);
    cuda::merge(a.device, b.device, c.device, d.device, nullptr);
    cpu::merge(part_out.view(), part_lse.view(), out.view(), lse.view(), 1);
    HostTensor got_out = out, got_lse = lse;
    c.download(got_out), d.download(got_lse);
    EXPECT_LE(distance(got_out, out).max, 2e-6 * distance(got_out, out).reference_max);
    EXPECT_LE(distance(got_lse, lse).max, 1e-6 * 500);
  }
}

TEST_F(CudaMovement, RowSumsAndSinkGradients) {
  for (const DType a : {f32, bf16}) {
    for (const DType b : {f32, f16}) {
      const HostTensor dout = random_tensor(a, {2, 7, 3, 70}, 1), out = random_tensor(b, {2, 7, 3, 70}, 2),
                       sinks = random_tensor(f32, {1, 1, 3, 1}, 3);
      HostTensor lse = random_tensor(f32, {2, 7, 3, 1}, 4), delta(f32, {2, 7, 3, 1}), dsinks(f32, {1, 1, 3, 1}), got_delta = delta,
                 got_dsinks = dsinks;
      lse.set(4, -infinity);
      const DeviceTensor x(dout), y(out), s(sinks), l(lse), d(delta, false), g(dsinks, false);
      cuda::row_dot(x.device, y.device, d.device, nullptr);
      cuda::sink_gradient(s.device, l.device, d.device, g.device, nullptr);
      cpu::row_dot(dout.view(), out.view(), delta.view(), 1);
      cpu::sink_gradient(sinks.view(), lse.view(), delta.view(), dsinks.view());
      d.download(got_delta), g.download(got_dsinks);
      EXPECT_LE(distance(got_delta, delta).relative_rms, 1e-6);
      EXPECT_LE(distance(got_dsinks, dsinks).relative_rms, 2e-6);
    }
  }
}

TEST_F(CudaMovement, StepsOfStates) {
  for (const std::int64_t dim : {1, 40, 65}) {
    for (const int kind : {0, 1, 2, 3}) {  // no decay, one per head, one per row, dense
      const HostTensor update = random_tensor(f32, {2, 3, dim, 50}, 1), log_sum = random_tensor(f32, {2, 3, kind == 2 ? dim : 1, 1}, 2),
                       transition = random_tensor(f32, {2, 3, dim, dim}, 3, 1 / std::sqrt(static_cast<double>(dim)));
      HostTensor state = random_tensor(f32, {2, 3, dim, 50}, 4), got = state;
      const DeviceTensor u(update), l(log_sum), t(transition), s(state);
      StateStepArguments host{.update = update.view(), .state = state.view(), .repeat = 3},
          device{.update = u.device, .state = s.device, .repeat = 3};
      if (kind == 1 || kind == 2) host.log_sum = log_sum.view(), device.log_sum = l.device;
      if (kind == 3) host.transition = transition.view(), device.transition = t.device;
      cuda::state_step(device, nullptr);
      cpu::state_step(host);
      s.download(got);
      EXPECT_LE(distance(got, state).relative_rms, 1e-6) << dim << " " << kind;
      if (dim == 1) continue;
      HostTensor columns(f32, {2, 3, dim, 7}), got_columns = columns;
      const DeviceTensor c(columns, false);
      cuda::take_columns(s.device, c.device, 11, nullptr);
      cuda::put_columns(c.device, s.device, 40, nullptr);
      cpu::take_columns(got.view(), columns.view(), 11, 1);
      cpu::put_columns(columns.view(), got.view(), 40, 1);
      HostTensor after = got;
      c.download(got_columns), s.download(after);
      EXPECT_EQ(got_columns.bytes, columns.bytes);
      EXPECT_EQ(after.bytes, got.bytes);
    }
  }
}

TEST_F(CudaMovement, RefusesWhatDoesNotFit) {
  HostTensor a(f32, {1, 2, 3, 4}), b(f32, {1, 2, 3, 5}), c(bf16, {1, 2, 3, 4});
  const auto text = [](auto call) -> std::string {
    try {
      call();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::argument);
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(text([&] { cuda::copy(a.view(), b.view(), nullptr); }), "copy: from has shape (1, 2, 3, 4), want (1, 2, 3, 5), that of to");
  EXPECT_EQ(text([&] { cuda::add(a.view(), c.view(), nullptr); }), "add: to is bf16, want f32");
  EXPECT_EQ(text([&] { cuda::take_columns(a.view(), a.view(), 1, nullptr); }),
            "take_columns: columns [1, 5) of a state with 4, want them inside");
}

/// A packed tensor moves 16 bytes a thread, whole sectors, whatever the order of its heads and tokens.
TEST_F(CudaMovement, HeadSwapsPackMoves16BytesAThread) {
  const HostTensor q = random_tensor(bf16, {1, 64, 8, 64}, 1);
  HostTensor packed(bf16, {8, 64, 64});  // head by head
  const DeviceTensor from(q), to(packed, false);
  cuda::copy(from.device, with(to.device, ordered({1, 64, 8, 64}, {0, 2, 1, 3})), nullptr);
  wait();
  to.download(packed);
  for (int h = 0; h < 8; ++h)
    for (int t = 0; t < 64; ++t) ASSERT_EQ(packed.get((h * 64 + t) * 64 + 5), q.get((t * 8 + h) * 64 + 5));
}

}  // namespace
}  // namespace seqccl::test
