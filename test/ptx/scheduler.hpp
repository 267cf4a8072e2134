// scheduler.hpp - runs the warps of a block.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ptx/warp.hpp"

namespace ptx {

/// Runs a warp until all its lanes have exited or wait, or for about `num_groups` instructions.
///
/// Lanes at the smallest program counter go first: that brings diverged lanes together again where compilers put the join. Lanes that
/// come to an instruction which needs others (.aligned, or members of a mask) stay there until those come; if they never can, the
/// launch ends with Finding::divergence. Any order of diverged lanes is one that a device may choose.
void run_warp(Warp& warp, u64 num_groups);

/// The lanes arrive at a barrier of their block (bar.sync, bar.arrive, bar.red) and wait unless they only arrive.
void arrive(Warp& warp, const Instruction& i, LaneMask lanes);
/// Lets go of every barrier that has all threads it wants.
void open_barriers(Block& block);

}  // namespace ptx
