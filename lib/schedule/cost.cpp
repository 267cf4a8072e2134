// cost.cpp - counts bytes, messages and floating point operations of a schedule.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/cost.hpp"

#include <algorithm>
#include <type_traits>

SEQCCL_BEGIN

namespace {

double visible_pairs(const Schedule& schedule, SliceRange range, std::int64_t batch) {
  double pairs = 0;
  for (const BandSlice& slice : schedule.slices_of(range)) pairs += num_pairs(slice) * (slice.batch < 0 ? static_cast<double>(batch) : 1.0);
  return pairs;
}

/// Flops of the linear kinds per token and head: `products` products with a (Dk, Dv) state.
double state_flops(const Schedule& schedule, const Block& rows, std::int64_t dim_k, std::int64_t dim_v, double products) {
  const Slot& slot = schedule.slots[rows.slot];
  return 2.0 * static_cast<double>(slot.batch * rows.num_tokens * rows.num_heads) * static_cast<double>(dim_k) *
         static_cast<double>(dim_v) * products;
}

}  // namespace

OpCost cost_of(const Schedule& schedule, const Op& op) {
  OpCost cost;
  for_each_operand(op, [&](const Block& block, Access access) {
    cost.bytes += static_cast<double>(schedule.num_bytes(block)) * (access == Access::update ? 2 : 1);
  });
  const auto dim = [&](const Block& block) { return schedule.slots[block.slot].dim; };
  const auto batch = [&](const Block& block) { return schedule.slots[block.slot].batch; };
  constexpr double chunk = 64;  // tokens per chunk of the linear kernels: the intra-chunk part costs (Dk + Dv) chunk / 2 per token
  std::visit(
      [&](const auto& typed) {
        using T = std::decay_t<decltype(typed)>;
        if constexpr (std::is_same_v<T, Attend>) {
          cost.flops = 2 * visible_pairs(schedule, typed.slices, batch(typed.q)) * typed.q.num_heads *
                       static_cast<double>(dim(typed.k) + dim(typed.v));
        } else if constexpr (std::is_same_v<T, AttendBackward>) {
          // q k^T, dout v^T, p^T dout, ds k, ds^T q
          cost.flops = 2 * visible_pairs(schedule, typed.slices, batch(typed.q)) * typed.q.num_heads *
                       static_cast<double>(3 * dim(typed.k) + 2 * dim(typed.v));
        } else if constexpr (std::is_same_v<T, LinearSummary>) {
          cost.flops = state_flops(schedule, typed.k, dim(typed.k), dim(typed.v), 1);
        } else if constexpr (std::is_same_v<T, LinearSummaryBackward>) {
          cost.flops = state_flops(schedule, typed.q, dim(typed.q), dim(typed.dout), 1);
        } else if constexpr (std::is_same_v<T, LinearEnter>) {
          cost.flops = state_flops(schedule, typed.q, dim(typed.q), dim(typed.out), 1);
        } else if constexpr (std::is_same_v<T, LinearLocal>) {
          cost.flops = state_flops(schedule, typed.k, dim(typed.k), dim(typed.v), 2) +
                       state_flops(schedule, typed.k, dim(typed.k) + dim(typed.v), 1, chunk / 2);
        } else if constexpr (std::is_same_v<T, LinearBackward>) {
          cost.flops = state_flops(schedule, typed.k, dim(typed.k), dim(typed.v), 5) +
                       state_flops(schedule, typed.k, 3 * dim(typed.k) + 2 * dim(typed.v), 1, chunk / 2);
        } else {
          cost.flops = cost.bytes / 4;  // one operation per number: never what bounds it
        }
      },
      op);
  return cost;
}

Cost cost_of(const Schedule& schedule) {
  Cost cost;
  const auto num_ranks = static_cast<std::size_t>(schedule.num_ranks);
  cost.sent_bytes.resize(num_ranks);
  cost.received_bytes.resize(num_ranks);
  cost.sent_messages.resize(num_ranks);
  cost.received_messages.resize(num_ranks);
  for (const Exchange& exchange : schedule.exchanges) {
    for (const Transfer& send : schedule.sends(exchange)) {
      cost.sent_bytes[send.peer] += schedule.num_bytes(send.block);
      ++cost.sent_messages[send.peer];
    }
    for (const Transfer& receive : schedule.receives(exchange)) {
      cost.received_bytes[receive.peer] += schedule.num_bytes(receive.block);
      ++cost.received_messages[receive.peer];
    }
  }
  for (const std::uint64_t bytes : cost.sent_bytes) cost.total_sent_bytes += bytes;
  for (const std::uint64_t bytes : cost.received_bytes) cost.total_received_bytes += bytes;
  for (const std::uint64_t messages : cost.received_messages) cost.total_received_messages += messages;
  cost.num_exchanges = static_cast<std::uint32_t>(schedule.exchanges.size());
  for (const Op& op : schedule.ops) cost.flops += cost_of(schedule, op).flops;
  cost.workspace_bytes = schedule.workspace_bytes;
  return cost;
}

SEQCCL_END
