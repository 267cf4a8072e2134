// movement_spec.cpp - checks of the movement primitives' specs, and their canonical texts.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "seqccl/dimension_switch.hpp"
#include "seqccl/documents.hpp"
#include "seqccl/halo_exchange.hpp"
#include "seqccl/movement.hpp"
#include "seqccl/sequence_gather.hpp"
#include "spec.hpp"

SEQCCL_BEGIN

namespace {

using collectives::check_sizes, collectives::refuse;

using Extents = std::initializer_list<std::pair<const char*, std::int64_t>>;

/// Extents must be 1 or more, and fit 62 bits as one tensor of all tokens.
void check_extents(const char* who, Extents extents, const Partition& partition, int num_ranks) {
  std::vector<std::pair<const char*, std::int64_t>> with_tokens(extents);
  with_tokens.emplace_back("num_tokens", partition.num_tokens());
  check_sizes(who, with_tokens);
  for (const auto& [name, value] : extents)
    if (value < 1) throw refuse(who, fmt::format("{} is {}, want 1 or more", name, value));
  if (partition.num_ranks() != num_ranks)
    throw refuse(who, fmt::format("partition is over {} ranks, want {} as the communicator has", partition.num_ranks(), num_ranks));
}

void check_heads(const char* who, const char* name, std::int64_t heads) {
  if (heads > std::numeric_limits<std::int32_t>::max()) throw refuse(who, fmt::format("{} is {}, want below 2^31", name, heads));
}

void check_dtype(const char* who, DType dtype) {
  if (dtype == DType::f64) throw refuse(who, "dtype is f64, want f32, f16 or bf16");
}

}  // namespace

std::string HeadSwapSpec::describe() const {
  return fmt::format("operation = head swap\nbatch = {}\nheads = {}\nhead_dim = {}\ndtype = {}\npartition = {}\n", batch, heads, head_dim,
                     name(dtype), partition.describe());
}

void validate(const HeadSwapSpec& spec, int num_ranks) {
  const char* who = "HeadSwapSpec";
  check_extents(who, {{"batch", spec.batch}, {"heads", spec.heads}, {"head_dim", spec.head_dim}}, spec.partition, num_ranks);
  check_heads(who, "heads", spec.heads);
  check_dtype(who, spec.dtype);
}

std::string KvSpec::describe() const {
  return fmt::format("batch = {}\nkv_heads = {}\nhead_dim = {}\nv_head_dim = {}\ndtype = {}\npartition = {}\nmask = {}\n", batch, kv_heads,
                     head_dim, dim_v(), name(dtype), partition.describe(), mask.describe_fully());
}

void validate(const KvSpec& spec, int num_ranks) {
  const char* who = "KvSpec";
  check_extents(who, {{"batch", spec.batch}, {"kv_heads", spec.kv_heads}, {"head_dim", spec.head_dim}}, spec.partition, num_ranks);
  check_extents(who, {{"batch", spec.batch}, {"kv_heads", spec.kv_heads}, {"v_head_dim", spec.dim_v()}}, spec.partition, num_ranks);
  check_heads(who, "kv_heads", spec.kv_heads);
  check_dtype(who, spec.dtype);
  (void)spec.mask.bind(spec.partition.num_tokens(), spec.batch);  // throws if documents do not fit
}

std::string StateScanSpec::describe() const {
  return fmt::format(
      "operation = state scan\ndecay = {}\nscan = {}\nbatch = {}\nheads = {}\nkey_dim = {}\nvalue_dim = {}\npartition = {}\nreverse = {}\n"
      "initial = {}\ncolumn_blocks = {}\nranks_per_node = {}\n",
      name(decay), name(scan), batch, heads, key_dim, value_dim, partition.describe(), reverse, initial, column_blocks, ranks_per_node);
}

void validate(const StateScanSpec& spec, int num_ranks) {
  const char* who = "StateScanSpec";
  check_extents(who, {{"batch", spec.batch}, {"heads", spec.heads}, {"key_dim", spec.key_dim}, {"value_dim", spec.value_dim}},
                spec.partition, num_ranks);
  check_heads(who, "heads", spec.heads);
  if (is_delta(spec.decay))
    check_extents(who, {{"batch", spec.batch}, {"heads", spec.heads}, {"key_dim", spec.key_dim}, {"key_dim", spec.key_dim}}, spec.partition,
                  num_ranks);
  collectives::check_scan(who, spec.scan, spec.column_blocks, spec.value_dim, spec.ranks_per_node, spec.partition);
}

std::string SequenceGatherSpec::describe() const {
  return fmt::format("operation = sequence gather\nbatch = {}\nheads = {}\nhead_dim = {}\ndtype = {}\npartition = {}\n", batch, heads,
                     head_dim, name(dtype), partition.describe());
}

void validate(const SequenceGatherSpec& spec, int num_ranks) {
  const char* who = "SequenceGatherSpec";
  check_extents(who, {{"batch", spec.batch}, {"heads", spec.heads}, {"head_dim", spec.head_dim}}, spec.partition, num_ranks);
  check_heads(who, "heads", spec.heads);
  check_dtype(who, spec.dtype);
  constexpr std::size_t most_strided = 60000;  // each is a slot
  std::size_t num_segments = 0;
  for (Rank rank = 0; rank < num_ranks; ++rank) num_segments += spec.partition.segments(rank).size();
  if (!spec.partition.has_contiguous_segments() && num_segments > most_strided)
    throw refuse(who, fmt::format("partition has {} segments, some of a step above 1, want at most {} then", num_segments, most_strided));
}

std::string DimensionSwitchSpec::describe() const {
  return fmt::format("operation = dimension switch\nshape = ({})\nfrom = {}\nto = {}\ndtype = {}\n", fmt::join(shape, ", "), from, to,
                     name(dtype));
}

void validate(const DimensionSwitchSpec& spec, int num_ranks) {
  const char* who = "DimensionSwitchSpec";
  const auto num_axes = static_cast<int>(spec.shape.size());
  if (num_ranks < 1) throw refuse(who, fmt::format("num_ranks is {}, want 1 or more", num_ranks));
  if (num_axes < 3 || num_axes > 8) throw refuse(who, fmt::format("shape has {} axes, want 3 to 8", num_axes));
  std::vector<std::string> names;
  std::vector<std::pair<const char*, std::int64_t>> extents;
  for (int axis = 0; axis < num_axes; ++axis) names.push_back(fmt::format("shape[{}]", axis));
  for (int axis = 0; axis < num_axes; ++axis) {
    const auto i = static_cast<std::size_t>(axis);
    extents.emplace_back(names[i].c_str(), spec.shape[i]);
    if (spec.shape[i] < 1) throw refuse(who, fmt::format("{} is {}, want 1 or more", names[i], spec.shape[i]));
  }
  check_sizes(who, extents);
  for (const auto& [name, axis] : {std::pair("from", spec.from), std::pair("to", spec.to)}) {
    if (axis < 0 || axis > num_axes - 2) throw refuse(who, fmt::format("{} is {}, want 0 to {}", name, axis, num_axes - 2));
    const auto i = static_cast<std::size_t>(axis);
    check_heads(who, names[i].c_str(), spec.shape[i]);
  }
  if (spec.from == spec.to) throw refuse(who, fmt::format("from and to are both {}, want two axes", spec.from));
  check_dtype(who, spec.dtype);
}

std::string HaloExchangeSpec::describe() const {
  return fmt::format(
      "operation = halo exchange\nbatch = {}\nheads = {}\nhead_dim = {}\ndtype = {}\npartition = {}\nwidth = {}\ndocuments = {}\n", batch,
      heads, head_dim, name(dtype), partition.describe(), width, fmt::join(documents, ","));
}

void validate(const HaloExchangeSpec& spec, int num_ranks) {
  const char* who = "HaloExchangeSpec";
  check_extents(who, {{"batch", spec.batch}, {"heads", spec.heads}, {"head_dim", spec.head_dim}}, spec.partition, num_ranks);
  check_heads(who, "heads", spec.heads);
  check_dtype(who, spec.dtype);
  if (spec.width < 0) throw refuse(who, fmt::format("width is {}, want 0 or more", spec.width));
  std::size_t num_segments = 0;
  for (Rank rank = 0; rank < num_ranks; ++rank) num_segments = std::max(num_segments, spec.partition.segments(rank).size());
  check_sizes(who, {{"batch", spec.batch},
                    {"heads", spec.heads},
                    {"head_dim", spec.head_dim},
                    {"width", spec.width},
                    {"segments", static_cast<std::int64_t>(num_segments)}});
  if (!spec.partition.has_contiguous_segments())
    throw refuse(who,
                 "partition is striped: the token before each token lies on another rank, so every token would need its own halo; use "
                 "contiguous, zigzag or uneven, or move to contiguous shards around the convolution (SequenceGather, HeadSwap)");
  (void)Documents(spec.documents, spec.partition.num_tokens());  // throws if they do not fit
}

SEQCCL_END
