// plans.hpp - partitions, masks and specs that plan-only tests sweep: no threads, no memory, any number of ranks.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "seqccl/collectives.hpp"

namespace seqccl::test {

/// Contiguous, zigzag, striped, uneven with an empty rank, explicit: all of `num_tokens` over `num_ranks`.
inline std::vector<Partition> all_partitions(std::int64_t num_tokens, int num_ranks) {
  std::vector<std::int64_t> uneven(num_ranks, 0);
  for (std::int64_t i = 0, left = num_tokens; i < num_ranks; ++i) {
    uneven[i] = i + 1 == num_ranks ? left : i == (num_ranks - 1) / 2 ? 0 : std::min(left, num_tokens / num_ranks + i % 3);
    left -= uneven[i];
  }
  // Explicit: chunks dealt in both directions, so that a rank's tokens are in no order.
  std::vector<std::vector<Segment>> dealt(num_ranks);
  const std::int64_t chunks = 3 * num_ranks;
  for (std::int64_t i = chunks - 1; i >= 0; --i) {
    const std::int64_t first = i * num_tokens / chunks, end = (i + 1) * num_tokens / chunks;
    if (end > first) dealt[(i * 5 + i / num_ranks) % num_ranks].push_back({first, end - first, 1});
  }
  return {Partition::contiguous(num_tokens, num_ranks), Partition::zigzag(num_tokens, num_ranks), Partition::striped(num_tokens, num_ranks),
          Partition::uneven(uneven), Partition::from_segments(num_tokens, dealt)};
}

inline std::vector<Mask> all_masks(std::int64_t num_tokens) {
  const std::int64_t n = num_tokens;
  std::vector<std::int64_t> documents{n / 4, 1, 0, n / 3};
  documents.push_back(n - documents[0] - 1 - documents[3]);
  std::vector<Mask> masks{Mask::full(),
                          Mask::causal(),
                          Mask::window(n / 5, 0),
                          Mask::window(2, 3),
                          Mask::prefix(n / 3),
                          Mask::documents(documents),
                          Mask::causal() & Mask::documents(documents),
                          Mask::causal() & Mask::window(n / 3, -1) & Mask::documents(documents)};
  // Explicit slices that leave some queries without any key.
  masks.push_back(Mask::slices({{0, n / 2, 0, n / 4, -unbounded, unbounded, -1}, {n / 2, n / 4, n / 4, n / 2, -n, 0, -1}}));
  return masks;
}

inline AttentionSpec small_spec(const Partition& partition, const Mask& mask, std::int64_t q_heads = 4, std::int64_t kv_heads = 2) {
  AttentionSpec spec;
  spec.q_heads = q_heads;
  spec.kv_heads = kv_heads;
  spec.head_dim = 8;
  spec.partition = partition;
  spec.mask = mask;
  return spec;
}

}  // namespace seqccl::test
