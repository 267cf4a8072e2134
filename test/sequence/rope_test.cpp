// rope_test.cpp - rotary tables of shards are rows of the whole table, and scores of rotated shards are those of the whole sequence.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/rope.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "collectives/plans.hpp"
#include "refusal.hpp"
#include "seqccl/documents.hpp"
#include "support/tensor.hpp"

namespace seqccl::test {
namespace {

TEST(Documents, StartsOfEveryPosition) {
  const std::int64_t lengths[] = {0, 2, 0, 0, 4, 1, 0};
  const Documents documents(lengths, 7);
  const std::int64_t want[] = {0, 0, 2, 2, 2, 2, 6};
  for (std::int64_t i = 0; i < 7; ++i) EXPECT_EQ(documents.start_of(i), want[i]) << i;
  for (std::int64_t i = 0; i < 7; ++i) EXPECT_EQ(Documents({}, 7).start_of(i), 0);
  const std::int64_t negative[] = {3, -1, 5};
  EXPECT_REFUSED("Documents: lengths sum to 7, want num_tokens = 8", Documents(lengths, 8));
  EXPECT_REFUSED("Documents: lengths sum to more than num_tokens = 6", Documents(lengths, 6));
  EXPECT_REFUSED("Documents: lengths[1] is -1", Documents(negative, 7));
}

struct Tables {
  HostTensor cos, sin;
  Tables(const Partition& partition, Rank rank, std::int64_t dim, double base, std::span<const std::int64_t> documents = {})
      : cos(f32, {partition.tokens_on(rank), dim / 2}), sin(f32, {partition.tokens_on(rank), dim / 2}) {
    rope_tables(partition, rank, dim, base, cos.view(), sin.view(), documents);
  }
};

/// x (T, D) with pair i = elements i and i + D / 2.
HostTensor rotated(const HostTensor& x, const Tables& tables) {
  const std::int64_t T = x.geometry.shape[0], D = x.geometry.shape[1], half = D / 2;
  HostTensor result(f32, {T, D});
  for (std::int64_t t = 0; t < T; ++t)
    for (std::int64_t i = 0; i < half; ++i) {
      const auto cos = static_cast<float>(tables.cos.get(t * half + i)), sin = static_cast<float>(tables.sin.get(t * half + i));
      const auto a = static_cast<float>(x.get(t * D + i)), b = static_cast<float>(x.get(t * D + half + i));
      result.set(t * D + i, a * cos - b * sin);
      result.set(t * D + half + i, a * sin + b * cos);
    }
  return result;
}

TEST(RopeTables, ShardsRotateAsTheWholeSequenceDoes) {
  constexpr std::int64_t N = 45, D = 8;
  constexpr double base = 10000;
  const std::vector<std::int64_t> packed = {7, 0, 20, 1, 17};
  for (const bool with_documents : {false, true}) {
    const std::span<const std::int64_t> documents =
        with_documents ? std::span<const std::int64_t>(packed) : std::span<const std::int64_t>();
    const Documents starts(documents, N);
    const HostTensor q = random_tensor(f32, {N, D}, 1), k = random_tensor(f32, {N, D}, 2);
    const Tables whole(Partition::contiguous(N, 1), 0, D, base, documents);
    const HostTensor whole_q = rotated(q, whole), whole_k = rotated(k, whole);
    for (std::int64_t t = 0; t < N; ++t)  // against the definition, in long double
      for (std::int64_t i = 0; i < D / 2; ++i) {
        const long double angle = static_cast<long double>(t - starts.start_of(t)) * std::pow(10000.0L, -2.0L * i / D);
        ASSERT_NEAR(whole.cos.get(t * D / 2 + i), static_cast<double>(std::cos(angle)), 6e-8);
        ASSERT_NEAR(whole.sin.get(t * D / 2 + i), static_cast<double>(std::sin(angle)), 6e-8);
      }
    for (const int num_ranks : {1, 2, 3, 4, 5, 7, 8})
      for (const Partition& partition : all_partitions(N, num_ranks)) {
        SCOPED_TRACE(partition.describe());
        for (Rank rank = 0; rank < num_ranks; ++rank) {
          const std::int64_t T = partition.tokens_on(rank);
          const std::vector<std::int64_t> ids = partition.position_ids(rank);
          HostTensor my_q(f32, {T, D}), my_k(f32, {T, D});
          for (std::int64_t t = 0; t < T; ++t)
            for (std::int64_t d = 0; d < D; ++d) {
              my_q.set(t * D + d, q.get(ids[static_cast<std::size_t>(t)] * D + d));
              my_k.set(t * D + d, k.get(ids[static_cast<std::size_t>(t)] * D + d));
            }
          const Tables tables(partition, rank, D, base, documents);
          const HostTensor turned_q = rotated(my_q, tables), turned_k = rotated(my_k, tables);
          for (std::int64_t t = 0; t < T; ++t)
            for (std::int64_t d = 0; d < D; ++d) {
              ASSERT_EQ(turned_q.get(t * D + d), whole_q.get(ids[static_cast<std::size_t>(t)] * D + d));
              ASSERT_EQ(turned_k.get(t * D + d), whole_k.get(ids[static_cast<std::size_t>(t)] * D + d));
            }
        }
      }
  }
}

// <R_m q, R_n k> depends on m - n alone: one query and one key at all positions of a document.
TEST(RopeTables, ScoresDependOnTheDistanceOnly) {
  constexpr std::int64_t N = 30, D = 6;
  const std::vector<std::int64_t> documents = {11, 19};
  const HostTensor q_row = random_tensor(f32, {1, D}, 3), k_row = random_tensor(f32, {1, D}, 4);
  HostTensor q(f32, {N, D}), k(f32, {N, D});
  for (std::int64_t i = 0; i < N * D; ++i) q.set(i, q_row.get(i % D)), k.set(i, k_row.get(i % D));
  const Tables tables(Partition::contiguous(N, 1), 0, D, 500, documents);
  const HostTensor turned_q = rotated(q, tables), turned_k = rotated(k, tables);
  const auto score = [&](std::int64_t m, std::int64_t n) {
    double sum = 0;
    for (std::int64_t d = 0; d < D; ++d) sum += turned_q.get(m * D + d) * turned_k.get(n * D + d);
    return sum;
  };
  for (std::int64_t m = 0; m < 11; ++m)
    for (std::int64_t n = 0; n <= m; ++n) {
      EXPECT_NEAR(score(m, n), score(m - n, 0), 2e-6);
      EXPECT_EQ(score(m, n), score(11 + m, 11 + n));  // the second document starts again at 0
    }
}

TEST(RopeTables, RefusesWrongArgumentsAndTakesStrides) {
  const Partition partition = Partition::contiguous(5, 2);
  HostTensor cos(f32, {2, 4}), sin(f32, {2, 4}), half(bf16, {2, 4}), both(f32, {4, 4, 2});
  const std::int64_t short_lengths[] = {4};
  EXPECT_REFUSED("rope_tables: dim is 7, want an even number", rope_tables(partition, 0, 7, 1e4, cos.view(), sin.view()));
  EXPECT_REFUSED("rope_tables: base is 0", rope_tables(partition, 0, 8, 0, cos.view(), sin.view()));
  EXPECT_REFUSED("rope_tables: rank is 2, want 0 to 1", rope_tables(partition, 2, 8, 1e4, cos.view(), sin.view()));
  EXPECT_REFUSED("rope_tables: cos has shape (2, 4), want (3, 4)", rope_tables(partition, 1, 8, 1e4, cos.view(), sin.view()));
  EXPECT_REFUSED("rope_tables: sin is bf16, want f32", rope_tables(partition, 0, 8, 1e4, cos.view(), half.view()));
  EXPECT_REFUSED("rope_tables: sin is missing", rope_tables(partition, 0, 8, 1e4, cos.view(), {}));
  EXPECT_REFUSED("rope_tables: cos and sin share memory", rope_tables(partition, 0, 8, 1e4, cos.view(), cos.view()));
  TensorView flat = sin.view();
  flat.geometry.strides[0] = 0;
  EXPECT_REFUSED("rope_tables: sin has stride 0 along axis 0", rope_tables(partition, 0, 8, 1e4, cos.view(), flat));
  EXPECT_REFUSED("lengths sum to 4", rope_tables(partition, 0, 8, 1e4, cos.view(), sin.view(), short_lengths));
  EXPECT_NO_THROW(rope_tables(Partition::contiguous(1, 2), 0, 8, 1e4, {}, {}));

  // cos and sin interleaved, rows two apart.
  rope_tables(partition, 0, 8, 1e4, cos.view(), sin.view());
  TensorView even = both.view();
  even.geometry.num_axes = 2;
  even.geometry.shape = {2, 4};
  even.geometry.strides = {16, 2};
  TensorView odd = even;
  odd.data = even.as<float>() + 1;
  rope_tables(partition, 0, 8, 1e4, even, odd);
  for (std::int64_t t = 0; t < 2; ++t)
    for (std::int64_t i = 0; i < 4; ++i) {
      EXPECT_EQ(both.get(t * 16 + 2 * i), cos.get(t * 4 + i));
      EXPECT_EQ(both.get(t * 16 + 2 * i + 1), sin.get(t * 4 + i));
      EXPECT_TRUE(std::isnan(both.get(t * 16 + 8 + i)));
    }
}

}  // namespace
}  // namespace seqccl::test
