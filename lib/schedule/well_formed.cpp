// well_formed.cpp - bounds of everything that a schedule names by index.
// SPDX-License-Identifier: Apache-2.0
#include "well_formed.hpp"

#include <fmt/format.h>

#include <type_traits>

SEQCCL_BEGIN
namespace checker {

const char* name(Lane lane) noexcept {
  constexpr const char* names[] = {"compute", "comm", "comm2", "comm3"};
  return names[static_cast<int>(lane)];
}

std::string where(const Schedule& schedule, std::size_t step) {
  const Step& here = schedule.steps[step];
  int number = 0;
  for (std::size_t i = 0; i <= step; ++i) number += schedule.steps[i].lane == here.lane ? 1 : 0;
  return fmt::format("rank {}, {} step {} ({})", schedule.rank, name(here.lane), number, schedule.label(here));
}

namespace {

/// "" if the block lies in its slot.
std::string fault_of(const Schedule& schedule, const Block& block) {
  if (!block.present()) return "";
  if (block.slot >= schedule.slots.size()) return fmt::format("slot {} of {}", block.slot, schedule.slots.size());
  const Slot& slot = schedule.slots[block.slot];
  if (block.token_first < 0 || block.num_tokens < 0 || block.num_tokens > slot.tokens || block.token_first > slot.tokens - block.num_tokens)
    return fmt::format("tokens [{}, +{}) of a slot of {}", block.token_first, block.num_tokens, slot.tokens);
  if (block.head_first < 0 || block.num_heads < 0 || block.head_first + std::int64_t{block.num_heads} > slot.heads)
    return fmt::format("heads [{}, +{}) of a slot of {}", block.head_first, block.num_heads, slot.heads);
  return "";
}

std::string fault_of(const Schedule& schedule, const Op& op) {
  std::string fault;
  for_each_operand(op, [&](const Block& block, Access) {
    if (fault.empty()) fault = fault_of(schedule, block);
  });
  if (!fault.empty()) return fault;
  return std::visit(
      [&](const auto& typed) -> std::string {
        using T = std::decay_t<decltype(typed)>;
        if constexpr (std::is_same_v<T, Attend> || std::is_same_v<T, AttendBackward>) {
          if (std::size_t{typed.slices.first} + typed.slices.count > schedule.slices.size())
            return fmt::format("slices [{}, +{}) of {}", typed.slices.first, typed.slices.count, schedule.slices.size());
          if (typed.heads.group < 1) return fmt::format("group of {} heads", typed.heads.group);
        } else if constexpr (std::is_same_v<T, Custom>) {
          if (typed.function >= schedule.functions.size())
            return fmt::format("function {} of {}", typed.function, schedule.functions.size());
        }
        return "";
      },
      op);
}

std::string fault_of(const Schedule& schedule, const Exchange& exchange) {
  const std::size_t count = std::size_t{exchange.num_sends} + exchange.num_receives;
  if (exchange.first + count > schedule.transfers.size())
    return fmt::format("transfers [{}, +{}) of {}", exchange.first, count, schedule.transfers.size());
  for (std::size_t i = 0; i < count; ++i) {
    const Transfer& transfer = schedule.transfers[exchange.first + i];
    if (transfer.peer < 0 || transfer.peer >= schedule.num_ranks || transfer.peer == schedule.rank)
      return fmt::format("a transfer with rank {}", transfer.peer);
    if (!transfer.block.present()) return "a transfer of nothing";
    if (std::string fault = fault_of(schedule, transfer.block); !fault.empty()) return fault;
  }
  return "";
}

}  // namespace

void check_well_formed(const Schedule& schedule, std::vector<std::string>& problems) {
  for (std::size_t i = 0; i < schedule.steps.size() && problems.size() < max_problems; ++i) {
    const Step& step = schedule.steps[i];
    const bool computes = step.lane == Lane::compute;
    const std::size_t limit = computes ? schedule.ops.size() : schedule.exchanges.size();
    if (static_cast<int>(step.lane) >= num_lanes || step.index >= limit) {
      problems.push_back(fmt::format("rank {}, step {} of all: malformed: index {} of {}", schedule.rank, i + 1, step.index, limit));
      continue;
    }
    const std::string fault = computes ? fault_of(schedule, schedule.ops[step.index]) : fault_of(schedule, schedule.exchanges[step.index]);
    if (!fault.empty()) problems.push_back(fmt::format("rank {}, step {} of all: malformed: {}", schedule.rank, i + 1, fault));
  }
}

CheckReport check_well_formed(std::span<const Schedule> schedules) {
  CheckReport report;
  for (std::size_t rank = 0; rank < schedules.size(); ++rank) {
    const Schedule& schedule = schedules[rank];
    if (schedule.rank != static_cast<Rank>(rank) || schedule.num_ranks != static_cast<int>(schedules.size()))
      report.problems.push_back(fmt::format("schedule {} of {} is malformed: it is for rank {} of {}", rank, schedules.size(),
                                            schedule.rank, schedule.num_ranks));
    check_well_formed(schedule, report.problems);
  }
  return report;
}

}  // namespace checker
SEQCCL_END
