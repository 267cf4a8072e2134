// coverage_pairs.hpp - which pairs an attend computes, by the names that it finds, and whether its slices say the same.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "coverage.hpp"

SEQCCL_BEGIN
namespace checker {

struct Pairs {
  std::vector<Fragment> q, k;     // names of the rows of queries and keys
  std::vector<SumId> of_q, of_k;  // per fragment: what the op adds to sums over its queries, its keys
  bool is_right = true;           // false: a problem was reported
};

/// Reads q, k, v; pairs heads by `map`; compares the op's slices with what the mask says about the tokens that are there.
[[nodiscard]] Pairs follow_pairs(Coverage& run, const Block& q, const Block& k, const Block& v, SliceRange slices, const HeadMap& map);

/// True if two multisets of slices hold the same pairs, batch fields as they are, and `a` holds each once.
[[nodiscard]] bool same_pairs(std::vector<BandSlice> a, std::vector<BandSlice> b);

}  // namespace checker
SEQCCL_END
