// visits.hpp - the loop of a ring: every block of keys visits this rank while the next one travels.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../common/ring_path.hpp"

SEQCCL_BEGIN
namespace collectives {

/// Records visit(owner, keys) for the block of rank r + t in round t, as far as this rank needs it, while the block of rank
/// r + t + 1 comes in. Round 0 is `own`; a block of which nothing is needed has no rows. `visit` records what reads the keys.
template <class Visit>
void record_visits(Recorder& plan, const RingPath& path, const Partition& partition, const Keys& own, Visit&& visit) {
  const int num_ranks = plan.num_ranks();
  const std::int64_t largest = path.largest_arrival();
  const Keys spare[2] = {scratch_like(plan, own, largest), scratch_like(plan, own, largest)};
  const Keys mine = {plan.sendable(own.k), plan.sendable(own.v), own.pieces};

  Keys here = mine;  // the block of rank r + t
  for (int t = 0; t < num_ranks; ++t) {
    const Keys& next = spare[(t + 1) % 2];
    path.record_hop(t + 1, {here.k, here.v}, {mine.k, mine.v}, {next.k, next.v}, Lane::comm);
    visit((plan.rank() + t) % num_ranks, t == 0 ? own : here);
    if (t + 1 == num_ranks) break;
    const Rank owner = (plan.rank() + t + 1) % num_ranks;
    const Rows rows = path.need(plan.rank(), owner);
    here = {next.k.tokens(0, rows.count), next.v.tokens(0, rows.count), partition.pieces(owner, rows)};
  }
}

}  // namespace collectives
SEQCCL_END
