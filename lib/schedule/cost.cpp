// cost.cpp - counts bytes, messages and floating point operations of a schedule.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/cost.hpp"

#include <algorithm>
#include <cmath>
#include <type_traits>

SEQCCL_BEGIN

namespace {

double visible_pairs(const Schedule& schedule, SliceRange range, std::int64_t batch) {
  double pairs = 0;
  for (const BandSlice& slice : schedule.slices_of(range)) pairs += num_pairs(slice) * (slice.batch < 0 ? static_cast<double>(batch) : 1.0);
  return pairs;
}

// The linear kinds work in chunks of 64 tokens. Per token and head: products of a row with a state (Dk, Dv), products inside the
// chunk with the 32 tokens that a token sees on average, and for each delta kind a triangle to solve, which costs as much as one of
// those. What they are is said in lib/kernels/cpu/notes.md.
constexpr double seen_tokens = 32;

double per_token(const Schedule& schedule, const Block& rows, double products) {
  return 2.0 * static_cast<double>(schedule.slots[rows.slot].batch * rows.num_tokens * rows.num_heads) * products;
}

struct Dims {
  double k, v;
};
Dims dims(const Schedule& schedule, const Block& key, const Block& value) {
  return {static_cast<double>(schedule.slots[key.slot].dim), static_cast<double>(schedule.slots[value.slot].dim)};
}

// A transition is one more state, (Dk, Dk), that is carried along: entered with the identity, and with values of zero.
double linear_flops(const Schedule& schedule, const LinearSummary& op) {
  const auto [k, v] = dims(schedule, op.k, op.v);
  if (!op.beta.present()) return per_token(schedule, op.k, k * v);
  const double columns = v + (op.transition.present() ? k : 0);
  return per_token(schedule, op.k, 2 * k * columns + seen_tokens * (k + columns));
}

double linear_flops(const Schedule& schedule, const LinearLocal& op) {
  const auto [k, v] = dims(schedule, op.k, op.v);
  if (op.beta.present()) return per_token(schedule, op.k, 3 * k * v + seen_tokens * (2 * k + 2 * v));
  return per_token(schedule, op.k, 2 * k * v + seen_tokens * (k + v) + (op.bonus.present() ? k + v : 0));
}

double linear_flops(const Schedule& schedule, const LinearEnter& op) {
  const auto [k, v] = dims(schedule, op.q, op.out);
  return per_token(schedule, op.q, k * v);
}

double linear_flops(const Schedule& schedule, const LinearSummaryBackward& op) {
  const auto [k, v] = dims(schedule, op.q, op.dout);
  if (!op.beta.present()) return per_token(schedule, op.q, k * v);
  const double transition = op.transition.present() ? 2 * k * k + seen_tokens * k : 0;
  return per_token(schedule, op.q, 3 * k * v + seen_tokens * (2 * k + 2 * v) + transition);
}

double linear_flops(const Schedule& schedule, const LinearBackward& op) {
  const auto [k, v] = dims(schedule, op.k, op.v);
  if (op.beta.present()) return per_token(schedule, op.k, 9 * k * v + seen_tokens * (7 * k + 6 * v));
  return per_token(schedule, op.k, 5 * k * v + seen_tokens * (3 * k + 2 * v) + (op.bonus.present() ? 4 * k + 2 * v : 0));
}

}  // namespace

OpCost cost_of(const Schedule& schedule, const Op& op) {
  OpCost cost;
  for_each_operand(op, [&](const Block& block, Access access) {
    cost.bytes += static_cast<double>(schedule.num_bytes(block)) * (access == Access::update ? 2 : 1);
  });
  const auto dim = [&](const Block& block) { return schedule.slots[block.slot].dim; };
  const auto batch = [&](const Block& block) { return schedule.slots[block.slot].batch; };
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
        } else if constexpr (requires { linear_flops(schedule, typed); }) {
          cost.flops = linear_flops(schedule, typed);
        } else if constexpr (std::is_same_v<T, StateStep>) {
          const auto numbers = static_cast<double>(schedule.num_bytes(typed.state)) / 4;
          cost.flops = cost.bytes / 4;
          if (typed.transition.present()) cost.flops += 2 * numbers * std::sqrt(static_cast<double>(dim(typed.transition)));
        } else if constexpr (std::is_same_v<T, TakeColumns> || std::is_same_v<T, PutColumns>) {
          cost.bytes = 2.0 * static_cast<double>(schedule.num_bytes(typed.columns));  // the other columns are not touched
          cost.flops = cost.bytes / 4;
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
