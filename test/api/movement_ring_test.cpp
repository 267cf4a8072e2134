// movement_ring_test.cpp - Ring on thread ranks: attention with a plain step, the order of steps, a step that throws.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/movement.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <set>
#include <thread>

#include "api/movement_support.hpp"
#include "seqccl/kernels.hpp"

namespace seqccl::test {
namespace {

TEST(Ring, AttentionWithAPlainStepIsTheReference) {
  int number = 0;
  for (const int num_ranks : ranks_of)
    for (const std::int64_t N : {std::int64_t{4} * num_ranks, std::int64_t{23}})
      for (const Partition& partition : all_partitions(N, num_ranks)) {
        const std::vector<Mask> masks = {Mask::causal(), Mask::window(3, 2), Mask::full(), Mask::documents({N / 2, N - N / 2})};
        const Mask& mask = masks[static_cast<std::size_t>(++number) % masks.size()];
        const RingSpec spec{.batch = 1 + number % 2,
                            .kv_heads = 2,
                            .head_dim = 4,
                            .v_head_dim = 3,
                            .dtype = number % 3 == 0 ? bf16 : f32,
                            .partition = partition,
                            .mask = mask};
        const std::int64_t B = spec.batch, H = spec.kv_heads, D = spec.head_dim, Dv = spec.dim_v();
        SCOPED_TRACE(spec.describe());
        const HostTensor q = random_tensor(spec.dtype, {B, N, H, D}, 1), k = random_tensor(spec.dtype, {B, N, H, D}, 2),
                         v = random_tensor(spec.dtype, {B, N, H, Dv}, 3);
        HostTensor want(DType::f64, {B, N, H, Dv}), lse(DType::f64, {B, H, N}), got(DType::f64, {B, N, H, Dv});
        const std::vector<BandSlice> slices = mask.bind(N, B);
        reference::attend({q.view(), k.view(), v.view(), {}, slices, 0.5}, want.view(), lse.view());
        const std::vector<char> visible = dense(mask, N, B);
        on_ranks(num_ranks, [&](Communicator& comm) {
          const Rank rank = comm.rank();
          const std::int64_t T = partition.tokens_on(rank);
          const std::vector<std::int64_t> queries = partition.position_ids(rank);
          const HostTensor my_q = shard_of(q, partition, rank), my_k = shard_of(k, partition, rank), my_v = shard_of(v, partition, rank);
          HostTensor sum(DType::f64, {B, T, H, Dv}), weight(DType::f64, {B, T, H, 1});
          std::vector<int> rounds;
          const auto caller = std::this_thread::get_id();
          // sum += exp(q k / 2) v, weight += exp(q k / 2) over the visible pairs of my queries and the block.
          Ring ring(comm, spec, [&](const RingBlock& block) {
            EXPECT_EQ(std::this_thread::get_id(), caller);
            rounds.push_back((block.owner - rank + num_ranks) % num_ranks);
            const std::vector<std::int64_t> keys = tokens_of(block.tokens);
            ASSERT_EQ(block.k.extent(1), static_cast<std::int64_t>(keys.size()));
            ASSERT_EQ(block.state.size(), 2u);
            if (block.owner == rank) {
              ASSERT_EQ(keys, queries);
              sum.fill(0);
              weight.fill(0);
            }
            HostTensor k_row(spec.dtype, {1, 1, 1, D}), v_row(spec.dtype, {1, 1, 1, Dv});
            auto* sums = block.state[0].as<double>();
            auto* weights = block.state[1].as<double>();
            for (std::int64_t b = 0; b < B; ++b)
              for (std::size_t j = 0; j < keys.size(); ++j)
                for (std::int64_t h = 0; h < H; ++h) {
                  const auto read = [&](const ConstTensorView& view, HostTensor& row) {
                    const std::int64_t at = b * view.stride(0) + static_cast<std::int64_t>(j) * view.stride(1) + h * view.stride(2);
                    std::memcpy(row.bytes.data(), view.as<std::byte>() + at * static_cast<std::int64_t>(size_bytes(spec.dtype)),
                                row.bytes.size());
                  };
                  read(block.k, k_row);
                  read(block.v, v_row);
                  for (std::int64_t i = 0; i < T; ++i) {
                    if (visible[static_cast<std::size_t>(queries[static_cast<std::size_t>(i)] * N + keys[j])] == 0) continue;
                    const std::int64_t row = (b * T + i) * H + h;
                    double score = 0;
                    for (std::int64_t d = 0; d < D; ++d) score += my_q.get(row * D + d) * k_row.get(d);
                    weights[row] += std::exp(0.5 * score);
                    for (std::int64_t d = 0; d < Dv; ++d) sums[row * Dv + d] += std::exp(0.5 * score) * v_row.get(d);
                  }
                }
          });
          const TensorView states[] = {sum.view(), weight.view()};
          for (int repeat = 0; repeat < 2; ++repeat) {
            rounds.clear();
            ring.run(my_k.view(), my_v.view(), states);
            ASSERT_FALSE(rounds.empty());
            EXPECT_EQ(rounds.front(), 0);
            EXPECT_TRUE(std::is_sorted(rounds.begin(), rounds.end()));
            EXPECT_EQ(std::set(rounds.begin(), rounds.end()).size(), rounds.size());
          }
          for (std::int64_t i = 0; i < sum.size(); ++i) sum.set(i, weight.get(i / Dv) == 0 ? 0.0 : sum.get(i) / weight.get(i / Dv));
          static std::mutex mutex;
          const std::lock_guard lock(mutex);
          partition.unshard(std::as_const(sum).view(), rank, got.view());
        });
        EXPECT_LE(distance(got, want).max, 1e-12);
        if (::testing::Test::HasFailure()) return;
      }
}

TEST(Ring, AStepThatThrowsEndsTheGroupAndNamesItsRank) {
  for (const int num_ranks : {1, 2, 4, 5}) {
    const Rank culprit = num_ranks / 2;
    std::atomic<int> caught{0};
    const auto body = [&](Communicator& comm) {
      const RingSpec spec{.head_dim = 2, .partition = Partition::contiguous(8, num_ranks)};
      const std::int64_t T = spec.partition.tokens_on(comm.rank());
      Ring ring(comm, spec, [&](const RingBlock& block) {
        if (comm.rank() == culprit && block.owner == (culprit + 1) % num_ranks) throw std::runtime_error("no more paper");
      });
      const HostTensor x = random_tensor(f32, {1, T, 1, 2}, 1);
      try {
        for (int round = 0; round < 3; ++round) ring.run(x.view(), x.view(), {});  // peers may be done with the first round
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::local);
        EXPECT_EQ(error.culprits(), std::vector<Rank>{culprit});
        EXPECT_NE(std::string(error.what()).find("no more paper"), std::string::npos) << error.what();
        ++caught;
      }
    };
    on_ranks(num_ranks, body);
    EXPECT_EQ(caught, num_ranks);
  }
}

TEST(Ring, RefusesWrongArgumentsAndTakesStatesOfOtherShapesLater) {
  on_ranks(2, [](Communicator& comm) {
    const RingSpec spec{.head_dim = 2, .partition = Partition::contiguous(8, 2)};
    int calls = 0;
    std::int64_t extent = 0;
    Ring ring(comm, spec, [&](const RingBlock& block) {
      ++calls;
      extent = block.state.empty() ? 0 : block.state.back().extent(1);
    });
    HostTensor x = random_tensor(f32, {1, 4, 1, 2}, 1), a(f32, {1, 4, 1, 1}), b(f32, {1, 7, 1, 1}), flat(f32, {4});
    const std::vector<TensorView> many(7, a.view()), twice(2, a.view());
    const TensorView flat_states[] = {flat.view()}, inputs[] = {x.view()}, one[] = {a.view()}, two[] = {a.view(), b.view()};
    EXPECT_REFUSED("Ring::run: state has 7 tensors, want at most 6", ring.run(x.view(), x.view(), many));
    EXPECT_REFUSED("state[1] and state[0] share memory", ring.run(x.view(), x.view(), twice));
    EXPECT_REFUSED("state[0] and k share memory", ring.run(x.view(), x.view(), inputs));
    EXPECT_REFUSED("state[0] has shape (4), want four axes", ring.run(x.view(), x.view(), flat_states));
    EXPECT_REFUSED("Ring: step is empty", Ring(comm, spec, {}));
    EXPECT_EQ(calls, 0);
    ring.run(x.view(), x.view(), {});
    EXPECT_EQ(calls, 2);
    ring.run(x.view(), x.view(), one);
    EXPECT_EQ(extent, 4);
    ring.run(x.view(), x.view(), two);
    EXPECT_EQ(extent, 7);
    EXPECT_EQ(calls, 6);
  });
}

}  // namespace
}  // namespace seqccl::test
