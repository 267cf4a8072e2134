// spec.cpp - checks of the softmax spec, its canonical text, and the names of methods.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "seqccl/collectives.hpp"
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
  constexpr const char* names[] = {"automatic", "ring",       "bidirectional_ring", "kv_all_gather",
                                   "head_swap", "token_ring", "balanced_helper"};
  return names[static_cast<int>(method)];
}
Method method_from_name(const std::string& text) {
  for (const char* choice : {"double_ring", "mesh", "burst_backward"})
    if (text == choice)
      throw refuse("method",
                   fmt::format("'{}' is a choice of mesh and backward around ring, not a method of its own: see choose_method", text));
  return from_name(text, "method",
                   std::array{Method::automatic, Method::ring, Method::bidirectional_ring, Method::kv_all_gather, Method::head_swap,
                              Method::token_ring, Method::balanced_helper});
}

const char* name(Backward backward) noexcept { return backward == Backward::burst ? "burst" : "standard"; }

std::vector<std::string> method_names() {
  std::vector<std::string> names;
  for (const MethodEntry& entry : method_table()) names.emplace_back(entry.name);
  names.insert(names.end(), {"double_ring", "mesh", "burst_backward"});
  return names;
}

void choose_method(AttentionSpec& spec, const std::string& text, const Topology& topology) {
  const int num_ranks = spec.partition.num_ranks();
  if (text == "double_ring") {
    spec.method = Method::ring;
    if (!spec.mesh) spec.mesh = Mesh::natural(num_ranks, topology);
  } else if (text == "mesh") {
    spec.method = Method::ring;
    const int heads = Mesh::natural(num_ranks, topology).inner;
    if (!spec.mesh) spec.mesh = Mesh{.heads = heads, .outer = 1, .inner = num_ranks / heads};
  } else if (text == "burst_backward") {
    spec.method = Method::ring;
    spec.backward = Backward::burst;
  } else {
    spec.method = method_from_name(text);
  }
}

float AttentionSpec::scale_or_default() const noexcept {
  return scale.value_or(head_dim > 0 ? static_cast<float>(1 / std::sqrt(static_cast<double>(head_dim))) : 1.0f);
}

namespace {

std::string describe_mesh(const std::optional<Mesh>& mesh) {
  if (!mesh) return "none";
  return fmt::format("heads {} x outer {} x inner {}{}", mesh->heads, mesh->outer, mesh->inner,
                     mesh->heads_outermost ? ", heads outermost" : "");
}

constexpr int max_head_groups = 256;  // every group has its own exchange and scratch

/// What mesh, backward and head_groups ask for must be something that the method can do.
void check_choices(const AttentionSpec& spec, int num_ranks) {
  const char* who = "AttentionSpec";
  const bool is_ring = spec.method == Method::ring || spec.method == Method::automatic;
  if (spec.mesh) {
    const Mesh& mesh = *spec.mesh;
    if (mesh.heads < 1 || mesh.outer < 1 || mesh.inner < 1 || std::int64_t{mesh.heads} * mesh.outer * mesh.inner != num_ranks)
      throw refuse(who, fmt::format("mesh has {} ranks, want each extent 1 or more and {} ranks in all", describe_mesh(mesh), num_ranks));
    if (mesh.outer > 1 && !is_ring)
      throw refuse(who, fmt::format("mesh outer is {}: a ring of rings is there for method ring only; for {} use outer 1, inner {}",
                                    mesh.outer, name(spec.method), mesh.ring_size()));
    if (spec.method == Method::head_swap && mesh.heads != num_ranks)
      throw refuse(who,
                   fmt::format("mesh heads is {}: head_swap swaps heads over all {} ranks; for a ring across groups use method ring with "
                               "this mesh",
                               mesh.heads, num_ranks));
  }
  if (spec.backward == Backward::burst && !is_ring && spec.method != Method::bidirectional_ring)
    throw refuse(who, fmt::format("backward is burst: method {} has nothing that goes round in its backward pass to choose; use ring or "
                                  "bidirectional_ring",
                                  name(spec.method)));
  if (spec.head_groups < 1) throw refuse(who, fmt::format("head_groups is {}, want 1 or more", spec.head_groups));
  if (spec.head_groups > max_head_groups)
    throw refuse(who, fmt::format("head_groups is {}, want at most {}", spec.head_groups, max_head_groups));
  const bool has_groups = spec.method == Method::kv_all_gather || spec.method == Method::head_swap || (spec.mesh && spec.mesh->heads > 1);
  if (spec.head_groups > 1 && !has_groups && spec.method != Method::automatic)
    throw refuse(who,
                 fmt::format("head_groups is {}: {} without a mesh moves all heads at once; use kv_all_gather, head_swap or a mesh with "
                             "heads above 1, or head_groups 1",
                             spec.head_groups, name(spec.method)));
}

}  // namespace

std::string AttentionSpec::describe() const {
  return fmt::format(
      "operation = attention\nmethod = {}\nbatch = {}\nq_heads = {}\nkv_heads = {}\nhead_dim = {}\nv_head_dim = {}\ndtype = {}\n"
      "partition = {}\nmask = {}\nscale = {}\nsoftcap = {}\nsinks = {}\nmesh = {}\nbackward = {}\nhead_groups = {}\npartials_in_dtype = "
      "{}\n"
      "kernel = {}\n",
      name(method), batch, q_heads, num_kv_heads(), head_dim, dim_v(), name(dtype), partition.describe(), mask.describe_fully(),
      scale_or_default(), softcap, sinks, describe_mesh(mesh), name(backward), head_groups, partials_in_dtype,
      kernel ? kernel.name : "built in");
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
  check_choices(spec, num_ranks);
  (void)spec.mask.bind(spec.partition.num_tokens(), spec.batch);  // throws if documents do not fit
}

SEQCCL_END
