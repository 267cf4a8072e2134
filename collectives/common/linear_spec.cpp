// linear_spec.cpp - checks of the linear spec, its canonical text, and the names of kinds and scans.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "spec.hpp"

SEQCCL_BEGIN

using collectives::check_sizes, collectives::from_name, collectives::refuse;

const char* name(LinearKind kind) noexcept {
  constexpr const char* names[] = {"basic", "constant_decay", "scalar_gate", "vector_gate", "rwkv6", "delta", "gated_delta", "kda"};
  return names[static_cast<int>(kind)];
}
LinearKind linear_kind_from_name(const std::string& text) {
  return from_name(text, "kind",
                   std::array{LinearKind::basic, LinearKind::constant_decay, LinearKind::scalar_gate, LinearKind::vector_gate,
                              LinearKind::rwkv6, LinearKind::delta, LinearKind::gated_delta, LinearKind::kda});
}

const char* name(Scan scan) noexcept {
  constexpr const char* names[] = {"all_gather", "chain", "pipelined_chain", "doubling", "hierarchical"};
  return names[static_cast<int>(scan)];
}
Scan scan_from_name(const std::string& text) {
  return from_name(text, "scan", std::array{Scan::all_gather, Scan::chain, Scan::pipelined_chain, Scan::doubling, Scan::hierarchical});
}

std::string LinearSpec::describe() const {
  return fmt::format(
      "operation = linear attention\nkind = {}\nscan = {}\nbatch = {}\nheads = {}\nhead_dim = {}\nv_head_dim = {}\ndtype = {}\n"
      "partition = {}\nscale = {}\nstate_in = {}\nstate_out = {}\ndocuments = {}\ncausal = {}\ncolumn_blocks = {}\n"
      "ranks_per_node = {}\n",
      name(kind), name(scan), batch, heads, head_dim, dim_v(), name(dtype), partition.describe(), scale, state_in, state_out,
      documents.empty() ? "one" : fmt::format("{}", fmt::join(documents, ",")), causal, column_blocks, ranks_per_node);
}

namespace collectives {

void check_scan(const char* who, Scan scan, int column_blocks, std::int64_t columns, int ranks_per_node, const Partition& partition) {
  if (scan == Scan::pipelined_chain && (column_blocks < 1 || column_blocks > columns))
    throw refuse(who, fmt::format("column_blocks is {}, want 1 to {}, the columns of a state", column_blocks, columns));
  if (scan == Scan::hierarchical && (ranks_per_node < 0 || ranks_per_node > partition.num_ranks()))
    throw refuse(who, fmt::format("ranks_per_node is {}, want 1 to {}, the number of ranks, or 0 for a natural number of them",
                                  ranks_per_node, partition.num_ranks()));
  if (!partition.has_contiguous_segments())
    throw refuse(who,
                 "partition is striped: neighbouring tokens lie on different ranks, so there are no runs to scan over; "
                 "use contiguous, zigzag or uneven");
}

}  // namespace collectives

namespace {

void check_documents(const char* who, const LinearSpec& spec) {
  std::int64_t sum = 0;
  for (const std::int64_t length : spec.documents) {
    if (length < 0) throw refuse(who, fmt::format("a length in documents is {}, want 0 or more", length));
    if (length > spec.partition.num_tokens() - sum)
      throw refuse(who, fmt::format("documents sum to more than the partition's {} tokens", spec.partition.num_tokens()));
    sum += length;
  }
  if (!spec.documents.empty() && sum != spec.partition.num_tokens())
    throw refuse(who, fmt::format("documents sum to {}, want {}, the partition's tokens", sum, spec.partition.num_tokens()));
}

}  // namespace

void validate(const LinearSpec& spec, int num_ranks) {
  const char* who = "LinearSpec";
  check_sizes(who, {{"batch", spec.batch},
                    {"heads", spec.heads},
                    {"head_dim", std::max(spec.head_dim, spec.dim_v())},
                    {"num_tokens", spec.partition.num_tokens()}});
  check_sizes(who, {{"batch", spec.batch}, {"heads", spec.heads}, {"head_dim", spec.head_dim}, {"v_head_dim", spec.dim_v()}});
  if (is_delta(spec.kind))
    check_sizes(who, {{"batch", spec.batch}, {"heads", spec.heads}, {"head_dim", spec.head_dim}, {"head_dim", spec.head_dim}});
  if (spec.batch < 1) throw refuse(who, fmt::format("batch is {}, want 1 or more", spec.batch));
  if (spec.heads < 1 || spec.heads > std::numeric_limits<std::int32_t>::max())
    throw refuse(who, fmt::format("heads is {}, want 1 to 2^31 - 1", spec.heads));
  if (spec.head_dim < 1) throw refuse(who, fmt::format("head_dim is {}, want 1 or more", spec.head_dim));
  if (spec.dim_v() < 1) throw refuse(who, fmt::format("v_head_dim is {}, want 1 or more", spec.v_head_dim));
  if (spec.dtype == DType::f64) throw refuse(who, "dtype is f64, want f32, f16 or bf16");
  if (!std::isfinite(spec.scale)) throw refuse(who, fmt::format("scale is {}, want a finite number", spec.scale));
  if (spec.partition.num_ranks() != num_ranks)
    throw refuse(who, fmt::format("partition is over {} ranks, want {} as the communicator has", spec.partition.num_ranks(), num_ranks));
  collectives::check_scan(who, spec.scan, spec.column_blocks, spec.dim_v(), spec.ranks_per_node, spec.partition);
  check_documents(who, spec);
  if (spec.causal) return;
  if (spec.kind != LinearKind::basic)
    throw refuse(who, fmt::format("causal is false with kind {}, want kind basic: a sum over a whole document has no order in which to "
                                  "decay",
                                  name(spec.kind)));
  if (spec.state_in || spec.state_out)
    throw refuse(who,
                 fmt::format("causal is false with {} = true, want false: every token reads the sum over its document, nothing enters or "
                             "leaves",
                             spec.state_in ? "state_in" : "state_out"));
}

SEQCCL_END
