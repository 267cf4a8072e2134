// dimension_switch_test.cpp - DimensionSwitch on thread ranks: every bit lands, comes back, and strides that fold are taken.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/dimension_switch.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <numeric>

#include "api/movement_support.hpp"

namespace seqccl::test {
namespace {

std::int64_t product(const std::vector<std::int64_t>& extents) {
  return std::accumulate(extents.begin(), extents.end(), std::int64_t{1}, std::multiplies<>());
}

/// The part of a whole tensor in which `axis` is cut to `share`, in the order of its own elements.
HostTensor part_of(const HostTensor& whole, const std::vector<std::int64_t>& shape, int axis, const Rows& share) {
  std::int64_t inside = 1;
  for (std::size_t i = static_cast<std::size_t>(axis) + 1; i < shape.size(); ++i) inside *= shape[i];
  const std::int64_t extent = shape[static_cast<std::size_t>(axis)], outside = product(shape) / extent / inside;
  HostTensor part(whole.dtype, {outside * share.count * inside});
  const auto run = static_cast<std::size_t>(share.count * inside) * size_bytes(whole.dtype);
  for (std::int64_t i = 0; run != 0 && i < outside; ++i)
    std::memcpy(part.bytes.data() + static_cast<std::size_t>(i) * run,
                whole.bytes.data() + static_cast<std::size_t>((i * extent + share.first) * inside) * size_bytes(whole.dtype), run);
  return part;
}

/// With the axes of `shape` if a view holds as many, else flat.
template <class Tensor>
auto shaped(Tensor& tensor, const std::vector<std::int64_t>& shape) {
  auto view = tensor.view();
  if (shape.size() > static_cast<std::size_t>(max_axes)) return view;
  view.geometry.num_axes = 0;
  std::int64_t stride = product(shape);
  for (const std::int64_t extent : shape) {
    stride = extent == 0 ? 0 : stride / extent;
    const auto axis = static_cast<std::size_t>(view.geometry.num_axes++);
    view.geometry.shape[axis] = extent;
    view.geometry.strides[axis] = stride;
  }
  return view;
}

std::vector<DimensionSwitchSpec> switch_specs(int num_ranks) {
  const std::int64_t P = num_ranks;
  return {{.shape = {2 * P, 3 * P, 4}, .from = 0, .to = 1},        {.shape = {2, 13, 9, 3}, .from = 1, .to = 2, .dtype = bf16},
          {.shape = {2, 5, 3, 11, 3}, .from = 3, .to = 1},         {.shape = {2, 9, 7, 2, 11, 5}, .from = 4, .to = 0, .dtype = f16},
          {.shape = {2, 3, 2, 5, 2, 6, 1, 2}, .from = 5, .to = 3}, {.shape = {3, 1, 1}, .from = 0, .to = 1}};
}

TEST(DimensionSwitch, EveryBitLandsAndComesBack) {
  for (const int num_ranks : ranks_of)
    for (const DimensionSwitchSpec& there : switch_specs(num_ranks))
      for (const DimensionSwitchSpec& spec : {there, there.transposed()}) {
        SCOPED_TRACE(spec.describe());
        HostTensor whole = coded(spec.dtype, {product(spec.shape)});
        on_ranks(num_ranks, [&](Communicator& comm) {
          DimensionSwitch forth(comm, spec), back(comm, spec.transposed());
          const Rows mine = forth.share(spec.from, comm.rank()), then = forth.share(spec.to, comm.rank());
          EXPECT_EQ(mine.first, comm.rank() == 0 ? 0 : forth.share(spec.from, comm.rank() - 1).end());
          EXPECT_EQ(forth.share(spec.to, num_ranks - 1).end(), spec.shape[static_cast<std::size_t>(spec.to)]);
          const HostTensor before = part_of(whole, spec.shape, spec.from, mine), want = part_of(whole, spec.shape, spec.to, then);
          HostTensor after(spec.dtype, {want.size()}), again(spec.dtype, {before.size()});
          ASSERT_EQ(product(forth.local_shape(spec.from)), before.size());
          ASSERT_EQ(product(forth.local_shape(spec.to)), want.size());
          for (int repeat = 0; repeat < 2; ++repeat) {
            std::fill(after.bytes.begin(), after.bytes.end(), std::byte{0xee});
            forth.run(shaped(before, forth.local_shape(spec.from)), shaped(after, forth.local_shape(spec.to)));
            ASSERT_EQ(after.bytes, want.bytes);
            back.run(shaped(std::as_const(after), forth.local_shape(spec.to)), shaped(again, forth.local_shape(spec.from)));
            ASSERT_EQ(again.bytes, before.bytes);
          }
          const std::int64_t n_from = spec.shape[static_cast<std::size_t>(spec.from)], n_to = spec.shape[static_cast<std::size_t>(spec.to)];
          const std::int64_t rest = product(spec.shape) / n_from / n_to;
          const std::int64_t elements = 2 * rest * ((n_from - mine.count) * then.count + (n_to - then.count) * mine.count);
          const std::vector<std::uint64_t> bytes = comm.received_bytes();
          EXPECT_EQ(std::accumulate(bytes.begin(), bytes.end(), std::uint64_t{0}),
                    static_cast<std::uint64_t>(elements) * size_bytes(spec.dtype));
        });
        if (::testing::Test::HasFailure()) return;
      }
}

TEST(DimensionSwitch, TheWayBackIsTheTranspose) {
  for (const int num_ranks : ranks_of)
    for (DimensionSwitchSpec spec : switch_specs(num_ranks)) {
      spec.dtype = f32;
      const std::int64_t size = product(spec.shape);
      const HostTensor x = integers(f32, {size}, 1), y = integers(f32, {size}, 2);
      std::atomic<std::int64_t> forward{0}, backward{0};
      const auto dot = [](const HostTensor& a, const HostTensor& b) {
        double sum = 0;
        for (std::int64_t i = 0; i < a.size(); ++i) sum += a.get(i) * b.get(i);
        return static_cast<std::int64_t>(sum);
      };
      on_ranks(num_ranks, [&](Communicator& comm) {
        DimensionSwitch forth(comm, spec), back(comm, spec.transposed());
        const HostTensor my_x = part_of(x, spec.shape, spec.from, forth.share(spec.from, comm.rank()));
        const HostTensor my_y = part_of(y, spec.shape, spec.to, forth.share(spec.to, comm.rank()));
        HostTensor moved(f32, {my_y.size()}), returned(f32, {my_x.size()});
        forth.run(my_x.view(), moved.view());
        back.run(my_y.view(), returned.view());
        forward += dot(my_y, moved);
        backward += dot(returned, my_x);
      });
      EXPECT_EQ(forward, backward);
    }
}

// (time, batch, space, C) memory seen as (batch, time, space, C), with room after each row of channels.
TEST(DimensionSwitch, TakesStridesThatFold) {
  static constexpr std::int64_t B = 2, N = 7, S = 5, C = 3;
  const DimensionSwitchSpec spec{.shape = {B, N, S, C}, .from = 1, .to = 2};
  const HostTensor whole = coded(f32, {B * N * S * C});
  for (const int num_ranks : {1, 2, 3, 8})
    on_ranks(num_ranks, [&](Communicator& comm) {
      DimensionSwitch forth(comm, spec), back(comm, spec.transposed());
      const auto strided = [](HostTensor& storage, std::int64_t first, std::int64_t second) {
        TensorView view = storage.view();
        view.geometry.shape = {B, first, second, C};
        view.geometry.strides = {second * (C + 1), B * second * (C + 1), C + 1, 1};
        return view;
      };
      const Rows mine = forth.share(1, comm.rank()), then = forth.share(2, comm.rank());
      HostTensor before(f32, {mine.count, B, S, C + 1}), after(f32, {N, B, then.count, C + 1}), again = before;
      const HostTensor dense = part_of(whole, spec.shape, 1, mine), want = part_of(whole, spec.shape, 2, then);
      const auto at = [](const TensorView& view, std::int64_t i) {
        const std::int64_t c = i % C, s = i / C % view.extent(2), n = i / C / view.extent(2) % view.extent(1),
                           b = i / C / view.extent(2) / view.extent(1);
        return view.as<std::byte>() + 4 * (b * view.stride(0) + n * view.stride(1) + s * view.stride(2) + c);
      };
      const TensorView from = strided(before, mine.count, S), to = strided(after, N, then.count), home = strided(again, mine.count, S);
      for (std::int64_t i = 0; i < dense.size(); ++i) std::memcpy(at(from, i), dense.bytes.data() + 4 * i, 4);
      forth.run(from, to);
      for (std::int64_t i = 0; i < want.size(); ++i) ASSERT_EQ(std::memcmp(at(to, i), want.bytes.data() + 4 * i, 4), 0);
      back.run(to, home);
      EXPECT_EQ(again.bytes, before.bytes);  // the room is still poison
    });
}

TEST(DimensionSwitch, RefusesWrongArguments) {
  on_ranks(1, [](Communicator& comm) {
    const DimensionSwitchSpec spec{.shape = {2, 4, 3, 6, 2}, .from = 3, .to = 1};
    DimensionSwitch forth(comm, spec);
    HostTensor x(f32, {2, 4, 3, 6, 2}), y(f32, {2, 4, 3, 6, 2}), narrow(bf16, {288}), flat(f32, {287});
    const auto bad = [&](DimensionSwitchSpec wrong) { return refusal([&] { DimensionSwitch(comm, wrong); }); };
    const auto says = [](const char* words, const std::string& text) { EXPECT_NE(text.find(words), std::string::npos) << text; };
    says("shape has 2 axes, want 3 to 8", bad({.shape = {2, 3}}));
    says("shape has 9 axes, want 3 to 8", bad({.shape = {1, 1, 1, 1, 1, 1, 1, 1, 1}}));
    says("shape[1] is 0, want 1 or more", bad({.shape = {2, 0, 3}}));
    says("from and to are both 1, want two axes", bad({.shape = {2, 3, 4}, .from = 1, .to = 1}));
    says("to is 2, want 0 to 1", bad({.shape = {2, 3, 4}, .from = 1, .to = 2}));
    says("from is -1, want 0 to 1", bad({.shape = {2, 3, 4}, .from = -1}));
    says("dtype is f64", bad({.shape = {2, 3, 4}, .dtype = DType::f64}));
    EXPECT_REFUSED("before is missing, want f32 (2, 4, 3, 6, 2), or one axis of 288", forth.run({}, y.view()));
    EXPECT_REFUSED("before is bf16, want f32", forth.run(narrow.view(), y.view()));
    EXPECT_REFUSED("after has shape (287), want f32 (2, 4, 3, 6, 2)", forth.run(x.view(), flat.view()));
    EXPECT_REFUSED("after and before share memory", forth.run(x.view(), x.view()));
    EXPECT_REFUSED("share: axis is 4, want 0 to 3", forth.share(4, 0));
    EXPECT_REFUSED("share: rank is 1, want 0 to 0", forth.share(0, 1));
    TensorView apart = x.view();  // axes 1 and 2 move together
    std::swap(apart.geometry.strides[1], apart.geometry.strides[2]);
    EXPECT_REFUSED("before has stride 12 along axis 1, want 108: axes 1 to 2 move together", forth.run(apart, y.view()));
    TensorView skipping = x.view();
    skipping.geometry.strides[4] = 2;
    EXPECT_REFUSED("before has stride 2 along its last axis, want 1", forth.run(skipping, y.view()));
    forth.run(std::as_const(x).view(), y.view());
  });
}

}  // namespace
}  // namespace seqccl::test
