// scheduler.cpp - lock step within a warp, with divergence.
// SPDX-License-Identifier: Apache-2.0
#include "ptx/scheduler.hpp"

#include <algorithm>
#include <utility>

namespace ptx {
namespace {

class WarpRunner {
 public:
  explicit WarpRunner(Warp& warp) : w_(warp), run_(*warp.block->run), code_(warp.block->kernel->code.data()) {}

  void run(u64 budget) {
    while (const LaneMask ready = w_.live & ~w_.waiting) {
      const LaneMask free = ready & ~parked_;
      if (free == 0) {
        if (w_.waiting != 0) return;  // lanes at a barrier may come
        stuck(ready);
      }
      u32 pc = ~u32{0};
      each_lane(free, [&](int lane) { pc = std::min(pc, w_.pc[static_cast<std::size_t>(lane)]); });
      LaneMask group = 0;
      each_lane(ready, [&](int lane) { group |= LaneMask{w_.pc[static_cast<std::size_t>(lane)] == pc} << lane; });
      parked_ &= ~group;
      if (!run_group(pc, group, budget)) return;
    }
  }

 private:
  [[nodiscard]] LaneMask guarded(const Instruction& i, LaneMask group) const {
    if (i.guard < 0) return group;
    LaneMask lanes = 0;
    const u64* predicate = w_.registers + static_cast<std::size_t>(i.guard) * num_lanes;
    for (int lane = 0; lane < num_lanes; ++lane) lanes |= static_cast<LaneMask>((predicate[lane] & 1) != u64{i.guard_negated}) << lane;
    check_set(i, static_cast<u32>(i.guard), group);
    return lanes & group;
  }

  void check_set(const Instruction& i, u32 slot, LaneMask lanes) const {
    if (const LaneMask unset = lanes & ~w_.set[slot]) {
      run_.report(Finding::uninitialised_register, w_, i, std::countr_zero(unset), "reads a register that has no value");
    }
  }

  void move_to(LaneMask lanes, u32 pc) {
    each_lane(lanes, [&](int lane) { w_.pc[static_cast<std::size_t>(lane)] = pc; });
  }

  // Straight on with one group of lanes for as long as it is the whole warp. False: the budget is used up or the lanes wait.
  bool run_group(u32 pc, LaneMask group, u64& budget) {
    for (;;) {
      const Instruction& i = code_[pc];
      const LaneMask lanes = guarded(i, group);
      if ((i.flow == Flow::together || i.flow == Flow::barrier) && !complete(i, group, lanes)) {
        move_to(group, pc);
        parked_ |= group;
        return true;
      }
      ++run_.costs[pc].executed;
      if (++run_.executed > run_.launch->max_warp_instructions)
        run_.fault(Finding::too_long, w_, i, std::countr_zero(group), "the launch runs longer than its limit: a lane that spins?");
      if (lanes != 0) execute(i, lanes);
      --budget;
      pc = next(i, pc, group, lanes);
      if (pc == nowhere) return i.flow != Flow::barrier && budget != 0;
      if (group != w_.live || budget == 0) {
        move_to(group, pc);
        return budget != 0;
      }
    }
  }

  void execute(const Instruction& i, LaneMask lanes) {
    const u32 num_used = static_cast<u32>(i.num_written) + i.num_read;
    if (i.copies) {
      i.execute(w_, i, lanes);
      w_.set[i.slot[0]] = (w_.set[i.slot[0]] & ~lanes) | (w_.set[i.slot[1]] & lanes);
      return;
    }
    for (u32 n = i.num_written; n < num_used; ++n) check_set(i, i.slot[n], lanes);
    i.execute(w_, i, lanes);
    for (u32 n = 0; n < i.num_written; ++n) w_.set[i.slot[n]] |= lanes;
    if (i.elements_apart) {
      for (u32 n = 0; n < i.num_written; ++n) w_.set[i.slot[n]] &= ~std::exchange(w_.unwritten[n], 0);
    }
  }

  static constexpr u32 nowhere = ~u32{0};

  // Where the group goes on; nowhere if its lanes now have places of their own.
  u32 next(const Instruction& i, u32 pc, LaneMask& group, LaneMask lanes) {
    switch (i.flow) {
      case Flow::next:
      case Flow::together:
        return pc + 1;
      case Flow::branch:
        if (lanes == group) return i.target;
        if (lanes == 0) return pc + 1;
        move_to(lanes, i.target);
        move_to(group & ~lanes, pc + 1);
        return nowhere;
      case Flow::branch_table:
        move_to(group, pc + 1);
        each_lane(lanes, [&](int lane) {
          const std::vector<u32>& table = w_.block->kernel->branch_tables[i.target];
          const u32 index = w_.get<u32>(i.slot[0], lane);
          if (index >= table.size()) run_.fault(Finding::out_of_bounds, w_, i, lane, "the index of a branch is beyond its table");
          w_.pc[static_cast<std::size_t>(lane)] = table[index];
        });
        return nowhere;
      case Flow::call:
        each_lane(lanes, [&](int lane) { w_.return_to[i.number * num_lanes + static_cast<u32>(lane)] = pc + 1; });
        if (lanes == group) return i.target;
        move_to(lanes, i.target);
        move_to(group & ~lanes, pc + 1);
        return nowhere;
      case Flow::leave:
        move_to(group & ~lanes, pc + 1);
        each_lane(lanes,
                  [&](int lane) { w_.pc[static_cast<std::size_t>(lane)] = w_.return_to[i.number * num_lanes + static_cast<u32>(lane)]; });
        return nowhere;
      case Flow::exit:
        leave_launch(i, lanes);
        move_to(group & ~lanes, pc + 1);
        return nowhere;
      case Flow::barrier:
        move_to(group, pc + 1);
        if (lanes != 0) arrive(w_, i, lanes);
        return nowhere;
    }
    return nowhere;
  }

  void leave_launch(const Instruction& i, LaneMask lanes) {
    each_lane(lanes, [&](int l) {
      const auto lane = static_cast<std::size_t>(l);
      const auto& groups = w_.copy_groups[lane];
      if (!w_.open_copies[lane].empty() || std::any_of(groups.begin(), groups.end(), [](const auto& g) { return !g.empty(); })) {
        run_.report(Finding::exit_with_copy_in_flight, w_, i, l, "exits before its copies have landed");
      }
    });
    w_.live &= ~lanes;
    parked_ = 0;  // nobody waits for them any more
  }

  // Whether all lanes that the instruction needs are in the group.
  bool complete(const Instruction& i, LaneMask group, LaneMask lanes) {
    if (lanes == 0) return true;
    if (i.aligned) {
      if (group != w_.live) return false;
      if (lanes != group)
        run_.fault(Finding::divergence, w_, i, std::countr_zero(group & ~lanes),
                   "not all lanes of the warp execute this .aligned instruction");
      if (i.flow == Flow::together && w_.live != all_lanes)
        run_.fault(Finding::divergence, w_, i, std::countr_zero(lanes), "lanes of the warp are missing or have exited");
    }
    bool all_here = true;
    if (i.member >= 0) {
      check_set(i, i.slot[static_cast<std::size_t>(i.member)], lanes);
      each_lane(lanes, [&](int lane) {
        const LaneMask members = w_.get<u32>(i.slot[static_cast<std::size_t>(i.member)], lane);
        if ((members >> lane & 1) == 0) run_.fault(Finding::divergence, w_, i, lane, "the lane is not in its own member mask");
        all_here = all_here && (members & w_.live & ~group) == 0;
        if (all_here && (members & w_.live & ~lanes) != 0)
          run_.fault(Finding::divergence, w_, i, lane, "a lane of the member mask does not execute this");
      });
    }
    return all_here;
  }

  [[noreturn]] void stuck(LaneMask ready) const {
    const int lane = std::countr_zero(ready);
    std::string others;
    each_lane(ready, [&](int other) {
      const u32 pc = w_.pc[static_cast<std::size_t>(other)];
      if (others.empty() && pc != w_.pc[static_cast<std::size_t>(lane)])
        others = "; lane " + std::to_string(other) + " at " + w_.block->kernel->where(code_[pc]);
    });
    run_.fault(Finding::divergence, w_, code_[w_.pc[static_cast<std::size_t>(lane)]], lane,
               "lanes of the warp wait for each other at different instructions" + others + "; this one");
  }

  Warp& w_;
  Run& run_;
  const Instruction* code_;
  LaneMask parked_ = 0;  // at an instruction that needs other lanes
};

}  // namespace

void run_warp(Warp& warp, u64 num_groups) { WarpRunner(warp).run(num_groups); }

}  // namespace ptx
