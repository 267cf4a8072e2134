// movement_spec.cpp - checks of the movement primitives' specs, and their canonical texts.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <limits>
#include <vector>

#include "seqccl/movement.hpp"
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

SEQCCL_END
