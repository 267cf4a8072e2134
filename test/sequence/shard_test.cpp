// shard_test.cpp - tokens out of a whole tensor and back, for every layout.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "random_problem.hpp"
#include "refusal.hpp"
#include "support/tensor.hpp"

namespace seqccl {
namespace {

using test::HostTensor;

// Where element (b, t, h, d) lies.
std::int64_t at(const Geometry& geometry, std::int64_t b, std::int64_t t, std::int64_t h, std::int64_t d) {
  return b * geometry.strides[0] + t * geometry.strides[1] + h * geometry.strides[2] + d * geometry.strides[3];
}

// The first `tokens` tokens and all but the last element of each head of a tensor that is a little too large, or (B, H, T, D) memory.
TensorView strided(HostTensor& storage, std::int64_t tokens, bool heads_first) {
  TensorView view = storage.view();
  if (heads_first) {
    std::swap(view.geometry.shape[1], view.geometry.shape[2]);
    std::swap(view.geometry.strides[1], view.geometry.strides[2]);
  }
  view.geometry.shape[1] = tokens;
  view.geometry.shape[3] -= 1;
  return view;
}

TEST(Shard, ThereAndBackInEveryTypeAndLayout) {
  constexpr std::int64_t b = 2, n = 23, h = 3, d = 4;
  test::Generator generator(12);
  for (const DType dtype : {f32, f16, bf16, DType::f64})
    for (int kind = 0; kind < test::num_partition_kinds; ++kind)
      for (int layout = 0; layout < 4; ++layout) {
        const Partition partition = test::random_partition(generator, kind, n, 4);
        SCOPED_TRACE(partition.describe());
        const bool whole_heads_first = layout == 1, shard_heads_first = layout == 2;
        const auto storage = [&](std::int64_t tokens, bool heads_first) {
          if (layout == 0) return HostTensor(dtype, {b, tokens, h, d});
          return heads_first ? HostTensor(dtype, {b, h, tokens + 1, d + 1}) : HostTensor(dtype, {b, tokens + 1, h, d + 1});
        };
        const auto view = [&](HostTensor& tensor, std::int64_t tokens, bool heads_first) {
          return layout == 0 ? tensor.view() : strided(tensor, tokens, heads_first);
        };
        HostTensor whole = storage(n, whole_heads_first), back = whole;
        for (std::int64_t i = 0; i < whole.size(); ++i) whole.set(i, static_cast<double>(i % 251));
        const TensorView whole_view = view(whole, n, whole_heads_first), back_view = view(back, n, whole_heads_first);
        const std::vector<std::byte> untouched = back.bytes;
        for (Rank rank = 0; rank < 4; ++rank) {
          const std::int64_t tokens = partition.tokens_on(rank);
          HostTensor part = storage(tokens, shard_heads_first);
          const TensorView part_view = view(part, tokens, shard_heads_first);
          partition.shard(whole_view, rank, part_view);
          std::int64_t num_written = 0;
          for (std::int64_t i = 0; i < b * tokens * h * d; ++i) {
            const std::int64_t e = i % d, head = i / d % h, token = i / (d * h) % tokens, row = i / (d * h * tokens);
            ASSERT_EQ(part.get(at(part_view.geometry, row, token, head, e)),
                      whole.get(at(whole_view.geometry, row, partition.global_position(rank, token), head, e)));
          }
          for (std::int64_t i = 0; i < part.size(); ++i) num_written += std::isnan(part.get(i)) ? 0 : 1;
          ASSERT_EQ(num_written, b * tokens * h * d);  // the padding is still poisoned
          partition.unshard(part_view, rank, back_view);
        }
        for (std::int64_t i = 0; i < b * n * h * d; ++i) {
          const std::int64_t place = at(back_view.geometry, i / (d * h * n), i / (d * h) % n, i / d % h, i % d);
          ASSERT_EQ(back.get(place), whole.get(place));
          back.set(place, std::numeric_limits<double>::quiet_NaN());
        }
        for (std::int64_t i = 0; i < back.size(); ++i) ASSERT_TRUE(std::isnan(back.get(i)));
      }
}

TEST(Shard, TwoAxesAndEmptyRanks) {
  const std::int64_t lengths[] = {0, 3, 0};
  const Partition partition = Partition::uneven(lengths);
  std::int64_t ids[] = {7, 8, 9};
  std::int64_t got[3] = {};
  partition.shard(view(ids, DType::f64, {1, 3}), 1, view(got, DType::f64, {1, 3}));
  EXPECT_EQ(got[2], 9);
  EXPECT_NO_THROW(partition.shard(view(ids, DType::f64, {1, 3}), 0, TensorView{nullptr, DType::f64, contiguous({1, 0})}));
}

TEST(Shard, RefusesWrongTensors) {
  const Partition partition = Partition::zigzag(8, 2);
  HostTensor whole(f32, {1, 8, 2}), part(f32, {1, 4, 2}), half(f16, {1, 4, 2}), heads(f32, {1, 4, 3}), more(f32, {1, 4, 2, 1}),
      shorter(f32, {1, 7, 2}), flat(f32, {8});
  EXPECT_REFUSED("shard: rank is 2", partition.shard(whole.view(), 2, part.view()));
  EXPECT_REFUSED("shard is f16, want f32", partition.shard(whole.view(), 0, half.view()));
  EXPECT_REFUSED("shard has shape (1, 4, 3), want (1, 4, 2)", partition.shard(whole.view(), 0, heads.view()));
  EXPECT_REFUSED("shard has shape (1, 4, 2, 1)", partition.unshard(more.view(), 0, whole.view()));
  EXPECT_REFUSED("whole has shape (1, 7, 2), want 8 tokens", partition.unshard(part.view(), 0, shorter.view()));
  EXPECT_REFUSED("whole has shape (8)", partition.shard(flat.view(), 0, flat.view()));
  EXPECT_REFUSED("whole has no memory", partition.shard({nullptr, f32, whole.geometry}, 0, part.view()));
  EXPECT_REFUSED("shard has no memory", partition.shard(whole.view(), 0, {nullptr, f32, part.geometry}));
}

}  // namespace
}  // namespace seqccl
