// control.cpp - branches, barriers, fences, trap. What they do to the program counter is the scheduler's.
// SPDX-License-Identifier: Apache-2.0
#include "ptx/typed.hpp"

namespace ptx {
namespace {

// bar.warp.sync orders the memory of its members.
void sync_warp(Warp& w, const Instruction& i, LaneMask lanes) {
  LaneMask left = lanes;
  while (left != 0) {  // lanes that name the same members are one barrier
    const LaneMask members = w.get<u32>(i.slot[0], std::countr_zero(left)) & lanes;
    Clocks::Row known;
    Clocks& clocks = w.block->clocks;
    clocks.give(w.index * num_lanes, members, known);
    clocks.take(w.index * num_lanes, members, known);
    left &= ~members;
  }
}

void trap(Warp& w, const Instruction& i, LaneMask lanes) {
  w.block->run->fault(Finding::trap, w, i, std::countr_zero(lanes), "the kernel traps");
}

Operation control(Flow flow, int reads) {
  Operation made = operation(do_nothing, Work::control, reads);
  made.writes = 0;
  made.fields.flow = flow;
  return made;
}

// bar{rier}{.cta}.sync / .arrive / .red
Operation barrier(const Form& form) {
  Operation made = operation(do_nothing, Work::barrier, 1);
  Instruction& fields = made.fields;
  made.writes = 0;
  if (form.has("warp")) {
    if (!form.has("sync")) return {};
    fields.execute = sync_warp;
    fields.flow = Flow::together;
    made.member = 0;
    return made;
  }
  if (form.has("cluster")) return {};
  fields.flow = Flow::barrier;
  fields.aligned = form.base == "bar" || form.has("aligned");
  if (form.has("sync")) {
    made.optional_reads = 1;
    fields.mode = 0;
  } else if (form.has("arrive")) {
    made.reads = 2;
    fields.mode = 1;
  } else if (form.has("red")) {
    made.writes = 1;
    made.reads = 2;
    made.optional_reads = 1;
    made.may_negate = true;
    fields.mode = form.has("popc") ? 2 : form.has("and") ? 3 : 4;
  } else {
    return {};
  }
  return made;
}

}  // namespace

Operation control_operation(const Form& form) {
  const auto& base = form.base;
  if (base == "bra") return control(Flow::branch, 0);
  if (base == "brx" && form.has("idx")) return control(Flow::branch_table, 1);
  if (base == "ret") return control(Flow::leave, 0);
  if (base == "exit") return control(Flow::exit, 0);
  if (base == "bar" || base == "barrier") return barrier(form);
  if (base == "trap") {
    Operation made = control(Flow::next, 0);
    made.fields.execute = trap;
    return made;
  }
  // Fences order nothing between lanes that the checks of races would count: see notes.md.
  if (base == "membar" || (base == "fence" && !form.has("proxy"))) {
    Operation made = control(Flow::next, 0);
    made.fields.work = Work::barrier;
    return made;
  }
  if (base == "nanosleep") return control(Flow::next, 1);
  if (base == "prefetch" || base == "prefetchu") return control(Flow::next, 1);
  return {};
}

}  // namespace ptx
