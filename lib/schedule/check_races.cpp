// check_races.cpp - two steps that nothing orders may not touch the same byte, unless both only read.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "well_formed.hpp"

SEQCCL_BEGIN
namespace checker {

namespace {

struct Touch {
  std::uint32_t step = 0, number = 0;  // in Schedule::steps; in its lane, from 1
  bool writes = false;
  Region region;
};

class Races {
 public:
  explicit Races(const Schedule& schedule) : schedule_(schedule), touches_(schedule.slots.size()) {}

  std::vector<std::string> run() {
    check_arena();
    if (close_clocks()) {
      for (std::uint32_t i = 0; i < schedule_.steps.size(); ++i) check_step(i);
      for (const auto& lanes : touches_) check_slot(lanes);
    }
    return std::move(problems_);
  }

 private:
  void problem(std::uint32_t step, const std::string& what) {
    if (problems_.size() < max_problems) problems_.push_back(fmt::format("{}: {}", where(schedule_, step), what));
  }

  /// Scratch slots do not share memory, and lie in the workspace.
  void check_arena() {
    std::vector<const Slot*> scratch;
    for (const Slot& slot : schedule_.slots)
      if (slot.kind == SlotKind::scratch && slot.num_bytes() != 0) scratch.push_back(&slot);
    std::sort(scratch.begin(), scratch.end(), [](const Slot* a, const Slot* b) { return a->offset_bytes < b->offset_bytes; });
    for (std::size_t i = 0; i < scratch.size(); ++i) {
      const std::size_t end = scratch[i]->offset_bytes + scratch[i]->num_bytes();
      const std::size_t limit = i + 1 < scratch.size() ? scratch[i + 1]->offset_bytes : schedule_.workspace_bytes;
      if (end > limit)
        problems_.push_back(fmt::format("rank {}: scratch at byte {} ends at {}, beyond {}, where {} begins", schedule_.rank,
                                        scratch[i]->offset_bytes, end, limit,
                                        i + 1 < scratch.size() ? "the next slot" : "memory that is not the workspace's"));
    }
  }

  /// before_[s][lane]: how many steps of the lane are certainly done when s begins. Lanes advance as an executor would run them,
  /// so that clocks may point forward in program order.
  bool close_clocks() {
    std::array<std::vector<std::uint32_t>, num_lanes> lanes;
    for (std::uint32_t i = 0; i < schedule_.steps.size(); ++i) lanes[static_cast<int>(schedule_.steps[i].lane)].push_back(i);
    before_.resize(schedule_.steps.size());
    number_.resize(schedule_.steps.size());
    std::array<std::uint32_t, num_lanes> done{};
    bool progress = true;
    while (progress) {
      progress = false;
      for (int lane = 0; lane < num_lanes; ++lane) {
        while (done[lane] < lanes[lane].size()) {
          const std::uint32_t step = lanes[lane][done[lane]];
          const Clock& after = schedule_.steps[step].after;
          if (!std::equal(after.begin(), after.end(), done.begin(), std::less_equal<>())) break;
          Clock& before = before_[step];
          const auto join = [&](int other, std::uint32_t count) {  // after `count` steps of a lane, and all they are after
            if (count == 0) return;
            const Clock& past = before_[lanes[other][count - 1]];
            for (int l = 0; l < num_lanes; ++l) before[l] = std::max(before[l], past[l]);
            before[other] = std::max(before[other], count);
          };
          join(lane, done[lane]);
          for (int other = 0; other < num_lanes; ++other) join(other, after[other]);
          number_[step] = ++done[lane];
          progress = true;
        }
      }
    }
    for (int lane = 0; lane < num_lanes; ++lane)
      if (done[lane] < lanes[lane].size()) problem(lanes[lane][done[lane]], "its clock is never met");
    return problems_.empty();
  }

  void touch(std::uint32_t step, const Block& block, bool writes) {
    if (writes && schedule_.slots[block.slot].kind == SlotKind::input)
      problem(step, fmt::format("writes the input {}", name(schedule_.slots[block.slot].tensor)));
    touches_[block.slot][static_cast<int>(schedule_.steps[step].lane)].push_back(
        {step, number_[step], writes, region_of(schedule_, block)});
  }

  /// Regions of one step that are touched at the same time.
  void check_step(std::uint32_t index) {
    const Step& step = schedule_.steps[index];
    std::vector<std::pair<Block, bool>> blocks;
    if (step.lane == Lane::compute) {
      for_each_operand(schedule_.ops[step.index],
                       [&](const Block& block, Access access) { blocks.emplace_back(block, access != Access::read); });
    } else {
      const Exchange& exchange = schedule_.exchanges[step.index];
      for (const Transfer& send : schedule_.sends(exchange)) {
        if (!schedule_.slots[send.block.slot].sendable || !is_contiguous(send.block))
          problem(index, fmt::format("what it sends to rank {} is not contiguous", send.peer));
        blocks.emplace_back(send.block, false);
      }
      for (const Transfer& receive : schedule_.receives(exchange)) {
        const Slot& slot = schedule_.slots[receive.block.slot];
        if (slot.kind != SlotKind::scratch && !(slot.kind == SlotKind::output && slot.receivable))
          problem(index, fmt::format("rank {} writes into the caller's {}: peers may write scratch and receivable outputs only",
                                     receive.peer, name(slot.tensor)));
        if (!is_contiguous(receive.block)) problem(index, fmt::format("what it receives from rank {} is not contiguous", receive.peer));
        blocks.emplace_back(receive.block, true);
      }
    }
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      touch(index, blocks[i].first, blocks[i].second);
      for (std::size_t j = 0; j < i; ++j)
        if (blocks[i].first.slot == blocks[j].first.slot && (blocks[i].second || blocks[j].second) &&
            overlap(region_of(schedule_, blocks[i].first), region_of(schedule_, blocks[j].first)))
          problem(index, fmt::format("two of its own blocks overlap in slot {}, and one is written", blocks[i].first.slot));
    }
  }

  [[nodiscard]] bool is_contiguous(const Block& block) const {
    const Region region = region_of(schedule_, block);
    return region.count <= 1 || region.stride == region.block;
  }

  /// Step a of one lane and step b of another are unordered iff b is not before a and a is not before b. Both conditions are
  /// monotone in b, so the unordered ones are a run of the other lane.
  void check_slot(const std::array<std::vector<Touch>, num_lanes>& lanes) {
    for (int lane = 0; lane < num_lanes; ++lane) {
      for (int other = lane + 1; other < num_lanes; ++other) {
        for (const Touch& a : lanes[lane]) {
          const std::uint32_t ordered = before_[a.step][other];
          auto b = std::upper_bound(lanes[other].begin(), lanes[other].end(), ordered,
                                    [](std::uint32_t number, const Touch& touch) { return number < touch.number; });
          for (; b != lanes[other].end() && before_[b->step][lane] < a.number; ++b)
            if ((a.writes || b->writes) && overlap(a.region, b->region))
              problem(a.step, fmt::format("race with {}: nothing orders them, both touch slot {} ({}), {}", where(schedule_, b->step),
                                          a.region.slot, name(schedule_.slots[a.region.slot].tensor),
                                          a.writes && b->writes ? "both write" : "one writes"));
        }
      }
    }
  }

  const Schedule& schedule_;
  std::vector<Clock> before_;
  std::vector<std::uint32_t> number_;
  std::vector<std::array<std::vector<Touch>, num_lanes>> touches_;  // per slot and lane
  std::vector<std::string> problems_;
};

}  // namespace
}  // namespace checker

CheckReport check_races(const Schedule& schedule) {
  CheckReport report;
  checker::check_well_formed(schedule, report.problems);
  if (report.ok()) report.problems = checker::Races(schedule).run();
  return report;
}

SEQCCL_END
