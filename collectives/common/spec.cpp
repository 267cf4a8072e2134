// spec.cpp - checks of the softmax spec, its canonical text, and the names of methods.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "spec.hpp"

SEQCCL_BEGIN

namespace collectives {

Error refuse(const char* who, const std::string& what) { return {ErrorKind::argument, fmt::format("{}: {}", who, what)}; }

void check_sizes(const char* who, std::span<const std::pair<const char*, std::int64_t>> extents) {
  long double bytes = 8;
  for (const auto& [name, value] : extents) {
    if (value < 0) throw refuse(who, fmt::format("{} is {}, want 0 or more", name, value));
    bytes *= static_cast<long double>(std::max<std::int64_t>(value, 1));
  }
  if (bytes > 0x1p62L) throw refuse(who, "the tensors are larger than 2^62 bytes");
}

}  // namespace collectives

using collectives::check_sizes, collectives::from_name, collectives::refuse;

const char* name(Method method) noexcept {
  constexpr const char* names[] = {"automatic", "ring", "kv_all_gather", "head_swap", "token_ring"};
  return names[static_cast<int>(method)];
}
Method method_from_name(const std::string& text) {
  return from_name(text, "method",
                   std::array{Method::automatic, Method::ring, Method::kv_all_gather, Method::head_swap, Method::token_ring},
                   {"bidirectional_ring", "double_ring", "mesh", "burst_backward", "decode", "context_pass", "balanced_helper"});
}

float AttentionSpec::scale_or_default() const noexcept {
  return scale.value_or(head_dim > 0 ? static_cast<float>(1 / std::sqrt(static_cast<double>(head_dim))) : 1.0f);
}

std::string AttentionSpec::describe() const {
  return fmt::format(
      "operation = attention\nmethod = {}\nbatch = {}\nq_heads = {}\nkv_heads = {}\nhead_dim = {}\nv_head_dim = {}\ndtype = {}\n"
      "partition = {}\nmask = {}\nscale = {}\nsoftcap = {}\nsinks = {}\npartials_in_dtype = {}\nkernel = {}\n",
      name(method), batch, q_heads, num_kv_heads(), head_dim, dim_v(), name(dtype), partition.describe(), mask.describe_fully(),
      scale_or_default(), softcap, sinks, partials_in_dtype, kernel ? kernel.name : "built in");
}

void validate(const AttentionSpec& spec, int num_ranks) {
  const char* who = "AttentionSpec";
  check_sizes(who, {{"batch", spec.batch},
                    {"q_heads", spec.q_heads},
                    {"head_dim", std::max(spec.head_dim, spec.dim_v())},
                    {"num_tokens", spec.partition.num_tokens()}});
  if (spec.batch < 1) throw refuse(who, fmt::format("batch is {}, want 1 or more", spec.batch));
  if (spec.q_heads < 1) throw refuse(who, fmt::format("q_heads is {}, want 1 or more", spec.q_heads));
  if (spec.num_kv_heads() < 1 || spec.q_heads % spec.num_kv_heads() != 0)
    throw refuse(who, fmt::format("kv_heads is {}, want a divisor of q_heads = {}", spec.num_kv_heads(), spec.q_heads));
  if (spec.head_dim < 1) throw refuse(who, fmt::format("head_dim is {}, want 1 or more", spec.head_dim));
  if (spec.dim_v() < 1) throw refuse(who, fmt::format("v_head_dim is {}, want 1 or more", spec.v_head_dim));
  if (spec.q_heads > std::numeric_limits<std::int32_t>::max())
    throw refuse(who, fmt::format("q_heads is {}, want below 2^31", spec.q_heads));
  if (spec.dtype == DType::f64) throw refuse(who, "dtype is f64, want f32, f16 or bf16");
  if (spec.partition.num_ranks() != num_ranks)
    throw refuse(who, fmt::format("partition is over {} ranks, want {} as the communicator has", spec.partition.num_ranks(), num_ranks));
  if (!std::isfinite(spec.scale_or_default())) throw refuse(who, fmt::format("scale is {}, want a finite number", *spec.scale));
  if (!(spec.softcap >= 0) || !std::isfinite(spec.softcap))
    throw refuse(who, fmt::format("softcap is {}, want 0 (none) or a positive number", spec.softcap));
  if (spec.mesh) {
    if (spec.mesh->num_ranks() != num_ranks)
      throw refuse(who, fmt::format("mesh has heads {} x outer {} x inner {} ranks, want {} in all", spec.mesh->heads, spec.mesh->outer,
                                    spec.mesh->inner, num_ranks));
    if (!spec.mesh->is_flat())
      throw refuse(who, fmt::format("mesh heads {} x outer {} is not in this version yet; leave mesh out or use heads 1, outer 1",
                                    spec.mesh->heads, spec.mesh->outer));
  }
  (void)spec.mask.bind(spec.partition.num_tokens(), spec.batch);  // throws if documents do not fit
}

SEQCCL_END
