// sequence_movement_slow_test.cpp - the numbers of SequenceGather, DimensionSwitch and HaloExchange at 64 ranks, in any order of events.
// SPDX-License-Identifier: Apache-2.0
#include "collectives/sequence_movement.hpp"

namespace seqccl::test {
namespace {

TEST(SequenceMovementSlow, GatheredAndReducedNumbersOf64Ranks) { expect_gathered_numbers(64); }
TEST(SequenceMovementSlow, SwitchedNumbersOf64Ranks) { expect_switched_numbers(64); }
TEST(SequenceMovementSlow, HaloNumbersOf64Ranks) { expect_halo_numbers(64); }

}  // namespace
}  // namespace seqccl::test
