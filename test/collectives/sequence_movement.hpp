// sequence_movement.hpp - cases of DimensionSwitch and HaloExchange, and what all three movements must do to known numbers.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "collectives/plans.hpp"
#include "collectives/run_plans.hpp"
#include "seqccl/documents.hpp"

namespace seqccl::test {

// --- SequenceGather -----------------------------------------------------------------------------------------------------

inline void expect_gathered_numbers(int num_ranks) {
  constexpr std::int64_t D = 2;
  for (const std::int64_t N : {std::int64_t{2} * num_ranks, std::int64_t{37}})
    for (const Partition& partition : all_partitions(N, num_ranks))
      for (const bool native : {false, true}) {
        SCOPED_TRACE(partition.describe());
        const SequenceGatherSpec spec{.heads = 1, .head_dim = D, .partition = partition};
        const RecordOptions options{.inputs_sendable = !native, .native_collectives = native};
        const std::vector<Segment> views = collectives::sequence_views(spec);
        // gather: a token's numbers are its position and its square.
        const PlanTensors gathered =
            run_plans(record_all(collectives::sequence_gather, spec, options), static_cast<std::uint64_t>(N),
                      [&](Rank rank, std::size_t number, HostTensor& x) {
                        if (number != 0) return;
                        const std::vector<std::int64_t> ids = partition.position_ids(rank);
                        for (std::size_t t = 0; t < ids.size(); ++t)
                          for (std::int64_t d = 0; d < D; ++d)
                            x.set(static_cast<std::int64_t>(t) * D + d, static_cast<double>(d == 0 ? ids[t] : ids[t] * ids[t]));
                      });
        for (Rank rank = 0; rank < num_ranks; ++rank)
          for (std::size_t view = 0; view < views.size(); ++view)
            for (std::int64_t i = 0; i < views[view].count; ++i) {
              const auto token = static_cast<double>(views[view][i]);
              ASSERT_EQ(gathered[rank][1 + view].get(i * D), token);
              ASSERT_EQ(gathered[rank][1 + view].get(i * D + 1), token * token);
            }
        // reduce-scatter: rank r gives r + 1 times the position, and 1.
        const PlanTensors reduced = run_plans(record_all(collectives::sequence_reduce_scatter, spec, options),
                                              static_cast<std::uint64_t>(N), [&](Rank rank, std::size_t number, HostTensor& x) {
                                                if (number >= views.size()) return;
                                                for (std::int64_t i = 0; i < views[number].count; ++i) {
                                                  x.set(i * D, static_cast<double>((rank + 1) * views[number][i]));
                                                  x.set(i * D + 1, 1);
                                                }
                                              });
        for (Rank rank = 0; rank < num_ranks; ++rank) {
          const std::vector<std::int64_t> ids = partition.position_ids(rank);
          for (std::size_t t = 0; t < ids.size(); ++t) {
            const auto i = static_cast<std::int64_t>(t) * D;
            ASSERT_EQ(reduced[rank].back().get(i), static_cast<double>(ids[t] * num_ranks * (num_ranks + 1) / 2));
            ASSERT_EQ(reduced[rank].back().get(i + 1), num_ranks);
          }
        }
      }
}

// --- DimensionSwitch ----------------------------------------------------------------------------------------------------

inline std::vector<Schedule> record_switch(const DimensionSwitchSpec& spec, int num_ranks, const RecordOptions& options = {}) {
  std::vector<Schedule> schedules;
  for (Rank rank = 0; rank < num_ranks; ++rank) schedules.push_back(collectives::dimension_switch(spec, rank, num_ranks, options));
  return schedules;
}

inline std::vector<DimensionSwitchSpec> switches(int num_ranks) {
  const std::int64_t P = num_ranks;
  return {{.shape = {2 * P, 3 * P, 4}, .from = 0, .to = 1},        {.shape = {2, 2 * P, P, 4}, .from = 2, .to = 1, .dtype = bf16},
          {.shape = {1, 13, 2, 10, 3}, .from = 1, .to = 3},        {.shape = {2, 9, 7, 2, 11, 5}, .from = 4, .to = 0, .dtype = f16},
          {.shape = {2, 3, 2, 5, 2, 6, 1, 2}, .from = 5, .to = 3}, {.shape = {3, 1, 1}, .from = 0, .to = 1}};
}

/// The whole tensor's element that stands at `index` of a rank's part that is sharded along `axis`.
inline std::int64_t element_of(const DimensionSwitchSpec& spec, int axis, const Rows& share, std::int64_t index) {
  std::int64_t result = 0, stride = 1;
  for (int i = static_cast<int>(spec.shape.size()) - 1; i >= 0; --i) {
    const std::int64_t extent = spec.shape[static_cast<std::size_t>(i)], local = i == axis ? share.count : extent;
    result += (index % local + (i == axis ? share.first : 0)) * stride;
    index /= local;
    stride *= extent;
  }
  return result;
}

inline void expect_switched_numbers(int num_ranks) {
  for (DimensionSwitchSpec there : switches(num_ranks)) {
    there.dtype = f32;  // elements count up beyond what 16 bits hold
    for (const DimensionSwitchSpec& spec : {there, there.transposed()}) {
      SCOPED_TRACE(spec.describe());
      const auto share = [&](int axis, Rank rank) { return collectives::dimension_share(spec, axis, rank, num_ranks); };
      const PlanTensors tensors = run_plans(record_switch(spec, num_ranks, {.inputs_sendable = spec.from < spec.to}), 7,
                                            [&](Rank rank, std::size_t number, HostTensor& x) {
                                              for (std::int64_t i = 0; number == 0 && i < x.size(); ++i)
                                                x.set(i, static_cast<double>(element_of(spec, spec.from, share(spec.from, rank), i)));
                                            });
      for (Rank rank = 0; rank < num_ranks; ++rank) {
        const HostTensor& after = tensors[rank][1];
        for (std::int64_t i = 0; i < after.size(); ++i)
          ASSERT_EQ(after.get(i), static_cast<double>(element_of(spec, spec.to, share(spec.to, rank), i)));
      }
    }
  }
}

// --- HaloExchange -------------------------------------------------------------------------------------------------------

inline std::vector<HaloExchangeSpec> halos(int num_ranks, std::int64_t num_tokens) {
  const std::int64_t N = num_tokens;
  std::vector<HaloExchangeSpec> specs;
  int number = 0;
  for (const Partition& partition : all_partitions(N, num_ranks)) {
    if (!partition.has_contiguous_segments()) continue;
    for (const std::int64_t width : {std::int64_t{1}, std::int64_t{3}, std::int64_t{0}, 2 * N / num_ranks + 1, 3 * N})
      for (const auto& documents : {std::vector<std::int64_t>{}, std::vector<std::int64_t>{N / 3, 0, N / 5, N - N / 3 - N / 5}}) {
        ++number;
        specs.push_back({.batch = 1 + number % 2,
                         .heads = 1,
                         .head_dim = 2,
                         .dtype = number % 3 == 0 ? bf16 : f32,
                         .partition = partition,
                         .width = width,
                         .documents = documents});
      }
  }
  return specs;
}

/// Token of each halo row of a rank, -1 where it is zero: straight from the definition.
inline std::vector<std::int64_t> halo_tokens(const HaloExchangeSpec& spec, Rank rank) {
  const Documents documents(spec.documents, spec.partition.num_tokens());
  std::vector<std::int64_t> tokens;
  for (const Segment& segment : spec.partition.segments(rank))
    for (std::int64_t i = 0; i < spec.width; ++i) {
      const std::int64_t token = segment.first - spec.width + i;
      tokens.push_back(token >= documents.start_of(segment.first) ? token : -1);
    }
  return tokens;
}

inline void expect_halo_numbers(int num_ranks) {
  for (const std::int64_t N : {std::int64_t{4} * num_ranks, std::int64_t{37}}) {
    int number = 0;
    for (HaloExchangeSpec spec : halos(num_ranks, N)) {
      ++number;
      spec.batch = 1;
      spec.dtype = f32;
      SCOPED_TRACE(spec.describe());
      const std::int64_t D = spec.head_dim;
      const PlanTensors there = run_plans(record_all(collectives::halo_exchange, spec, {.inputs_sendable = number % 2 == 0}), 3,
                                          [&](Rank rank, std::size_t which, HostTensor& x) {
                                            const std::vector<std::int64_t> ids = spec.partition.position_ids(rank);
                                            for (std::int64_t i = 0; which == 0 && i < x.size(); ++i)
                                              x.set(i, static_cast<double>(1 + ids[static_cast<std::size_t>(i / D)] + 1000 * (i % D)));
                                          });
      std::vector<double> sums(static_cast<std::size_t>(N * D));  // dx before is 1000000, a row of dhalo its number on its rank
      for (Rank rank = 0; rank < num_ranks; ++rank) {
        const std::vector<std::int64_t> tokens = halo_tokens(spec, rank);
        for (std::size_t i = 0; i < tokens.size(); ++i)
          for (std::int64_t d = 0; d < D; ++d) {
            const std::int64_t at = static_cast<std::int64_t>(i) * D + d;
            ASSERT_EQ(there[rank][1].get(at), tokens[i] < 0 ? 0.0 : static_cast<double>(1 + tokens[i] + 1000 * d));
            if (tokens[i] >= 0) sums[static_cast<std::size_t>(tokens[i] * D + d)] += static_cast<double>(at + rank);
          }
      }
      const PlanTensors back = run_plans(record_all(collectives::halo_reduce, spec), 4, [&](Rank rank, std::size_t which, HostTensor& x) {
        for (std::int64_t i = 0; i < x.size(); ++i) x.set(i, which == 0 ? static_cast<double>(i + rank) : 1000000.0);
      });
      for (Rank rank = 0; rank < num_ranks; ++rank) {
        const std::vector<std::int64_t> ids = spec.partition.position_ids(rank);
        for (std::int64_t i = 0; i < back[rank][1].size(); ++i)
          ASSERT_EQ(back[rank][1].get(i), 1000000.0 + sums[static_cast<std::size_t>(ids[static_cast<std::size_t>(i / D)] * D + i % D)]);
      }
    }
  }
}

}  // namespace seqccl::test
