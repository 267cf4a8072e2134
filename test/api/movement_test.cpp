// movement_test.cpp - HeadSwap and KvAllGather on thread ranks: every number lands where it is said to, and sums are exact.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/movement.hpp"

#include <gtest/gtest.h>

#include <atomic>

#include "api/movement_support.hpp"

namespace seqccl::test {
namespace {

TEST(HeadSwap, EveryElementLandsWhereHeadsOfAndPiecesSayAndComesBack) {
  int number = 0;
  for (const int num_ranks : ranks_of)
    for (const std::int64_t N : {std::int64_t{4} * num_ranks, std::int64_t{29}, std::int64_t{2}})
      for (const Partition& partition : all_partitions(N, num_ranks)) {
        ++number;
        const std::int64_t heads[] = {8, 7, 3};
        const HeadSwapSpec spec{.batch = 1 + number % 2,
                                .heads = heads[number % 3],
                                .head_dim = 5,
                                .dtype = number % 4 < 2 ? f32 : bf16,
                                .partition = partition};
        SCOPED_TRACE(spec.describe());
        const HostTensor whole = coded(spec.dtype, {spec.batch, N, spec.heads, spec.head_dim});
        on_ranks(num_ranks, [&](Communicator& comm) {
          HeadSwap swap(comm, spec);
          const HostTensor tokens = shard_of(whole, partition, comm.rank());
          const Rows mine = swap.heads_of(comm.rank());
          EXPECT_EQ(mine.first, comm.rank() == 0 ? 0 : swap.heads_of(comm.rank() - 1).end());
          EXPECT_EQ(swap.heads_of(num_ranks - 1).end(), spec.heads);
          HostTensor swapped(spec.dtype, {spec.batch, N, mine.count, spec.head_dim});
          HostTensor back(spec.dtype, {spec.batch, partition.tokens_on(comm.rank()), spec.heads, spec.head_dim});
          for (int repeat = 0; repeat < 2; ++repeat) {  // the second one meets a dirty arena
            std::fill(swapped.bytes.begin(), swapped.bytes.end(), std::byte{0xee});
            swap.to_heads(tokens.view(), swapped.view());
            swap.to_tokens(std::as_const(swapped).view(), back.view());
          }
          const std::vector<std::int64_t> rows = tokens_of(swap.pieces());
          ASSERT_EQ(static_cast<std::int64_t>(rows.size()), N);
          if (partition.has_contiguous_segments()) {
            EXPECT_EQ(swap.pieces().size(), 1u);
          }
          for (std::int64_t b = 0; b < spec.batch; ++b)
            for (std::int64_t row = 0; row < N; ++row)
              for (std::int64_t h = 0; h < mine.count; ++h)
                ASSERT_TRUE(same_bits(swapped, b, row, h, whole, rows[static_cast<std::size_t>(row)], mine.first + h)) << "row " << row;
          EXPECT_EQ(back.bytes, tokens.bytes);
        });
        if (::testing::Test::HasFailure()) return;
      }
}

TEST(HeadSwap, RefusesWrongArgumentsAndStaysUsable) {
  on_ranks(2, [](Communicator& comm) {
    const HeadSwapSpec spec{.heads = 4, .head_dim = 2, .partition = Partition::contiguous(6, 2)};
    HeadSwap swap(comm, spec);
    HostTensor tokens = coded(f32, {1, 3, 4, 2}), heads(f32, {1, 6, 2, 2}), narrow(bf16, {1, 6, 2, 2});
    EXPECT_REFUSED("HeadSwap::to_heads: heads has shape (1, 3, 4, 2), want (1, 6, 2, 2)", swap.to_heads(tokens.view(), tokens.view()));
    EXPECT_REFUSED("HeadSwap::to_heads: heads is bf16, want f32", swap.to_heads(tokens.view(), narrow.view()));
    EXPECT_REFUSED("HeadSwap::to_tokens: tokens is missing", swap.to_tokens(heads.view(), {}));
    TensorView strided = tokens.view();
    strided.geometry.strides[3] = 2;
    EXPECT_REFUSED("tokens has stride 2 along its last axis, want 1", swap.to_heads(strided, heads.view()));
    EXPECT_REFUSED("rank is 2, want 0 to 1", swap.heads_of(2));
    EXPECT_REFUSED("HeadSwapSpec: head_dim is 0, want 1 or more", HeadSwap(comm, {.partition = spec.partition}));
    EXPECT_REFUSED("HeadSwapSpec: partition is over 3 ranks, want 2",
                   HeadSwap(comm, {.head_dim = 2, .partition = Partition::contiguous(6, 3)}));
    swap.to_heads(tokens.view(), heads.view());
    EXPECT_TRUE(same_bits(heads, 0, 3 * comm.rank(), 0, tokens, 0, 2 * comm.rank()));
  });
}

// --- KvAllGather ------------------------------------------------------------------------------------------------------------

TEST(KvAllGather, RowsAreTheTokensThatPiecesNameAndReduceIsTheTranspose) {
  int number = 0;
  for (const int num_ranks : ranks_of)
    for (const std::int64_t N : {std::int64_t{4} * num_ranks, std::int64_t{31}})
      for (const Partition& partition : all_partitions(N, num_ranks)) {
        const std::vector<Mask> masks = {Mask::causal(), Mask::window(5, 0), Mask::causal() & Mask::documents({N / 4, 1, 0, N - N / 4 - 1}),
                                         Mask::full()};
        const Mask& mask = masks[static_cast<std::size_t>(++number) % masks.size()];
        const bool strided = number % 3 == 0;
        const KvAllGatherSpec spec{.batch = 1 + number % 2,
                                   .kv_heads = 2,
                                   .head_dim = 3,
                                   .v_head_dim = strided ? 3 : 4,
                                   .dtype = number % 5 < 2 ? bf16 : f32,
                                   .partition = partition,
                                   .mask = mask};
        const std::int64_t B = spec.batch, H = spec.kv_heads, D = spec.head_dim, Dv = spec.dim_v();
        SCOPED_TRACE(spec.describe());
        const HostTensor k = integers(spec.dtype, {B, N, H, D}, number), v = integers(spec.dtype, {B, N, H, Dv}, number + 1000);
        const std::vector<char> visible = dense(mask, N, B);
        std::vector<HostTensor> dk_all(num_ranks), dv_all(num_ranks), dk(num_ranks), dv(num_ranks);
        std::vector<std::vector<std::int64_t>> rows(num_ranks);
        std::atomic<std::int64_t> gathered_product{0}, reduced_product{0};
        const auto dot = [](const HostTensor& a, const HostTensor& b) {
          double sum = 0;
          for (std::int64_t i = 0; i < a.size(); ++i) sum += a.get(i) * b.get(i);
          return static_cast<std::int64_t>(sum);
        };
        on_ranks(num_ranks, [&](Communicator& comm) {
          const Rank rank = comm.rank();
          const std::int64_t T = partition.tokens_on(rank);
          KvAllGather keys(comm, spec);
          rows[rank] = tokens_of(keys.pieces());
          std::vector<std::int64_t> want = partition.position_ids(rank);
          for (Rank peer = 0; peer < num_ranks; ++peer)
            for (const std::int64_t token : partition.position_ids(peer)) {
              bool seen = false;
              for (const std::int64_t query : partition.position_ids(rank))
                seen |= visible[static_cast<std::size_t>(query * N + token)] != 0;
              if (seen && peer != rank) want.push_back(token);
            }
          ASSERT_EQ(rows[rank], want);
          const std::int64_t n = keys.num_rows();
          ASSERT_EQ(n, static_cast<std::int64_t>(want.size()));

          const HostTensor my_k = shard_of(k, partition, rank), my_v = shard_of(v, partition, rank);
          HostTensor k_all(spec.dtype, {B, n, H, D}), v_all(spec.dtype, {B, n, H, Dv}), side_by_side(spec.dtype, {B, T, 2 * H, D});
          ConstTensorView k_view = my_k.view(), v_view = my_v.view();
          if (strided && T != 0) {
            TensorView half = side_by_side.view();
            half.geometry.shape[2] = H;
            partition.shard(k.view(), rank, half);
            k_view = half;
            half.data = side_by_side.bytes.data() + H * D * static_cast<std::int64_t>(size_bytes(spec.dtype));
            partition.shard(v.view(), rank, half);
            v_view = half;
          }
          keys.gather(k_view, v_view, k_all.view(), v_all.view());
          for (std::int64_t b = 0; b < B; ++b)
            for (std::int64_t row = 0; row < n; ++row)
              for (std::int64_t h = 0; h < H; ++h) {
                ASSERT_TRUE(same_bits(k_all, b, row, h, k, want[static_cast<std::size_t>(row)], h));
                ASSERT_TRUE(same_bits(v_all, b, row, h, v, want[static_cast<std::size_t>(row)], h));
              }

          dk_all[rank] = integers(f32, {B, n, H, D}, 10 * number + rank);
          dv_all[rank] = integers(f32, {B, n, H, Dv}, 10 * number + rank + 5000);
          dk[rank] = HostTensor(f32, {B, T, H, D});
          dv[rank] = HostTensor(f32, {B, T, H, Dv});
          keys.reduce(std::as_const(dk_all[rank]).view(), std::as_const(dv_all[rank]).view(), dk[rank].view(), dv[rank].view());
          gathered_product += dot(k_all, dk_all[rank]) + dot(v_all, dv_all[rank]);
          reduced_product += dot(my_k, dk[rank]) + dot(my_v, dv[rank]);
        });
        if (::testing::Test::HasFailure()) return;
        EXPECT_EQ(gathered_product, reduced_product);  // <gather(x), y> = <x, reduce(y)>
        HostTensor want(f32, {B, N, H, D});            // and element by element
        want.fill(0);
        for (Rank rank = 0; rank < num_ranks; ++rank)
          for (std::int64_t b = 0; b < B; ++b)
            for (std::size_t row = 0; row < rows[rank].size(); ++row)
              for (std::int64_t i = 0; i < H * D; ++i) {
                const std::int64_t to = (b * N + rows[rank][row]) * H * D + i;
                const auto from = (b * static_cast<std::int64_t>(rows[rank].size()) + static_cast<std::int64_t>(row)) * H * D + i;
                want.set(to, want.get(to) + dk_all[rank].get(from));
              }
        for (Rank rank = 0; rank < num_ranks; ++rank) EXPECT_EQ(dk[rank].bytes, shard_of(want, partition, rank).bytes);
        if (::testing::Test::HasFailure()) return;
      }
}

TEST(KvAllGather, RefusesWrongArguments) {
  on_ranks(1, [](Communicator& comm) {
    KvAllGather keys(comm, {.kv_heads = 2, .head_dim = 4, .dtype = bf16, .partition = Partition::contiguous(3, 1)});
    HostTensor x = coded(bf16, {1, 3, 2, 4}), y = x, z = x, sum(f32, {1, 3, 2, 4});
    EXPECT_REFUSED("KvAllGather::gather: k_all and k share memory", keys.gather(x.view(), y.view(), x.view(), z.view()));
    EXPECT_REFUSED("KvAllGather::reduce: dk is bf16, want f32", keys.reduce(sum.view(), sum.view(), x.view(), y.view()));
    EXPECT_REFUSED("KvSpec: kv_heads is 0", KvAllGather(comm, {.kv_heads = 0, .head_dim = 4, .partition = Partition::contiguous(3, 1)}));
    EXPECT_REFUSED("document lengths sum to 2",
                   KvAllGather(comm, {.head_dim = 4, .partition = Partition::contiguous(3, 1), .mask = Mask::documents({2})}));
  });
}

}  // namespace
}  // namespace seqccl::test
