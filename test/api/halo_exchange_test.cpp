// halo_exchange_test.cpp - HaloExchange on thread ranks: rows, transpose, and a causal convolution over shards with its gradients.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/halo_exchange.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <mutex>
#include <numeric>

#include "api/movement_support.hpp"
#include "collectives/sequence_movement.hpp"
#include "support/tolerance.hpp"

namespace seqccl::test {
namespace {

std::vector<Partition> partitions(std::int64_t num_tokens, int num_ranks) {
  std::vector<Partition> result = all_partitions(num_tokens, num_ranks);
  std::erase_if(result, [](const Partition& partition) { return !partition.has_contiguous_segments(); });
  return result;
}

/// Two widths around a shard's length and one beyond the sequence; with and without documents.
std::vector<HaloExchangeSpec> cases(int num_ranks) {
  std::vector<HaloExchangeSpec> specs;
  int number = 0;
  for (const std::int64_t N : {std::int64_t{4} * num_ranks, std::int64_t{29}, std::int64_t{2}})
    for (const Partition& partition : partitions(N, num_ranks))
      for (const std::int64_t width : {std::int64_t{1}, std::int64_t{3}, N / num_ranks + 1, 2 * N})
        for (const bool packed : {false, true}) {
          ++number;
          const DType dtypes[] = {f32, bf16, f16};
          specs.push_back(
              {.batch = 1 + number % 2,
               .heads = 2,
               .head_dim = 3,
               .dtype = dtypes[number % 3],
               .partition = partition,
               .width = width,
               .documents = packed ? std::vector<std::int64_t>{N / 3, 0, N / 4, N - N / 3 - N / 4} : std::vector<std::int64_t>{}});
        }
  return specs;
}

std::uint64_t sum_of(const std::vector<std::uint64_t>& counts) { return std::accumulate(counts.begin(), counts.end(), std::uint64_t{0}); }

TEST(HaloExchange, RowsAreTheTokensBeforeEachSegmentAndReduceIsTheTranspose) {
  int number = 0;
  for (const int num_ranks : ranks_of)
    for (const HaloExchangeSpec& spec : cases(num_ranks)) {
      SCOPED_TRACE(spec.describe());
      const std::int64_t B = spec.batch, H = spec.heads, D = spec.head_dim, N = spec.partition.num_tokens();
      const HostTensor whole = integers(spec.dtype, {B, N, H, D}, ++number);
      std::vector<std::vector<std::int64_t>> rows;
      for (Rank rank = 0; rank < num_ranks; ++rank) rows.push_back(halo_tokens(spec, rank));
      std::atomic<std::int64_t> forward{0}, backward{0};
      std::vector<HostTensor> dhalo(num_ranks), dx(num_ranks);
      on_ranks(num_ranks, [&](Communicator& comm) {
        const Rank rank = comm.rank();
        const std::int64_t T = spec.partition.tokens_on(rank);
        HaloExchange exchange(comm, spec);
        const auto n = static_cast<std::int64_t>(rows[rank].size());
        ASSERT_EQ(exchange.num_rows(), n);
        const HostTensor x = shard_of(whole, spec.partition, rank);
        HostTensor halo(spec.dtype, {B, n, H, D}), zero(spec.dtype, {B, 1, H, D});
        std::fill(zero.bytes.begin(), zero.bytes.end(), std::byte{0});
        std::int64_t remote = 0;
        for (int repeat = 0; repeat < 2; ++repeat) {
          std::fill(halo.bytes.begin(), halo.bytes.end(), std::byte{0xee});
          exchange.exchange(x.view(), halo.view());
          for (std::int64_t i = 0; i < n; ++i) {
            const std::int64_t token = rows[rank][static_cast<std::size_t>(i)];
            remote += token >= 0 && spec.partition.place_of(token).rank != rank ? 1 : 0;
            for (std::int64_t b = 0; b < B; ++b)
              for (std::int64_t h = 0; h < H; ++h)
                ASSERT_TRUE(token < 0 ? same_bits(halo, b, i, h, zero, 0, h) : same_bits(halo, b, i, h, whole, token, h)) << "row " << i;
          }
        }
        EXPECT_EQ(sum_of(comm.received_bytes()), static_cast<std::uint64_t>(remote * B * H * D) * size_bytes(spec.dtype));

        dhalo[rank] = integers(f32, {B, n, H, D}, 10 * number + rank);
        dx[rank] = integers(f32, {B, T, H, D}, 7 * number + rank);
        const HostTensor before = dx[rank];
        exchange.reduce(std::as_const(dhalo[rank]).view(), dx[rank].view());
        for (std::int64_t i = 0; i < halo.size(); ++i) forward += static_cast<std::int64_t>(halo.get(i) * dhalo[rank].get(i));
        for (std::int64_t i = 0; i < x.size(); ++i) {
          dx[rank].set(i, dx[rank].get(i) - before.get(i));  // what was added
          backward += static_cast<std::int64_t>(dx[rank].get(i) * x.get(i));
        }
      });
      if (::testing::Test::HasFailure()) return;
      EXPECT_EQ(forward, backward);  // <halo(x), y> = <x, reduce(y)>
      HostTensor want(f32, {B, N, H, D});
      want.fill(0);
      for (Rank rank = 0; rank < num_ranks; ++rank)
        for (std::int64_t b = 0; b < B; ++b)
          for (std::size_t row = 0; row < rows[rank].size(); ++row)
            for (std::int64_t i = 0; rows[rank][row] >= 0 && i < H * D; ++i) {
              const std::int64_t to = (b * N + rows[rank][row]) * H * D + i;
              const auto from = (b * static_cast<std::int64_t>(rows[rank].size()) + static_cast<std::int64_t>(row)) * H * D + i;
              want.set(to, want.get(to) + dhalo[rank].get(from));
            }
      for (Rank rank = 0; rank < num_ranks; ++rank) {
        const HostTensor mine = shard_of(want, spec.partition, rank);
        for (std::int64_t i = 0; i < mine.size(); ++i) ASSERT_EQ(dx[rank].get(i), mine.get(i));
      }
    }
}

TEST(HaloExchange, TakesStridedTensors) {
  for (const int num_ranks : {1, 2, 5}) {
    const HaloExchangeSpec spec{.heads = 2, .head_dim = 2, .partition = Partition::zigzag(23, num_ranks), .width = 2};
    const HostTensor whole = integers(f32, {1, 23, 2, 2}, 5);
    on_ranks(num_ranks, [&](Communicator& comm) {
      const std::int64_t T = spec.partition.tokens_on(comm.rank());
      HaloExchange exchange(comm, spec);
      const std::int64_t n = exchange.num_rows();
      const auto inner = [](HostTensor& wide) {
        TensorView view = wide.view();
        view.geometry.shape[2] = 2;
        return view;
      };
      const HostTensor x = shard_of(whole, spec.partition, comm.rank());
      HostTensor wide_x(f32, {1, T, 3, 2}), halo(f32, {1, n, 2, 2}), wide_halo(f32, {1, n, 3, 2}), dx(f32, {1, T, 2, 2}),
          wide_dx(f32, {1, T, 3, 2});
      spec.partition.shard(whole.view(), comm.rank(), inner(wide_x));
      exchange.exchange(x.view(), halo.view());
      exchange.exchange(inner(wide_x), inner(wide_halo));
      for (std::int64_t i = 0; i < wide_halo.size(); ++i) {
        if (i % 6 < 4)
          ASSERT_EQ(wide_halo.get(i), halo.get(i / 6 * 4 + i % 6));
        else
          ASSERT_TRUE(std::isnan(wide_halo.get(i)));
      }
      dx.fill(1);
      for (std::int64_t i = 0; i < wide_dx.size(); ++i)
        if (i % 6 < 4) wide_dx.set(i, 1);
      exchange.reduce(std::as_const(halo).view(), dx.view());
      exchange.reduce(inner(wide_halo), inner(wide_dx));
      for (std::int64_t i = 0; i < dx.size(); ++i) ASSERT_EQ(wide_dx.get(i / 4 * 6 + i % 4), dx.get(i));
    });
  }
}

// --- A causal depthwise convolution ---------------------------------------------------------------------------------------

/// y[t] = sum over i of kernel[i] x[t - w + i], taps before the start of t's document left out. `first_row`: row of token `first` in x.
/// T: float on shards, double for the reference; channels C.
template <class T>
struct Convolution {
  std::int64_t width, channels;
  const Documents& documents;

  /// Calls visit(row of y, row of x, tap) for the tokens of a run; rows of x count from its halo.
  template <class Visit>
  void for_each_tap(const Segment& run, bool has_halo, Visit&& visit) const {
    for (std::int64_t t = 0; t < run.count; ++t)
      for (std::int64_t i = 0; i <= width; ++i)
        if (run[t] - width + i >= documents.start_of(run[t])) visit(t, t + i - (has_halo ? 0 : width), i);
  }
  void forward(const Segment& run, bool has_halo, const T* x, const T* kernel, T* y) const {
    for_each_tap(run, has_halo, [&](std::int64_t t, std::int64_t row, std::int64_t i) {
      for (std::int64_t c = 0; c < channels; ++c) y[t * channels + c] += kernel[i * channels + c] * x[row * channels + c];
    });
  }
  void backward(const Segment& run, bool has_halo, const T* x, const T* kernel, const T* dy, T* dx, T* dkernel) const {
    for_each_tap(run, has_halo, [&](std::int64_t t, std::int64_t row, std::int64_t i) {
      for (std::int64_t c = 0; c < channels; ++c) {
        dx[row * channels + c] += kernel[i * channels + c] * dy[t * channels + c];
        dkernel[i * channels + c] += x[row * channels + c] * dy[t * channels + c];
      }
    });
  }
};

template <class T>
std::vector<T> numbers(const HostTensor& tensor) {
  std::vector<T> result;
  for (std::int64_t i = 0; i < tensor.size(); ++i) result.push_back(static_cast<T>(tensor.get(i)));
  return result;
}
template <class T>
HostTensor tensor_of(const std::vector<T>& values, std::initializer_list<std::int64_t> shape) {
  HostTensor result(DType::f64, shape);
  for (std::int64_t i = 0; i < result.size(); ++i) result.set(i, values[static_cast<std::size_t>(i)]);
  return result;
}

TEST(HaloExchange, CausalConvolutionOverShardsIsTheUnshardedOne) {
  constexpr std::int64_t C = 6;
  for (const int num_ranks : ranks_of)
    for (const std::int64_t N : {std::int64_t{6} * num_ranks, std::int64_t{41}})
      for (const Partition& partition : partitions(N, num_ranks))
        for (const std::int64_t width : {std::int64_t{1}, std::int64_t{3}, std::int64_t{9}})
          for (const bool packed : {false, true}) {
            const HaloExchangeSpec spec{
                .heads = 1,
                .head_dim = C,
                .partition = partition,
                .width = width,
                .documents = packed ? std::vector<std::int64_t>{N / 3, 1, 0, N - N / 3 - 1} : std::vector<std::int64_t>{}};
            SCOPED_TRACE(spec.describe());
            const HostTensor x = random_tensor(f32, {1, N, 1, C}, 1), dy = random_tensor(f32, {1, N, 1, C}, 2),
                             kernel = random_tensor(f32, {width + 1, C}, 3, 0.5);
            const Documents documents(spec.documents, N);
            const auto size = static_cast<std::size_t>(N * C), taps = static_cast<std::size_t>((width + 1) * C);
            // The whole sequence: in double, and in f32 as the bar.
            const Segment all{0, N, 1};
            std::vector<double> y(size), dx(size), dkernel(taps);
            std::vector<float> plain_y(size), plain_dx(size), plain_dkernel(taps);
            const Convolution<double> exact{width, C, documents};
            const Convolution<float> plain{width, C, documents};
            exact.forward(all, false, numbers<double>(x).data(), numbers<double>(kernel).data(), y.data());
            exact.backward(all, false, numbers<double>(x).data(), numbers<double>(kernel).data(), numbers<double>(dy).data(), dx.data(),
                           dkernel.data());
            plain.forward(all, false, numbers<float>(x).data(), numbers<float>(kernel).data(), plain_y.data());
            plain.backward(all, false, numbers<float>(x).data(), numbers<float>(kernel).data(), numbers<float>(dy).data(), plain_dx.data(),
                           plain_dkernel.data());

            HostTensor got_y(f32, {1, N, 1, C}), got_dx(f32, {1, N, 1, C});
            std::vector<double> got_dkernel(taps);
            on_ranks(num_ranks, [&](Communicator& comm) {
              const Rank rank = comm.rank();
              const std::int64_t T = partition.tokens_on(rank);
              HaloExchange exchange(comm, spec);
              const HostTensor my_x = shard_of(x, partition, rank), my_dy = shard_of(dy, partition, rank);
              HostTensor halo(f32, {1, exchange.num_rows(), 1, C}), dhalo = halo, my_y(f32, {1, T, 1, C}), my_dx(f32, {1, T, 1, C});
              exchange.exchange(my_x.view(), halo.view());
              my_y.fill(0);
              my_dx.fill(0);
              dhalo.fill(0);
              std::vector<float> my_dkernel(taps);
              const std::vector<float> taps_of = numbers<float>(kernel);
              std::int64_t row = 0, index = 0;
              for (const Segment& run : partition.segments(rank)) {
                const auto rows = [&](const HostTensor& tensor, std::int64_t first) {
                  return reinterpret_cast<const float*>(tensor.bytes.data()) + first * C;
                };
                const auto* before = rows(halo, index * width);
                std::vector<float> run_x(before, before + width * C);  // halo, then the run
                run_x.insert(run_x.end(), rows(my_x, row), rows(my_x, row + run.count));
                std::vector<float> run_dx(run_x.size());
                plain.forward(run, true, run_x.data(), taps_of.data(), reinterpret_cast<float*>(my_y.bytes.data()) + row * C);
                plain.backward(run, true, run_x.data(), taps_of.data(), rows(my_dy, row), run_dx.data(), my_dkernel.data());
                std::copy_n(run_dx.data(), width * C, reinterpret_cast<float*>(dhalo.bytes.data()) + index * width * C);
                std::copy_n(run_dx.data() + width * C, run.count * C, reinterpret_cast<float*>(my_dx.bytes.data()) + row * C);
                row += run.count;
                ++index;
              }
              exchange.reduce(std::as_const(dhalo).view(), my_dx.view());
              static std::mutex mutex;
              const std::lock_guard lock(mutex);
              partition.unshard(std::as_const(my_y).view(), rank, got_y.view());
              partition.unshard(std::as_const(my_dx).view(), rank, got_dx.view());
              for (std::size_t i = 0; i < taps; ++i) got_dkernel[i] += my_dkernel[i];
            });
            for (std::int64_t i = 0; i < got_y.size(); ++i) ASSERT_EQ(got_y.get(i), plain_y[static_cast<std::size_t>(i)]);  // the same sums
            expect_accurate(got_y, tensor_of(y, {1, N, 1, C}), tensor_of(plain_y, {1, N, 1, C}), f32, false, "y");
            expect_accurate(got_dx, tensor_of(dx, {1, N, 1, C}), tensor_of(plain_dx, {1, N, 1, C}), f32, true, "dx");
            expect_accurate(tensor_of(got_dkernel, {width + 1, C}), tensor_of(dkernel, {width + 1, C}),
                            tensor_of(plain_dkernel, {width + 1, C}), f32, true, "dkernel");
            if (::testing::Test::HasFailure()) return;
          }
}

TEST(HaloExchange, RefusesWrongArguments) {
  on_ranks(2, [](Communicator& comm) {
    const HaloExchangeSpec spec{.heads = 2, .head_dim = 4, .dtype = bf16, .partition = Partition::contiguous(6, 2), .width = 2};
    HaloExchange exchange(comm, spec);
    HostTensor x = coded(bf16, {1, 3, 2, 4}), halo(bf16, {1, 2, 2, 4}), dhalo(f32, {1, 2, 2, 4}), dx(f32, {1, 3, 2, 4});
    EXPECT_REFUSED("HaloExchange::exchange: halo has shape (1, 3, 2, 4), want (1, 2, 2, 4)", exchange.exchange(x.view(), x.view()));
    EXPECT_REFUSED("HaloExchange::reduce: dhalo is bf16, want f32", exchange.reduce(halo.view(), dx.view()));
    EXPECT_REFUSED("HaloExchange::reduce: dx is missing", exchange.reduce(dhalo.view(), {}));
    HaloExchangeSpec wrong = spec;
    wrong.partition = Partition::striped(6, 2);
    EXPECT_REFUSED("partition is striped: the token before each token lies on another rank", HaloExchange(comm, wrong));
    EXPECT_REFUSED("use contiguous, zigzag or uneven", HaloExchange(comm, wrong));
    wrong = spec;
    wrong.width = -1;
    EXPECT_REFUSED("width is -1, want 0 or more", HaloExchange(comm, wrong));
    wrong.width = std::int64_t{1} << 60;
    EXPECT_REFUSED("larger than 2^62 bytes", HaloExchange(comm, wrong));
    wrong = spec;
    wrong.documents = {4, 3};
    EXPECT_REFUSED("lengths sum to more than num_tokens = 6", HaloExchange(comm, wrong));
    exchange.exchange(x.view(), halo.view());
  });
}

}  // namespace
}  // namespace seqccl::test
