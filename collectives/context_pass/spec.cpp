// spec.cpp - checks and canonical text of a context pass.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "seqccl/context_pass.hpp"

SEQCCL_BEGIN

float ContextPassSpec::scale_or_default() const noexcept {
  return scale.value_or(head_dim > 0 ? static_cast<float>(1 / std::sqrt(static_cast<double>(head_dim))) : 1.0f);
}

std::string ContextPassSpec::describe() const {
  return fmt::format(
      "operation = context pass\nbatch = {}\nq_heads = {}\nkv_heads = {}\nhead_dim = {}\nv_head_dim = {}\ndtype = {}\ntokens = {}\n"
      "anchor_tokens = {}\npassed_tokens = {}\nscale = {}\nsoftcap = {}\nkernel = {}\n",
      batch, q_heads, num_kv_heads(), head_dim, dim_v(), name(dtype), fmt::join(tokens, " "), anchor_tokens, fmt::join(passed_tokens, " "),
      scale_or_default(), softcap, kernel ? kernel.name : "built in");
}

void validate(const ContextPassSpec& spec, int num_ranks) {
  const auto refuse = [](const std::string& what) { return Error(ErrorKind::argument, "ContextPassSpec: " + what); };
  const std::pair<const char*, std::int64_t> extents[] = {{"batch", spec.batch},
                                                          {"q_heads", spec.q_heads},
                                                          {"kv_heads", spec.num_kv_heads()},
                                                          {"head_dim", spec.head_dim},
                                                          {"v_head_dim", spec.dim_v()}};
  for (const auto& [name, value] : extents)
    if (value < 1 || value > std::numeric_limits<std::int32_t>::max())
      throw refuse(fmt::format("{} is {}, want 1 or more and below 2^31", name, value));
  if (spec.q_heads % spec.num_kv_heads() != 0)
    throw refuse(fmt::format("kv_heads is {}, want a divisor of q_heads = {}", spec.num_kv_heads(), spec.q_heads));
  if (spec.num_ranks() != num_ranks)
    throw refuse(fmt::format("tokens has {} numbers, want {}, one per rank of the communicator", spec.tokens.size(), num_ranks));
  if (!spec.passed_tokens.empty() && spec.passed_tokens.size() != spec.tokens.size())
    throw refuse(fmt::format("passed_tokens has {} numbers, want {}, one per rank, or none", spec.passed_tokens.size(), num_ranks));
  if (spec.anchor_tokens < 0) throw refuse(fmt::format("anchor_tokens is {}, want 0 or more", spec.anchor_tokens));
  long double all = static_cast<long double>(spec.anchor_tokens);
  for (Rank rank = 0; rank < num_ranks; ++rank) {
    if (spec.tokens_on(rank) < 0) throw refuse(fmt::format("tokens[{}] is {}, want 0 or more", rank, spec.tokens_on(rank)));
    if (spec.passed_by(rank) < 0) throw refuse(fmt::format("passed_tokens[{}] is {}, want 0 or more", rank, spec.passed_by(rank)));
    all += static_cast<long double>(spec.tokens_on(rank)) + static_cast<long double>(spec.passed_by(rank));
  }
  const auto size = [](std::int64_t extent) { return static_cast<long double>(extent); };
  if (8 * all * size(spec.batch) * size(spec.q_heads) * size(std::max(spec.head_dim, spec.dim_v())) > 0x1p62L)
    throw refuse("the tensors are larger than 2^62 bytes");
  if (spec.dtype == DType::f64) throw refuse("dtype is f64, want f32, f16 or bf16");
  if (!std::isfinite(spec.scale_or_default())) throw refuse(fmt::format("scale is {}, want a finite number", *spec.scale));
  if (!(spec.softcap >= 0) || !std::isfinite(spec.softcap))
    throw refuse(fmt::format("softcap is {}, want 0 (none) or a positive number", spec.softcap));
}

SEQCCL_END
