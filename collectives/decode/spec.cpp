// spec.cpp - checks and canonical text of a decode spec, owners of tokens, and what a merge costs.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "seqccl/decode.hpp"
#include "seqccl/simulate.hpp"

SEQCCL_BEGIN

const char* name(DecodeMerge merge) noexcept {
  constexpr const char* names[] = {"automatic", "butterfly", "tree", "all_to_all"};
  return names[static_cast<int>(merge)];
}

float DecodeSpec::scale_or_default() const noexcept {
  return scale.value_or(head_dim > 0 ? static_cast<float>(1 / std::sqrt(static_cast<double>(head_dim))) : 1.0f);
}

Rows DecodeSpec::heads_of(Rank rank, int num_ranks) const noexcept {
  if (result == DecodeResult::everywhere) return {0, q_heads};
  const std::int64_t first = rank * q_heads / num_ranks;
  return {first, (rank + 1) * q_heads / num_ranks - first};
}

std::string DecodeSpec::describe() const {
  return fmt::format(
      "operation = decode\nmerge = {}\nresult = {}\nbatch = {}\nq_tokens = {}\nq_heads = {}\nkv_heads = {}\nhead_dim = {}\nv_head_dim = "
      "{}\n"
      "dtype = {}\nscale = {}\nsoftcap = {}\nkernel = {}\n",
      name(merge), result == DecodeResult::everywhere ? "everywhere" : "by_heads", batch, q_tokens, q_heads, num_kv_heads(), head_dim,
      dim_v(), name(dtype), scale_or_default(), softcap, kernel ? kernel.name : "built in");
}

void validate(const DecodeSpec& spec, int num_ranks) {
  const auto refuse = [](const std::string& what) { return Error(ErrorKind::argument, "DecodeSpec: " + what); };
  const std::pair<const char*, std::int64_t> extents[] = {{"batch", spec.batch},       {"q_tokens", spec.q_tokens},
                                                          {"q_heads", spec.q_heads},   {"kv_heads", spec.num_kv_heads()},
                                                          {"head_dim", spec.head_dim}, {"v_head_dim", spec.dim_v()}};
  for (const auto& [name, value] : extents)
    if (value < 1 || value > std::numeric_limits<std::int32_t>::max())
      throw refuse(fmt::format("{} is {}, want 1 or more and below 2^31", name, value));
  if (spec.q_heads % spec.num_kv_heads() != 0)
    throw refuse(fmt::format("kv_heads is {}, want a divisor of q_heads = {}", spec.num_kv_heads(), spec.q_heads));
  const auto size = [](std::int64_t extent) { return static_cast<long double>(extent); };
  if (8 * size(spec.batch) * size(spec.q_tokens) * size(spec.q_heads) * size(std::max(spec.head_dim, spec.dim_v() + 1)) > 0x1p62L)
    throw refuse("the tensors are larger than 2^62 bytes");
  if (spec.dtype == DType::f64) throw refuse("dtype is f64, want f32, f16 or bf16");
  if (!std::isfinite(spec.scale_or_default())) throw refuse(fmt::format("scale is {}, want a finite number", *spec.scale));
  if (!(spec.softcap >= 0) || !std::isfinite(spec.softcap))
    throw refuse(fmt::format("softcap is {}, want 0 (none) or a positive number", spec.softcap));
  if (num_ranks < 1) throw refuse(fmt::format("num_ranks is {}, want 1 or more", num_ranks));
}

double decode_merge_seconds(const DecodeSpec& spec, int num_ranks, DecodeMerge merge, const LinkClass& link) {
  const double rows = static_cast<double>(spec.batch) * static_cast<double>(spec.q_tokens) * static_cast<double>(spec.q_heads);
  const double dim_v = static_cast<double>(spec.dim_v());
  const double partial_bytes = 4 * rows * (dim_v + 1), result_bytes = rows * (dim_v * static_cast<double>(size_bytes(spec.dtype)) + 4);
  const auto message = [&](double bytes) { return 2 * link.latency_s + bytes / link.bytes_per_s; };
  const auto ranks = static_cast<unsigned>(num_ranks);
  const bool everywhere = spec.result == DecodeResult::everywhere;
  switch (merge) {
    case DecodeMerge::automatic:
      return std::min(decode_merge_seconds(spec, num_ranks, DecodeMerge::butterfly, link),
                      decode_merge_seconds(spec, num_ranks, DecodeMerge::all_to_all, link));
    case DecodeMerge::butterfly:
      return (std::bit_width(ranks) - 1) * message(partial_bytes) +
             (std::has_single_bit(ranks) ? 0 : message(partial_bytes) + message(result_bytes));
    case DecodeMerge::tree:
      return std::bit_width(ranks - 1) * (message(partial_bytes) + message(result_bytes));
    case DecodeMerge::all_to_all:
      return (num_ranks - 1) * (message(partial_bytes / num_ranks) + (everywhere ? message(result_bytes / num_ranks) : 0));
  }
  return 0;
}

Rank decode_owner(std::int64_t position, int num_ranks, std::int64_t run_tokens) {
  if (position < 0 || num_ranks < 1 || run_tokens < 1)
    throw Error(ErrorKind::argument, fmt::format("decode_owner: position, num_ranks, run_tokens are {}, {}, {}, want 0, 1, 1 or more",
                                                 position, num_ranks, run_tokens));
  return static_cast<Rank>(position / run_tokens % num_ranks);
}

std::vector<Rank> decode_owners(std::span<const std::int64_t> positions, std::int64_t q_tokens, int num_ranks, std::int64_t run_tokens) {
  std::vector<Rank> owners;
  for (const std::int64_t position : positions)
    for (std::int64_t token = 0; token < q_tokens; ++token) owners.push_back(decode_owner(position + token, num_ranks, run_tokens));
  return owners;
}

SEQCCL_END
