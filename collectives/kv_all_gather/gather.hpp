// gather.hpp - masked group-cast of keys and values, and its dual: group-reduce of their gradients.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "../common/softmax.hpp"

SEQCCL_BEGIN
namespace collectives {

/// Gather
/// ======
///
///     buffer of rank 2 of 4    | what I see of rank 0 | of rank 1 | of rank 3 |       num_rows() rows, without my own
///
/// Every rank gets exactly the rows of others that at least one of its queries sees.
class Gather {
 public:
  /// `native`: where every rank sees everything and all hold as much, lay blocks out in rank order with a hole for my own, as a
  /// native all-gather puts them, and hint at one.
  Gather(Recorder& plan, const Partition& partition, const BoundMask& mask, std::int64_t batch, bool native);

  [[nodiscard]] std::int64_t num_rows() const { return num_needed_; }
  /// Which token each row of the buffer is; the hole has none.
  [[nodiscard]] std::vector<Piece> pieces() const;

  /// Records the exchange into a buffer of scratch.  // (B, num_rows, Hkv, D)
  [[nodiscard]] Keys gather(const Keys& own);
  /// The buffer as blocks without the hole.
  [[nodiscard]] std::vector<Keys> parts(const Keys& buffer) const;

  /// Records the way back of sums for the rows of a buffer. Returns what comes for my own keys, all ranks' parts.
  [[nodiscard]] KeyGradients send_home(const KeyGradients& sums);
  /// Adds it to `home`, in rank order.
  void add(const KeyGradients& arriving, const KeyGradients& home);

 private:
  /// What moves between me and one peer: runs of rows, as one message per tensor.
  struct Share {
    std::vector<Rows> rows;
    std::int64_t num_rows = 0;
    std::int64_t offset = 0;  // of the share in the buffer that holds all peers' shares
  };
  [[nodiscard]] static Share share_of(std::vector<Rows> rows, std::int64_t offset);
  /// One contiguous block with the rows of a share.
  [[nodiscard]] Block packed(const Block& block, const Share& share);
  [[nodiscard]] Rank left(int steps) const { return (plan_.rank() + plan_.num_ranks() - steps) % plan_.num_ranks(); }
  [[nodiscard]] Rank right(int steps) const { return (plan_.rank() + steps) % plan_.num_ranks(); }

  Recorder& plan_;
  const Partition& partition_;
  std::vector<Share> needed_, given_;  // per peer: his keys that I see, my keys that he sees
  std::int64_t num_needed_ = 0, num_given_ = 0;
  Native native_ = Native::none;
};

}  // namespace collectives
SEQCCL_END
