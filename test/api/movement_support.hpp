// movement_support.hpp - what the tests of the movement primitives share: tensors of known content, masks as tables, ranks under a
// watchdog. SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "collectives/plans.hpp"
#include "seqccl/movement.hpp"
#include "sequence/refusal.hpp"
#include "support/ranks.hpp"
#include "support/tensor.hpp"
#include "support/watchdog.hpp"

namespace seqccl::test {

/// Any bits, NaNs and all; no two elements are equal.
inline HostTensor coded(DType dtype, std::initializer_list<std::int64_t> shape) {
  HostTensor tensor(dtype, shape);
  for (std::int64_t i = 0; i < tensor.size(); ++i) {
    const std::uint32_t word = static_cast<std::uint32_t>(i) * 0x9e3779b1u, half = (static_cast<std::uint32_t>(i) * 0x9e3bu) & 0xffffu;
    if (dtype == f32)
      std::memcpy(tensor.bytes.data() + i * 4, &word, 4);
    else
      std::memcpy(tensor.bytes.data() + i * 2, &half, 2);
  }
  return tensor;
}

/// Whole numbers from -4 to 4.
inline HostTensor integers(DType dtype, std::initializer_list<std::int64_t> shape, std::uint64_t seed) {
  HostTensor tensor(dtype, shape);
  std::mt19937_64 random(seed);
  for (std::int64_t i = 0; i < tensor.size(); ++i) tensor.set(i, static_cast<double>(random() % 9) - 4);
  return tensor;
}

inline HostTensor shard_of(const HostTensor& whole, const Partition& partition, Rank rank) {
  const auto& shape = whole.geometry.shape;
  HostTensor shard(whole.dtype, {shape[0], partition.tokens_on(rank), shape[2], shape[3]});
  partition.shard(whole.view(), rank, shard.view());
  return shard;
}

/// True if (b, i, g, :) of `a` has the bits of (b, j, h, :) of `b_tensor`.
inline bool same_bits(const HostTensor& a, std::int64_t b, std::int64_t i, std::int64_t g, const HostTensor& other, std::int64_t j,
                      std::int64_t h) {
  const auto at = [](const HostTensor& tensor, std::int64_t batch, std::int64_t row, std::int64_t head) {
    const auto& shape = tensor.geometry.shape;
    return tensor.bytes.data() +
           ((batch * shape[1] + row) * shape[2] + head) * shape[3] * static_cast<std::int64_t>(size_bytes(tensor.dtype));
  };
  return std::memcmp(at(a, b, i, g), at(other, b, j, h), static_cast<std::size_t>(a.geometry.shape[3]) * size_bytes(a.dtype)) == 0;
}

/// visible[i * N + j]: some batch row lets query i see key j.
inline std::vector<char> dense(const Mask& mask, std::int64_t num_tokens, std::int64_t batch) {
  std::vector<char> visible(static_cast<std::size_t>(num_tokens * num_tokens));
  for (const BandSlice& slice : mask.bind(num_tokens, batch))
    for (std::int64_t i = slice.q_first; i < slice.q_first + slice.q_count; ++i)
      for (std::int64_t j = slice.k_first; j < slice.k_first + slice.k_count; ++j)
        if (slice.low <= j - i && j - i <= slice.high) visible[static_cast<std::size_t>(i * num_tokens + j)] = 1;
  return visible;
}

inline std::vector<std::int64_t> tokens_of(const std::vector<Piece>& pieces) {
  std::vector<std::int64_t> tokens;
  for (const Piece& piece : pieces) {
    EXPECT_EQ(piece.row, static_cast<std::int64_t>(tokens.size()));
    for (std::int64_t i = 0; i < piece.tokens.count; ++i) tokens.push_back(piece.tokens[i]);
  }
  return tokens;
}

inline void on_ranks(int num_ranks, const std::function<void(Communicator&)>& body) {
  Watchdog watchdog(std::chrono::seconds(120));
  run_ranks(num_ranks, [&](Communicator& comm) {
    const auto leash = watchdog.watch(comm.transport());
    body(comm);
  });
}

}  // namespace seqccl::test
