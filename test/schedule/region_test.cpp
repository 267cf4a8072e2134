// region_test.cpp - region_of and overlap against sets of bytes.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "seqccl/recorder.hpp"

namespace seqccl {
namespace {

std::vector<bool> bytes_of(const Region& region, std::size_t size) {
  std::vector<bool> bytes(size);
  for (std::uint64_t i = 0; i < region.count; ++i)
    for (std::uint64_t j = 0; j < region.block; ++j) bytes.at(region.offset + i * region.stride + j) = true;
  return bytes;
}

bool share_a_byte(const std::vector<bool>& a, const std::vector<bool>& b) {
  for (std::size_t i = 0; i < a.size(); ++i)
    if (a[i] && b[i]) return true;
  return false;
}

TEST(Overlap, IsExactForRandomStridedRegions) {
  std::mt19937 random(7);
  const auto draw = [&](int low, int high) { return static_cast<std::uint64_t>(std::uniform_int_distribution<int>(low, high)(random)); };
  int num_overlaps = 0, num_apart = 0;
  for (int i = 0; i < 20000; ++i) {
    const auto region = [&] {
      Region result{0, draw(0, 40), draw(0, 6), 0, draw(0, 7)};
      result.stride = result.block + draw(0, 9);
      if (result.stride == 0) result.stride = 1;
      return result;
    };
    const Region a = region(), b = region();
    const bool expected = share_a_byte(bytes_of(a, 256), bytes_of(b, 256));
    ASSERT_EQ(overlap(a, b), expected) << i << ": " << a.offset << " " << a.block << " " << a.stride << " " << a.count << " and "
                                       << b.offset << " " << b.block << " " << b.stride << " " << b.count;
    ASSERT_EQ(overlap(b, a), expected);
    ++(expected ? num_overlaps : num_apart);
  }
  EXPECT_GT(num_overlaps, 2000);
  EXPECT_GT(num_apart, 2000);
}

TEST(Overlap, OtherSlotsNeverMeet) { EXPECT_FALSE(overlap({0, 0, 8, 8, 1}, {1, 0, 8, 8, 1})); }

// Element (t, b, h, d) of scratch is number ((t B + b) H + h) D + d.
TEST(RegionOf, IsTheBytesOfTheBlockAndOverlapIsExactForBlocks) {
  std::mt19937 random(11);
  const auto draw = [&](std::int64_t low, std::int64_t high) { return std::uniform_int_distribution<std::int64_t>(low, high)(random); };
  for (int i = 0; i < 2000; ++i) {
    const Recorder::Shape shape{draw(1, 3), draw(1, 4), draw(1, 4), draw(1, 3)};
    const DType dtype = draw(0, 1) == 0 ? f32 : bf16;
    Recorder plan("regions", 0, 1);
    const Block all = plan.scratch(dtype, shape);
    const Schedule schedule = std::move(plan).finish("regions");
    const auto block = [&] {
      const std::int64_t token = draw(0, shape.tokens), head = draw(0, shape.heads);
      return all.tokens(token, draw(0, shape.tokens - token))
          .heads(static_cast<std::int32_t>(head), static_cast<std::int32_t>(draw(0, shape.heads - head)));
    };
    const auto expected_bytes = [&](const Block& part) {
      std::vector<bool> bytes(schedule.slots[0].num_bytes());
      const std::int64_t row = shape.dim * static_cast<std::int64_t>(size_bytes(dtype));
      for (std::int64_t t = part.token_first; t < part.token_first + part.num_tokens; ++t)
        for (std::int64_t b = 0; b < shape.batch; ++b)
          for (std::int64_t h = part.head_first; h < part.head_first + part.num_heads; ++h)
            for (std::int64_t j = 0; j < row; ++j)
              bytes[static_cast<std::size_t>(((t * shape.batch + b) * shape.heads + h) * row + j)] = true;
      return bytes;
    };
    const Block a = block(), b = block();
    ASSERT_EQ(bytes_of(region_of(schedule, a), schedule.slots[0].num_bytes()), expected_bytes(a));
    ASSERT_EQ(overlap(region_of(schedule, a), region_of(schedule, b)), share_a_byte(expected_bytes(a), expected_bytes(b)));
  }
}

}  // namespace
}  // namespace seqccl
