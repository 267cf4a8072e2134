// recorder.hpp - writes a collective as straight-line code and yields its Schedule.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <vector>

#include "seqccl/schedule.hpp"

SEQCCL_BEGIN

/// Recorder
/// ========
///
///     Recorder plan{"ring forward", rank, num_ranks};
///     const Block k = plan.input(Tensor::k, bf16, {B, T, Hkv, D});
///     const Block next = plan.scratch(bf16, {B, T, Hkv, D});
///     plan.exchange({{left, k}}, {{right, next}});                // two verbs: exchange ...
///     plan.compute(Attend{...});                                  // ... and compute
///     return std::move(plan).finish();
///
/// A collective contains no waits, events, tags or streams. What must wait for what follows from what each step reads and
/// writes: walk back through each other lane; the first step that wrote what I read, read what I write, or wrote what I
/// write is the one I come after. So a receive into a block that is still being read is late, never wrong.
///
/// Order within a lane is the author's, and an exchange starts when the one before it on its lane is done.
class Recorder {
 public:
  Recorder(std::string name, Rank rank, int num_ranks);

  /// This rank and how many there are, in the present group; without one, in the communicator.
  [[nodiscard]] Rank rank() const noexcept { return members_.empty() ? schedule_.rank : group_rank_; }
  [[nodiscard]] int num_ranks() const noexcept { return members_.empty() ? schedule_.num_ranks : static_cast<int>(members_.size()); }
  [[nodiscard]] bool in_group() const noexcept { return !members_.empty(); }

  /// A part of the ranks that a collective runs over: while this lives, rank(), num_ranks(), peers and `about` count inside `members`.
  /// Groups nest. A mesh is collectives over groups, recorded one after the other.
  class Group {
   public:
    /// `members`: ranks of the enclosing group, this rank among them, in the same order on all of them.
    /// @throws Error(internal) if this rank is not among them
    Group(Recorder& plan, std::span<const Rank> members);
    ~Group();
    Group(const Group&) = delete;
    Group& operator=(const Group&) = delete;

   private:
    Recorder& plan_;
    std::vector<Rank> outer_members_;
    Rank outer_rank_;
  };

  struct Shape {
    std::int64_t batch, tokens, heads, dim;
  };
  /// The caller's tensors. `sendable`: his memory is contiguous along tokens, so sends may read it in place;
  /// `receivable`: and peers may write it.
  [[nodiscard]] Block input(Tensor tensor, DType dtype, Shape shape, bool sendable = false);
  [[nodiscard]] Block output(Tensor tensor, DType dtype, Shape shape, bool receivable = false);
  /// Arena memory, stored (T, B, H, D). An empty shape gives an empty block and takes no memory.
  [[nodiscard]] Block scratch(DType dtype, Shape shape);

  /// A contiguous block with the contents of `block`: itself if it can be sent in place, else a packed copy.
  [[nodiscard]] Block sendable(const Block& block);

  /// Messages in flight together. Empty blocks are dropped (drop them on both sides: sizes are known everywhere).
  /// An exchange with nothing to say is not recorded. @throws Error(internal) if a send is not contiguous, a receive is neither scratch nor
  /// receivable,
  /// a peer is this rank or outside the communicator
  void exchange(std::vector<Transfer> sends, std::vector<Transfer> receives, Lane lane = Lane::comm, Native native = Native::none,
                Rank about = -1);

  /// One op. `about`: the rank whose block it treats, for people who read the schedule.
  void compute(Op op, Rank about = -1);

  /// Stores slices and returns their range, for Attend and AttendBackward.
  [[nodiscard]] SliceRange slices(std::span<const BandSlice> slices);
  /// Stores a function for a Custom op.
  [[nodiscard]] std::uint32_t function(CustomFunction function);

  [[nodiscard]] const Slot& slot(const Block& block) const noexcept { return schedule_.slots[block.slot]; }

  /// The schedule. `identity` tells operations apart: a text that is equal on all ranks; its hash is the fingerprint.
  [[nodiscard]] Schedule finish(const std::string& identity) &&;

 private:
  struct Touch {           // one access to a slot
    std::uint32_t number;  // 1 + index of the step in its lane
    bool writes;
    Region region;
  };
  Block add_slot(Slot slot);
  void touch(Step& step, const Block& block, Access access);
  void push(Step step);
  /// A rank of the present group as a rank of the communicator; -1 stays.
  [[nodiscard]] Rank world(Rank rank) const noexcept { return rank < 0 || members_.empty() ? rank : members_[rank]; }

  Schedule schedule_;
  std::vector<Rank> members_;  // of the present group, as ranks of the communicator; none: all
  Rank group_rank_ = 0;
  std::vector<std::array<std::vector<Touch>, num_lanes>> touches_;  // per slot and lane, oldest first
  std::array<std::uint32_t, num_lanes> num_steps_{};
};

SEQCCL_END
