// ring_path.hpp - the way of a block round the ring: from neighbour to neighbour skipping who needs nothing.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "softmax.hpp"

SEQCCL_BEGIN
namespace collectives {

/// Several tensors with the same rows: k and v, or q, dout, lse and delta, or sums for them.
using Blocks = std::vector<Block>;
[[nodiscard]] Blocks scratch_like(Recorder& plan, std::span<const Block> like, std::int64_t tokens);
[[nodiscard]] Blocks rows_of(std::span<const Block> blocks, Rows rows);

/// Path of a block
/// ===============
///
///     towards earlier ranks   owner o  ->  o-1  ->  o-2  -> ... ->  o+1        round t: rank r gets the block of rank r + t
///     towards later ranks     the same with the signs turned
///
/// A rank takes only the rows it needs (one run). It takes them from its neighbour if that rank holds all of them since the
/// round before, otherwise straight from the owner. So nobody carries what he does not need, a window costs one message, and
/// with a full mask every message goes to a neighbour. Ranks are places in the ring.
class RingPath {
 public:
  enum class Towards { earlier, later };
  /// `rows_taken(reader, owner)`: the rows of the owner's block that another rank needs.
  using RowsTaken = std::function<Rows(Rank reader, Rank owner)>;
  /// A ring of all ranks of the recorder's group, or of `members` in that order.
  RingPath(Recorder& plan, const RowsTaken& rows_taken, Towards towards = Towards::earlier);
  RingPath(Recorder& plan, std::vector<Rank> members, const RowsTaken& rows_taken, Towards towards = Towards::earlier);

  [[nodiscard]] int num_ranks() const { return num_ranks_; }
  /// Whose block is here in round t.
  [[nodiscard]] Rank owner_in(int t) const { return around(rank_ + sign_ * t); }
  /// Rows of `owner`'s block that `reader` takes.
  [[nodiscard]] Rows need(Rank reader, Rank owner) const;
  /// Rows of the block of round t that this rank takes; none past the last round.
  [[nodiscard]] Rows need_in(int t) const { return t < num_ranks_ ? need(rank_, owner_in(t)) : Rows{}; }
  /// True if `reader` takes the block of `owner` from its neighbour, who is not the owner.
  [[nodiscard]] bool is_hop(Rank reader, Rank owner) const;
  /// The most rows that this rank takes of any block.
  [[nodiscard]] std::int64_t largest_arrival() const;

  /// Exchange of round t, 1 <= t < P (nothing else): takes the block of that round into `into`, passes on `here` (the block of
  /// round t - 1, rows as taken) and sends parts of `mine` to whoever takes my block straight from me.
  void record_hop(int t, std::span<const Block> here, std::span<const Block> mine, std::span<const Block> into, Lane lane) const;

  struct Homecoming {
    std::vector<Rows> rows;  // rows of my own block whose sums have arrived
  };
  /// Exchange of round t, 2 <= t <= P, of sums that travel with the blocks: passes on `done` (sums for the block of round t - 1), of
  /// which the rows that the next rank does not take go home; gets the sums for the block of round t into `into` and sums for my own
  /// block, in their rows, into `home`.
  Homecoming record_return(int t, std::span<const Block> done, std::span<const Block> into, std::span<const Block> home, Lane lane) const;

  /// Exchange of round t, 2 <= t <= P, of results that go straight back to the owner: sends `done` (for the rows taken of the block
  /// of round t - 1) and gets results for rows of my own block, in their rows, into `home`.
  struct Straight {
    Rows rows;
    Rank worker = 0;
  };
  Straight record_straight_return(int t, std::span<const Block> done, std::span<const Block> home, Lane lane) const;

  /// The way back of record_hop(t): sends `done` (sums for the rows taken of the block of round t) to where the rows came from; gets what
  /// the next rank has summed for the rows that it took of the block of round t - 1, as they stand in that block as taken, into `into`, and
  /// what comes for my own block from whoever took it straight, in their rows, into `home`.
  struct TurnBack {
    Rows passed;  // rows of the block of round t - 1, from the first that was taken
    Rows own;
  };
  TurnBack record_turn_back(int t, std::span<const Block> done, std::span<const Block> into, std::span<const Block> home, Lane lane) const;

 private:
  /// Rows of `owner`'s block whose way ends at `holder`: what the next rank does not take from him.
  [[nodiscard]] std::vector<Rows> ends_at(Rank holder, Rank owner) const;
  [[nodiscard]] Rank around(int rank) const { return (rank % num_ranks_ + num_ranks_) % num_ranks_; }
  [[nodiscard]] Rank previous(Rank reader) const { return around(reader + sign_); }  // the one before, on every path
  [[nodiscard]] Rank next(Rank reader) const { return around(reader - sign_); }

  void exchange(std::vector<Transfer> sends, std::vector<Transfer> receives, Lane lane, Rank about) const;

  Recorder& plan_;
  std::vector<Rank> members_;
  Rank rank_;
  int num_ranks_, sign_;
  std::vector<Rows> next_needs_, my_needs_, previous_needs_;  // per owner: what the next rank, I, the one before take
  std::vector<Rows> takers_;                                  // per reader: what he takes of my block
};

}  // namespace collectives
SEQCCL_END
