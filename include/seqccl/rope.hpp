// rope.hpp - tables of rotary position embedding for a rank's tokens.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "seqccl/partition.hpp"

SEQCCL_BEGIN

/// Rotary tables
/// =============
///
///     cos[t, i] = cos(position(t) base^(-2 i / dim)),     sin alike,     i = 0 .. dim / 2 - 1
///
/// Row t belongs to the token that `rank` stores at t, as Partition::position_ids lists them: a sharded layer that takes its
/// tables from here rotates each token as the unsharded layer does, to the bit, whatever the partition. With `documents` (lengths
/// as Mask::documents) positions count from the start of the token's document.
///
/// Computed in double and rounded once to f32. The angle itself is off by up to position 2^-53: below the rounding of
/// f32 for positions up to 2^28, 2^-13 at 2^40.
///
/// cos, sin (T, dim / 2) f32, any strides. Which elements of a head make pair i (neighbours, or i and i + dim / 2) is the caller's.
/// Source: RoFormer (arXiv:2104.09864).
///
/// @throws Error(argument) naming the argument: dim not even or below 2, base not above 0 and finite, no such rank, tables of another
/// shape or dtype, lengths that do not sum to the partition's tokens
void rope_tables(const Partition& partition, Rank rank, std::int64_t dim, double base, TensorView cos, TensorView sin,
                 std::span<const std::int64_t> documents = {});

SEQCCL_END
