// sequence_gather_test.cpp - SequenceGather on thread ranks: every bit in sequence order, sums in rank order, each the other's transpose.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/sequence_gather.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <numeric>

#include "api/movement_support.hpp"

namespace seqccl::test {
namespace {

std::uint64_t sum_of(const std::vector<std::uint64_t>& counts) { return std::accumulate(counts.begin(), counts.end(), std::uint64_t{0}); }

/// Every other element of a tensor with a last axis twice as long: contiguous neither along tokens nor along the batch.
TensorView first_half(HostTensor& wide) {
  TensorView half = wide.view();
  half.geometry.shape[3] /= 2;
  return half;
}

TEST(SequenceGather, EveryBitArrivesInSequenceOrder) {
  int number = 0;
  for (const int num_ranks : ranks_of)
    for (const std::int64_t N : {std::int64_t{4} * num_ranks, std::int64_t{29}, std::int64_t{2}})
      for (const Partition& partition : all_partitions(N, num_ranks)) {
        ++number;
        const DType dtypes[] = {f32, bf16, f16};
        const SequenceGatherSpec spec{
            .batch = 1 + number % 2, .heads = 3, .head_dim = 4, .dtype = dtypes[number % 3], .partition = partition};
        SCOPED_TRACE(spec.describe());
        const HostTensor whole = coded(spec.dtype, {spec.batch, N, spec.heads, spec.head_dim});
        on_ranks(num_ranks, [&](Communicator& comm) {
          SequenceGather sequence(comm, spec);
          const HostTensor tokens = shard_of(whole, partition, comm.rank());
          HostTensor got(spec.dtype, {spec.batch, N, spec.heads, spec.head_dim});
          HostTensor wide_tokens(spec.dtype, {spec.batch, partition.tokens_on(comm.rank()), spec.heads, 2 * spec.head_dim});
          HostTensor wide_got(spec.dtype, {spec.batch, N, spec.heads, 2 * spec.head_dim}),
              dense(spec.dtype, {spec.batch, N, spec.heads, 4});
          for (int repeat = 0; repeat < 2; ++repeat) {
            std::fill(got.bytes.begin(), got.bytes.end(), std::byte{0xee});
            sequence.gather(tokens.view(), got.view());
            ASSERT_EQ(got.bytes, whole.bytes);
          }
          const std::int64_t others = N - partition.tokens_on(comm.rank());
          EXPECT_EQ(sum_of(comm.received_bytes()),
                    static_cast<std::uint64_t>(2 * spec.batch * others * spec.heads * spec.head_dim) * size_bytes(spec.dtype));

          partition.shard(whole.view(), comm.rank(), first_half(wide_tokens));
          sequence.gather(first_half(wide_tokens), first_half(wide_got));
          Partition::contiguous(N, 1).shard(first_half(wide_got), 0, dense.view());
          ASSERT_EQ(dense.bytes, whole.bytes);
          for (std::int64_t i = 0; i < wide_got.size(); ++i) ASSERT_TRUE(i % 8 < 4 || std::isnan(wide_got.get(i)));
        });
        if (::testing::Test::HasFailure()) return;
      }
}

// Numbers for which every order of additions gives another sum; the reference adds in rank order, in f32.
TEST(SequenceGather, SumsAreThoseOfRankOrderToTheBit) {
  int number = 0;
  for (const int num_ranks : ranks_of)
    for (const std::int64_t N : {std::int64_t{4} * num_ranks, std::int64_t{29}, std::int64_t{2}})
      for (const Partition& partition : all_partitions(N, num_ranks)) {
        ++number;
        const DType dtypes[] = {f32, bf16, f16};
        const SequenceGatherSpec spec{
            .batch = 1 + number % 2, .heads = 2, .head_dim = 5, .dtype = dtypes[number % 3], .partition = partition};
        SCOPED_TRACE(spec.describe());
        const std::int64_t B = spec.batch, H = spec.heads, D = spec.head_dim;
        std::vector<HostTensor> partial;
        HostTensor want(f32, {B, N, H, D});
        for (Rank rank = 0; rank < num_ranks; ++rank) {
          partial.push_back(random_tensor(spec.dtype, {B, N, H, D}, 100 + rank));
          for (std::int64_t i = 0; i < want.size(); ++i)
            want.set(i, rank == 0 ? partial[rank].get(i) : static_cast<float>(want.get(i)) + static_cast<float>(partial[rank].get(i)));
        }
        on_ranks(num_ranks, [&](Communicator& comm) {
          SequenceGather sequence(comm, spec);
          const std::int64_t T = partition.tokens_on(comm.rank());
          const HostTensor mine = shard_of(want, partition, comm.rank());
          HostTensor sums(f32, {B, T, H, D});
          for (int repeat = 0; repeat < 2; ++repeat) {
            sums.fill(-1);
            sequence.reduce_scatter(std::as_const(partial[comm.rank()]).view(), sums.view());
            ASSERT_EQ(sums.bytes, mine.bytes);
          }
          EXPECT_EQ(sum_of(comm.received_bytes()),
                    static_cast<std::uint64_t>(2 * (num_ranks - 1) * B * T * H * D) * size_bytes(spec.dtype));

          HostTensor wide(spec.dtype, {B, N, H, 2 * D}), wide_sums(f32, {B, T, H, 2 * D});
          Partition::contiguous(N, 1).shard(std::as_const(partial[comm.rank()]).view(), 0, first_half(wide));
          sequence.reduce_scatter(first_half(wide), first_half(wide_sums));
          for (std::int64_t i = 0; i < sums.size(); ++i) ASSERT_EQ(wide_sums.get(i / D * 2 * D + i % D), sums.get(i));
        });
        if (::testing::Test::HasFailure()) return;
      }
}

// <y, gather(x)> summed over ranks = <reduce_scatter(y), x>, in whole numbers.
TEST(SequenceGather, EachIsTheOthersTranspose) {
  int number = 0;
  for (const int num_ranks : ranks_of)
    for (const Partition& partition : all_partitions(31, num_ranks)) {
      const SequenceGatherSpec spec{.batch = 2, .heads = 2, .head_dim = 3, .dtype = ++number % 2 == 0 ? bf16 : f32, .partition = partition};
      SCOPED_TRACE(spec.describe());
      const HostTensor x = integers(spec.dtype, {2, 31, 2, 3}, 1);
      std::atomic<std::int64_t> forward{0}, backward{0};
      const auto dot = [](const HostTensor& a, const HostTensor& b) {
        double sum = 0;
        for (std::int64_t i = 0; i < a.size(); ++i) sum += a.get(i) * b.get(i);
        return static_cast<std::int64_t>(sum);
      };
      on_ranks(num_ranks, [&](Communicator& comm) {
        SequenceGather sequence(comm, spec);
        const HostTensor mine = shard_of(x, partition, comm.rank()), y = integers(spec.dtype, {2, 31, 2, 3}, 10 + comm.rank());
        HostTensor gathered(spec.dtype, {2, 31, 2, 3}), reduced(f32, {2, partition.tokens_on(comm.rank()), 2, 3});
        sequence.gather(mine.view(), gathered.view());
        sequence.reduce_scatter(y.view(), reduced.view());
        forward += dot(y, gathered);
        backward += dot(reduced, mine);
      });
      EXPECT_EQ(forward, backward);
      EXPECT_NE(forward, 0);
    }
}

TEST(SequenceGather, RefusesWrongArguments) {
  on_ranks(2, [](Communicator& comm) {
    const SequenceGatherSpec spec{.heads = 2, .head_dim = 4, .dtype = bf16, .partition = Partition::contiguous(6, 2)};
    SequenceGather sequence(comm, spec);
    HostTensor tokens = coded(bf16, {1, 3, 2, 4}), whole = coded(bf16, {1, 6, 2, 4}), sums(f32, {1, 3, 2, 4}), narrow(bf16, {1, 3, 2, 4});
    EXPECT_REFUSED("SequenceGather::gather: tokens has shape (1, 6, 2, 4), want (1, 3, 2, 4)", sequence.gather(whole.view(), whole.view()));
    EXPECT_REFUSED("SequenceGather::gather: sequence is missing, want bf16 (1, 6, 2, 4)", sequence.gather(tokens.view(), {}));
    EXPECT_REFUSED("SequenceGather::reduce_scatter: sums is bf16, want f32", sequence.reduce_scatter(whole.view(), narrow.view()));
    TensorView inside = whole.view();
    inside.geometry.shape[1] = 3;
    EXPECT_REFUSED("share memory", sequence.gather(inside, whole.view()));
    EXPECT_REFUSED("SequenceGatherSpec: heads is 0, want 1 or more",
                   SequenceGather(comm, {.heads = 0, .head_dim = 1, .partition = spec.partition}));
    EXPECT_REFUSED("SequenceGatherSpec: partition is over 3 ranks, want 2",
                   SequenceGather(comm, {.head_dim = 2, .partition = Partition::contiguous(6, 3)}));
    EXPECT_REFUSED("dtype is f64", SequenceGather(comm, {.head_dim = 2, .dtype = DType::f64, .partition = spec.partition}));
    EXPECT_REFUSED("partition has 60001 segments, some of a step above 1", [] {
      std::vector<std::vector<Segment>> segments(1);
      segments[0].push_back({0, 2, 2});
      segments[0].push_back({1, 1, 1});
      for (std::int64_t i = 59998; i >= 0; --i) segments[0].push_back({3 + i, 1, 1});
      validate(SequenceGatherSpec{.head_dim = 1, .partition = Partition::from_segments(60002, segments)}, 1);
    }());
    sequence.gather(tokens.view(), whole.view());
  });
}

}  // namespace
}  // namespace seqccl::test
