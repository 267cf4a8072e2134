// rope.cpp - angles from global positions, in double.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/rope.hpp"

#include <fmt/format.h>

#include <cmath>
#include <vector>

#include "seqccl/documents.hpp"

SEQCCL_BEGIN

namespace {

Error refuse_rope(const std::string& why) { return {ErrorKind::argument, "rope_tables: " + why}; }

void check_table(const char* name, const TensorView& table, std::int64_t rows, std::int64_t columns) {
  if (!table && rows == 0) return;
  const Geometry want = contiguous({rows, columns});
  if (!table) throw refuse_rope(fmt::format("{} is missing, want f32 {}", name, to_string(want)));
  if (table.geometry.num_axes != 2 || table.extent(0) != rows || table.extent(1) != columns)
    throw refuse_rope(fmt::format("{} has shape {}, want {}", name, to_string(table.geometry), to_string(want)));
  if (table.dtype != f32) throw refuse_rope(fmt::format("{} is {}, want f32", name, seqccl::name(table.dtype)));
  for (int axis = 0; axis < 2; ++axis)
    if (want.num_elements() != 0 && table.extent(axis) > 1 && table.stride(axis) == 0)
      throw refuse_rope(fmt::format("{} has stride 0 along axis {}; it needs memory for every element", name, axis));
}

}  // namespace

void rope_tables(const Partition& partition, Rank rank, std::int64_t dim, double base, TensorView cos, TensorView sin,
                 std::span<const std::int64_t> documents) {
  if (dim < 2 || dim % 2 != 0) throw refuse_rope(fmt::format("dim is {}, want an even number from 2 on", dim));
  if (!(base > 0) || !std::isfinite(base)) throw refuse_rope(fmt::format("base is {}, want a finite number above 0", base));
  if (rank < 0 || rank >= partition.num_ranks())
    throw refuse_rope(fmt::format("rank is {}, want 0 to {}", rank, partition.num_ranks() - 1));
  const std::int64_t rows = partition.tokens_on(rank), pairs = dim / 2;
  check_table("cos", cos, rows, pairs);
  check_table("sin", sin, rows, pairs);
  if (rows != 0 && cos.data == sin.data) throw refuse_rope("cos and sin share memory; each needs its own");
  const Documents starts(documents, partition.num_tokens());

  std::vector<double> frequency(static_cast<std::size_t>(pairs));
  for (std::int64_t i = 0; i < pairs; ++i)
    frequency[static_cast<std::size_t>(i)] = std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
  std::int64_t row = 0;
  for (const Segment& segment : partition.segments(rank))
    for (std::int64_t t = 0; t < segment.count; ++t, ++row) {
      const std::int64_t position = segment[t] - starts.start_of(segment[t]);
      for (std::int64_t i = 0; i < pairs; ++i) {
        const double angle = static_cast<double>(position) * frequency[static_cast<std::size_t>(i)];
        cos.as<float>()[row * cos.stride(0) + i * cos.stride(1)] = static_cast<float>(std::cos(angle));
        sin.as<float>()[row * sin.stride(0) + i * sin.stride(1)] = static_cast<float>(std::sin(angle));
      }
    }
}

SEQCCL_END
