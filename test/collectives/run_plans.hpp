// run_plans.hpp - runs the plans of all ranks on small tensors in one thread, in an order of events that a seed chooses.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <vector>

#include "seqccl/execute.hpp"
#include "support/tensor.hpp"

namespace seqccl::test {

/// Per rank, the tensors of the slots that are not scratch, in the order in which they were recorded.
using PlanTensors = std::vector<std::vector<HostTensor>>;

/// `fill(rank, number, tensor)` writes what the caller gives; what it leaves is poison, as is the arena.
inline PlanTensors run_plans(const std::vector<Schedule>& schedules, std::uint64_t seed,
                             const std::function<void(Rank, std::size_t, HostTensor&)>& fill) {
  PlanTensors tensors(schedules.size());
  std::vector<std::vector<std::byte>> arenas;
  std::vector<Bindings> memory;
  for (std::size_t rank = 0; rank < schedules.size(); ++rank) {
    const Schedule& schedule = schedules[rank];
    arenas.emplace_back(schedule.workspace_bytes + 1, std::byte{0xff});
    memory.emplace_back(schedule, arenas.back().data());
    for (const Slot& slot : schedule.slots) {
      if (slot.kind == SlotKind::scratch) continue;
      HostTensor& tensor =
          tensors[rank].emplace_back(slot.dtype, std::initializer_list<std::int64_t>{slot.batch, slot.tokens, slot.heads, slot.dim});
      fill(static_cast<Rank>(rank), tensors[rank].size() - 1, tensor);
    }
    std::size_t number = 0;
    for (std::size_t i = 0; i < schedule.slots.size(); ++i) {
      if (schedule.slots[i].kind == SlotKind::scratch) continue;
      HostTensor& tensor = tensors[rank][number++];
      if (tensor.size() != 0) memory[rank].bind(static_cast<SlotIndex>(i), tensor.view());
    }
  }
  std::string why;
  EXPECT_TRUE(run_in_order(schedules, memory, {.seed = seed}, why)) << why;
  return tensors;
}

}  // namespace seqccl::test
