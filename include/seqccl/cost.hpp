// cost.hpp - what a schedule costs, counted from its steps: bytes per peer, messages, flops, workspace.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "seqccl/schedule.hpp"

SEQCCL_BEGIN

/// Floating point operations of one op (multiply and add count as two) and bytes of its operands.
struct OpCost {
  double flops = 0;
  double bytes = 0;
};
[[nodiscard]] OpCost cost_of(const Schedule& schedule, const Op& op);

struct Cost {
  std::vector<std::uint64_t> sent_bytes, received_bytes;        // per peer
  std::vector<std::uint64_t> sent_messages, received_messages;  // per peer
  std::uint64_t total_sent_bytes = 0, total_received_bytes = 0;
  std::uint64_t total_received_messages = 0;
  std::uint32_t num_exchanges = 0;
  double flops = 0;
  std::size_t workspace_bytes = 0;
};
[[nodiscard]] Cost cost_of(const Schedule& schedule);

SEQCCL_END
