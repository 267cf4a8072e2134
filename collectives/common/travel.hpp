// travel.hpp - the loops of the ring family: a block visits every rank, its sums follow it, go straight back, or turn back.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <functional>
#include <utility>

#include "ring_path.hpp"

SEQCCL_BEGIN
namespace collectives {

/// What travels: tensors with the same rows, and the tokens that the rows are.
struct Cargo {
  Blocks blocks;
  std::vector<Piece> pieces;
};
/// Which tokens rows of an owner's block are.
using PiecesOf = std::function<std::vector<Piece>(Rank owner, Rows rows)>;

/// The blocks of `cargo` as they can be sent.
[[nodiscard]] inline Blocks sendable(Recorder& plan, const Cargo& cargo) {
  Blocks result;
  for (const Block& block : cargo.blocks) result.push_back(plan.sendable(block));
  return result;
}

/// Two buffers for arrivals: a hop must not wait for the step that reads the block it replaces, only for the one before.
using Spare = std::array<Blocks, 2>;
[[nodiscard]] inline Spare spare_like(Recorder& plan, std::span<const Block> like, std::int64_t rows) {
  return {scratch_like(plan, like, rows), scratch_like(plan, like, rows)};
}

/// Records visit(owner, cargo) for the block of round t, as far as this rank needs it, while the block of round t + 1 comes in.
/// Round 0 is `own`, which is sent from `mine`; a block of which nothing is needed has no rows.
template <class Visit>
void record_visits(const RingPath& path, const PiecesOf& pieces, const Cargo& own, const Blocks& mine, const Spare& spare, Lane lane,
                   Visit&& visit) {
  Cargo here{mine, {}};
  for (int t = 0; t < path.num_ranks(); ++t) {
    const Blocks& next = spare[(t + 1) % 2];
    path.record_hop(t + 1, here.blocks, mine, next, lane);
    visit(path.owner_in(t), t == 0 ? own : std::as_const(here));
    if (t + 1 == path.num_ranks()) break;
    const Rows rows = path.need_in(t + 1);
    here = {rows_of(next, {0, rows.count}), pieces(path.owner_in(t + 1), rows)};
  }
}

/// Buffers of record_round_trip: sums for the block that is here, and what arrives for it and for my own.
struct SumSpare {
  Spare sums;
  Blocks arriving, homecoming;

  SumSpare(Recorder& plan, std::span<const Block> home, std::int64_t rows, std::int64_t own_rows)
      : sums(spare_like(plan, home, rows)), arriving(scratch_like(plan, home, rows)), homecoming(scratch_like(plan, home, own_rows)) {}
};

inline void record_adds(Recorder& plan, std::span<const Block> from, std::span<const Block> to, Rank about) {
  for (std::size_t i = 0; i < from.size(); ++i)
    if (!from[i].empty()) plan.compute(Add{from[i], to[i]}, about);
}

/// The same with sums that travel one round behind: visit(owner, cargo, sums) writes what this rank adds for the rows of the cargo, for
/// its own block straight into `home`. Each holder adds its part, and the last holder of a row sends the sum home.
template <class Visit>
void record_round_trip(Recorder& plan, const RingPath& path, const PiecesOf& pieces, const Cargo& own, const Blocks& mine,
                       const Blocks& home, const Spare& spare, const SumSpare& buffers, Lane lane, Lane lane_back, Visit&& visit) {
  const int num_ranks = path.num_ranks();
  Cargo here{mine, {}};
  for (int t = 0; t <= num_ranks; ++t) {
    const Rank owner = path.owner_in(t);
    const Blocks& next = spare[(t + 1) % 2];
    path.record_hop(t + 1, here.blocks, mine, next, lane);
    const Rows rows = path.need_in(t);
    const Blocks part = rows_of(buffers.sums[t % 2], {0, rows.count});
    if (t == 0)
      visit(owner, own, home);
    else if (t < num_ranks)
      visit(owner, std::as_const(here), part);

    // What the ranks before me on the path have summed for this block, and what has come to its end for my own.
    if (t >= 2) {
      const RingPath::Homecoming ended = path.record_return(t, buffers.sums[(t - 1) % 2], buffers.arriving, buffers.homecoming, lane_back);
      if (t < num_ranks && path.is_hop(path.owner_in(0), owner)) record_adds(plan, rows_of(buffers.arriving, {0, rows.count}), part, owner);
      for (const Rows& run : ended.rows) record_adds(plan, rows_of(buffers.homecoming, run), rows_of(home, run), path.owner_in(0));
    }
    if (t + 1 >= num_ranks) continue;
    const Rows coming = path.need_in(t + 1);
    here = {rows_of(next, {0, coming.count}), pieces(path.owner_in(t + 1), coming)};
  }
}

/// What an errand is about: my own block first (while the first cargo comes), my own block last (while the last results go back), or
/// cargo of another rank, with the place of its results.
enum class Errand { own_first, own_last, others };

/// Cargo whose results go straight back: visit(owner, cargo, errand, slot) makes results for the rows of the cargo in `results[slot]`; one
/// round later they are on their way, and fold(worker, rows) takes what has come into `returned` for rows of my own block. The work on my
/// own block comes in two parts, so that neither the first hop nor the last way back is exposed.
template <class Visit, class Fold>
void record_errands(const RingPath& path, const PiecesOf& pieces, const Cargo& own, const Blocks& mine, const Spare& spare,
                    const Spare& results, const Blocks& returned, Lane lane, Lane lane_back, Visit&& visit, Fold&& fold) {
  const int num_ranks = path.num_ranks();
  Cargo here{mine, {}};
  for (int t = 0; t <= num_ranks; ++t) {
    const Blocks& next = spare[(t + 1) % 2];
    path.record_hop(t + 1, here.blocks, mine, next, lane);
    if (t == 0)
      visit(path.owner_in(0), own, Errand::own_first, 0);
    else if (path.need_in(t).count != 0)
      visit(path.owner_in(t), std::as_const(here), Errand::others, t % 2);
    RingPath::Straight back;
    if (t >= 2) back = path.record_straight_return(t, results[(t - 1) % 2], returned, lane_back);
    if (t == num_ranks) visit(path.owner_in(0), own, Errand::own_last, 0);
    if (back.rows.count != 0) fold(back.worker, back.rows);
    if (t + 1 >= num_ranks) continue;
    const Rows rows = path.need_in(t + 1);
    here = {rows_of(next, {0, rows.count}), pieces(path.owner_in(t + 1), rows)};
  }
}

}  // namespace collectives
SEQCCL_END
