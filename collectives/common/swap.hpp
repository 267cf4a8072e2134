// swap.hpp - the all-to-all between sharded tokens and sharded heads: who has which heads, and where everybody's tokens stand.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <utility>
#include <vector>

#include "softmax.hpp"

SEQCCL_BEGIN
namespace collectives {

/// Heads [first, first + count) of a tensor.
struct HeadRange {
  std::int32_t first = 0, count = 0;
};
/// What each rank has after the swap. Ascending by rank; neighbours may overlap (replicated key heads).
using HeadShares = std::vector<HeadRange>;
/// As evenly as they go: [r H / P, (r + 1) H / P).
[[nodiscard]] HeadShares even_shares(std::int64_t num_heads, int num_ranks);

/// The rows of the swapped tensors. Segments of step 1 land in sequence order, so that the whole sequence is one piece; others land
/// in rank order.
struct SwapRows {
  /// Where a run of an owner's tokens stands.
  struct Landing {
    Rows local, row;  // rows of the owner's shard; rows of the swapped tensors
  };
  std::vector<std::vector<Landing>> landings;  // per member
  std::vector<Piece> pieces;
  std::int64_t num_rows = 0;

  /// Of all tokens, or of those that `members` hold.
  explicit SwapRows(const Partition& partition);
  SwapRows(const Partition& partition, std::span<const Rank> members);
  /// The swapped rows as segments.
  [[nodiscard]] std::vector<Segment> segments() const;
};

/// An all-to-all of several tensors in one exchange.
struct Messages {
  std::vector<Transfer> sends, receives;
  void record(Recorder& plan, Lane lane = Lane::comm) { plan.exchange(std::move(sends), std::move(receives), lane); }
};

/// Swap
/// ====
///
///     enter   (B, T, H, D)   -> (B, N, h_r, D)      leave   (B, N, h_r, D) -> (B, T, H, D), in two halves: leave and settle
///
/// Both add their messages to a list, so that one exchange moves several tensors.
class Swap {
 public:
  Swap(Recorder& plan, const Partition& partition, std::int64_t batch)
      : plan_(plan), rows_(partition), batch_(batch), own_tokens_(partition.tokens_on(plan.rank())) {}
  /// Over the recorder's present group; members[i] is the rank in `partition` of rank i.
  Swap(Recorder& plan, const Partition& partition, std::int64_t batch, std::span<const Rank> members)
      : plan_(plan), rows_(partition, members), batch_(batch), own_tokens_(partition.tokens_on(members[plan.rank()])) {}

  [[nodiscard]] const std::vector<Piece>& pieces() const { return rows_.pieces; }

  /// Scratch for my heads of all tokens.  // (B, N, h_r, dim)
  [[nodiscard]] Block scratch(DType dtype, const HeadShares& shares, std::int64_t dim);

  /// From my tokens, all heads, to all tokens, my heads: in `into`, if that is there and receivable, else in scratch.
  [[nodiscard]] Block enter(const Block& tokens, const HeadShares& shares, Messages& messages, const Block& into = {});

  /// What came back from one rank: my tokens, his heads.
  struct Returned {
    Rank from;
    Block block;
    HeadRange heads;
  };
  /// From all tokens, my heads, to my tokens, everybody's heads, in rank order. `all` must be contiguous.
  [[nodiscard]] std::vector<Returned> leave(const Block& all, const HeadShares& shares, Messages& messages);
  /// Puts returned heads into a tensor of all heads. Heads that are there already (`filled`, one flag per head, or several ranks
  /// return them: replicated keys) are added, in rank order.
  void settle(const std::vector<Returned>& returned, const Block& to, std::vector<bool>& filled);
  void settle(const std::vector<Returned>& returned, const Block& to) {
    std::vector<bool> filled;
    settle(returned, to, filled);
  }

  /// Records a copy, unless there is nothing to copy, or it is there already.
  void copy(const Block& from, const Block& to);

 private:
  [[nodiscard]] Rank left(int steps) const { return (plan_.rank() + plan_.num_ranks() - steps) % plan_.num_ranks(); }
  [[nodiscard]] Rank right(int steps) const { return (plan_.rank() + steps) % plan_.num_ranks(); }

  Recorder& plan_;
  SwapRows rows_;
  std::int64_t batch_, own_tokens_;
};

}  // namespace collectives
SEQCCL_END
