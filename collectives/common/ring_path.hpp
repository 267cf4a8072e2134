// ring_path.hpp - the way of a block round the ring: from neighbour to neighbour towards earlier ranks, skipping who needs nothing.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <initializer_list>
#include <vector>

#include "softmax.hpp"

SEQCCL_BEGIN
namespace collectives {

/// Path of a block
/// ===============
///
///     owner o  ->  o-1  ->  o-2  -> ... ->  o+1        round t: rank r gets the block of rank r + t
///
/// A rank takes only the rows it needs (one run). It takes them from its right neighbour if that rank holds all of them since the
/// round before, otherwise straight from the owner. So nobody carries what he does not need, a window costs one message, and
/// with a full mask every message goes to a neighbour.
class RingPath {
 public:
  enum class Travels { keys, queries };
  RingPath(SoftmaxLayer& layer, Travels what);
  /// `rows_taken(reader, owner)`: the rows of the owner's block that another rank needs.
  RingPath(Recorder& plan, const std::function<Rows(Rank reader, Rank owner)>& rows_taken);

  /// Rows of `owner`'s block that `reader` takes.
  [[nodiscard]] Rows need(Rank reader, Rank owner) const;
  /// True if `reader` takes the block of `owner` from its right neighbour, who is not the owner.
  [[nodiscard]] bool is_hop(Rank reader, Rank owner) const;
  /// The most rows that this rank takes of any block.
  [[nodiscard]] std::int64_t largest_arrival() const;

  using Blocks = std::initializer_list<Block>;
  /// Exchange of round t, 1 <= t < P (nothing else): takes the block of rank r + t into `into`, passes on `here` (the block of
  /// rank r + t - 1, rows as taken) and sends parts of `mine` to whoever takes my block straight from me.
  void record_hop(int t, Blocks here, Blocks mine, Blocks into, Lane lane) const;

  struct Homecoming {
    std::vector<Rows> rows;  // rows of my own block whose sums have arrived
  };
  /// Exchange of round t, 2 <= t <= P, of sums that travel with the blocks: passes on `done` (sums for the block of rank
  /// r + t - 1), of which the rows that the next rank does not take go home; gets the sums for the block of rank r + t into `into`
  /// and sums for my own block, in their rows, into `home`.
  Homecoming record_return(int t, Blocks done, Blocks into, Blocks home, Lane lane) const;

  /// Exchange of round t, 2 <= t <= P, of results that go straight back to the owner: sends `done` (for the rows taken of the block
  /// of rank r + t - 1) and gets results for rows of my own block, in their rows, into `home`; returns these rows.
  Rows record_straight_return(int t, Blocks done, Blocks home, Lane lane) const;

 private:
  /// Rows of `owner`'s block whose way ends at `holder`: what the next rank does not take from him.
  [[nodiscard]] std::vector<Rows> ends_at(Rank holder, Rank owner) const;
  [[nodiscard]] Rank previous(Rank reader) const { return (reader + 1) % num_ranks_; }  // the one before, on every path
  [[nodiscard]] Rank next(Rank reader) const { return (reader + num_ranks_ - 1) % num_ranks_; }

  Recorder& plan_;
  Rank rank_;
  int num_ranks_;
  std::vector<Rows> next_needs_, my_needs_, previous_needs_;  // per owner: what ranks r-1, r, r+1 take
  std::vector<Rows> takers_;                                  // per reader: what he takes of my block
};

}  // namespace collectives
SEQCCL_END
