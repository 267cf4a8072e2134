// random_problem.hpp - random masks with the predicate that defines them, and random partitions.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "seqccl/mask.hpp"
#include "seqccl/partition.hpp"

namespace seqccl::test {

using Generator = std::mt19937_64;
using Sees = std::function<bool(std::int64_t batch, std::int64_t query, std::int64_t key)>;

inline std::int64_t pick(Generator& generator, std::int64_t least, std::int64_t most) {
  return std::uniform_int_distribution<std::int64_t>(least, most)(generator);
}

/// Random parts >= 0 that sum to `total`.
inline std::vector<std::int64_t> random_parts(Generator& generator, std::int64_t total, std::int64_t num_parts) {
  std::vector<std::int64_t> cuts{0, total};
  for (std::int64_t i = 1; i < num_parts; ++i) cuts.push_back(pick(generator, 0, total));
  std::sort(cuts.begin(), cuts.end());
  std::vector<std::int64_t> parts;
  for (std::size_t i = 1; i < cuts.size(); ++i) parts.push_back(cuts[i] - cuts[i - 1]);
  return parts;
}

inline bool holds(const BandSlice& slice, std::int64_t batch, std::int64_t query, std::int64_t key) {
  return (slice.batch < 0 || slice.batch == batch) && query >= slice.q_first && query < slice.q_first + slice.q_count &&
         key >= slice.k_first && key < slice.k_first + slice.k_count && key - query >= slice.low && key - query <= slice.high;
}

inline BandSlice random_slice(Generator& generator, std::int64_t most) {
  BandSlice slice{pick(generator, 0, most), pick(generator, 0, most), pick(generator, 0, most), pick(generator, 0, most)};
  if (pick(generator, 0, 3) > 0) slice.low = pick(generator, -most, most);
  if (pick(generator, 0, 3) > 0) slice.high = pick(generator, -most, most);
  return slice;
}

struct MaskProblem {
  Mask mask;
  Sees sees;
};

inline std::int64_t document_of(const std::vector<std::int64_t>& lengths, std::int64_t position) {
  std::int64_t document = 0, end = 0;
  for (const std::int64_t length : lengths) {
    end += length;
    if (position < end) return document;
    ++document;
  }
  return -1;
}

inline constexpr int num_mask_kinds = 7;

inline MaskProblem random_term(Generator& generator, int kind, std::int64_t num_tokens, std::int64_t batch) {
  using I = std::int64_t;
  switch (kind) {
    case 0:
      return {Mask::full(), [](I, I, I) { return true; }};
    case 1:
      return {Mask::causal(), [](I, I q, I k) { return k <= q; }};
    case 2: {
      const I left = pick(generator, -1, num_tokens / 2), right = pick(generator, -1, num_tokens / 2);
      return {Mask::window(left, right), [=](I, I q, I k) { return (left < 0 || q - left <= k) && (right < 0 || k <= q + right); }};
    }
    case 3: {
      const I length = pick(generator, 0, num_tokens + 3);
      return {Mask::prefix(length), [=](I, I q, I k) { return k < length || k <= q; }};
    }
    case 4: {
      const auto lengths = random_parts(generator, num_tokens, pick(generator, 1, 6));
      return {Mask::documents(lengths), [=](I, I q, I k) { return document_of(lengths, q) == document_of(lengths, k); }};
    }
    case 5: {
      std::vector<std::vector<I>> rows;
      for (I row = 0; row < batch; ++row)
        rows.push_back(row > 0 && pick(generator, 0, 2) == 0 ? rows[0] : random_parts(generator, num_tokens, pick(generator, 1, 6)));
      return {Mask::documents_per_row(rows), [=](I b, I q, I k) { return document_of(rows[b], q) == document_of(rows[b], k); }};
    }
    default: {
      std::vector<BandSlice> slices;
      for (I tries = 0; tries < 8; ++tries) {
        BandSlice slice = random_slice(generator, num_tokens + 2);
        slice.batch = pick(generator, -1, batch - 1);
        const bool is_disjoint =
            std::all_of(slices.begin(), slices.end(), [&](const BandSlice& other) { return intersect(slice, other).q_count == 0; });
        if (is_disjoint) slices.push_back(slice);
      }
      return {Mask::slices(slices), [=](I b, I q, I k) {
                return std::any_of(slices.begin(), slices.end(), [=](const BandSlice& slice) { return holds(slice, b, q, k); });
              }};
    }
  }
}

/// Every set of kinds occurs: bit i of `kinds` adds a term of kind i.
inline MaskProblem random_mask(Generator& generator, unsigned kinds, std::int64_t num_tokens, std::int64_t batch) {
  MaskProblem problem{Mask::full(), [](std::int64_t, std::int64_t, std::int64_t) { return true; }};
  for (int kind = 0; kind < num_mask_kinds; ++kind) {
    if ((kinds >> kind & 1u) == 0) continue;
    const MaskProblem term = random_term(generator, kind, num_tokens, batch);
    problem.mask = problem.mask & term.mask;
    problem.sees = [a = problem.sees, b = term.sees](std::int64_t row, std::int64_t q, std::int64_t k) {
      return a(row, q, k) && b(row, q, k);
    };
  }
  return problem;
}

inline constexpr int num_partition_kinds = 5;

inline Partition random_partition(Generator& generator, int kind, std::int64_t num_tokens, int num_ranks) {
  switch (kind) {
    case 0:
      return Partition::contiguous(num_tokens, num_ranks);
    case 1:
      return Partition::zigzag(num_tokens, num_ranks);
    case 2:
      return Partition::striped(num_tokens, num_ranks);
    case 3:
      return Partition::uneven(random_parts(generator, num_tokens, num_ranks));
    default: {  // arithmetic runs of random steps, dealt at random
      std::vector<std::vector<Segment>> segments(num_ranks);
      std::vector<bool> taken(static_cast<std::size_t>(num_tokens));
      std::vector<std::pair<std::size_t, Segment>> runs;
      for (std::int64_t first = 0; first < num_tokens; ++first) {
        if (taken[first]) continue;
        Segment run{first, 0, pick(generator, 1, 4)};
        const std::int64_t most = pick(generator, 1, 8);
        for (std::int64_t at = first; at < num_tokens && !taken[at] && run.count < most; at += run.step) {
          taken[at] = true;
          ++run.count;
        }
        runs.emplace_back(pick(generator, 0, num_ranks - 1), run);
      }
      std::shuffle(runs.begin(), runs.end(), generator);
      for (const auto& [rank, run] : runs) segments[rank].push_back(run);
      return Partition::from_segments(num_tokens, segments);
    }
  }
}

}  // namespace seqccl::test
