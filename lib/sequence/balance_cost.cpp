// balance_cost.cpp - what a sequence costs the ranks that share it.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "seqccl/balance.hpp"

SEQCCL_BEGIN

BatchCost BatchCost::attention(std::int64_t q_heads, std::int64_t kv_heads, std::int64_t head_dim, std::size_t element_bytes,
                               bool backward) {
  const auto check = [](const char* what, std::int64_t value) {
    if (value < 1) throw Error(ErrorKind::argument, fmt::format("BatchCost::attention: {} is {}, want 1 or more", what, value));
  };
  check("q_heads", q_heads);
  check("kv_heads", kv_heads);
  check("head_dim", head_dim);
  check("element_bytes", static_cast<std::int64_t>(element_bytes));
  const double query_numbers = static_cast<double>(q_heads) * static_cast<double>(head_dim);
  const double key_value_numbers = 2.0 * static_cast<double>(kv_heads) * static_cast<double>(head_dim);
  BatchCost cost;
  cost.flops_per_pair = (backward ? 14 : 4) * query_numbers;
  cost.bytes_per_token =
      key_value_numbers * static_cast<double>(element_bytes) * (backward ? 2 : 1) + (backward ? 4 * key_value_numbers : 0);
  return cost;
}

double BatchCost::compute_s(std::int64_t num_tokens, int group_size) const noexcept {
  if (num_tokens == 0) return 0;
  const auto tokens = static_cast<double>(num_tokens);
  const double pairs = causal ? tokens * (tokens + 1) / 2 : tokens * tokens;
  return sequence_s + (flops_per_pair * pairs + flops_per_token * tokens) / (group_size * flops_per_s);
}

double BatchCost::transfer_s(std::int64_t num_tokens, int group_size, bool between_nodes) const noexcept {
  if (num_tokens == 0) return 0;
  const double latency_s = between_nodes ? between_latency_s : inside_latency_s;
  const double bytes_per_s = between_nodes ? between_bytes_per_s : inside_bytes_per_s;
  return (group_size - 1) * (latency_s + bytes_per_token * static_cast<double>(num_tokens) / (group_size * bytes_per_s));
}

double BatchCost::seconds(std::int64_t num_tokens, int group_size, bool between_nodes) const noexcept {
  const double compute = compute_s(num_tokens, group_size), transfer = transfer_s(num_tokens, group_size, between_nodes);
  return overlap ? (compute > transfer ? compute : transfer) : compute + transfer;
}

SEQCCL_END
