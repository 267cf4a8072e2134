// partition.hpp - which rank holds which tokens of the sequence, and in which order.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "seqccl/error.hpp"
#include "seqccl/tensor.hpp"

SEQCCL_BEGIN

/// Global token positions first, first + step, ..., first + (count - 1) step.
struct Segment {
  std::int64_t first = 0, count = 0, step = 1;

  [[nodiscard]] std::int64_t operator[](std::int64_t index) const noexcept { return first + index * step; }
  [[nodiscard]] std::int64_t last() const noexcept { return first + (count - 1) * step; }
  bool operator==(const Segment&) const = default;
};

/// A part of a segment at a place in a block of rows: row `row + i` of the block is token `tokens[i]`.
struct Piece {
  std::int64_t row = 0;
  Segment tokens;
  bool operator==(const Piece&) const = default;
};

/// A half-open run of rows (tokens in local order) [first, first + count).
struct Rows {
  std::int64_t first = 0, count = 0;
  [[nodiscard]] std::int64_t end() const noexcept { return first + count; }
  bool operator==(const Rows&) const = default;
};

/// Partition of N tokens over P ranks
/// ==================================
///
///     contiguous  0 0 0 0 1 1 1 1 2 2 2 2      striped  0 1 2 0 1 2 0 1 2 0 1 2
///     zigzag      0 0 1 1 2 2 2 2 1 1 0 0      (N = 12, P = 3; the number is the owner of the token)
///
/// One representation for all: per rank a list of segments, in the order in which the rank stores its tokens. N need not
/// be divisible by P, a rank may hold nothing, every token has exactly one owner. Positions are 64 bit.
///
/// Zigzag (head-tail): rank r holds chunks r and 2P-1-r of 2P, so that causal attention is the same work for all ranks.
class Partition {
 public:
  Partition() = default;

  /// @throws Error(argument) if num_tokens < 0 or num_ranks < 1, and for `uneven` and `from_segments` if the parts are
  /// not exactly the tokens 0 .. N-1, each once
  [[nodiscard]] static Partition contiguous(std::int64_t num_tokens, int num_ranks);
  [[nodiscard]] static Partition zigzag(std::int64_t num_tokens, int num_ranks);
  [[nodiscard]] static Partition striped(std::int64_t num_tokens, int num_ranks);
  /// Contiguous runs of the given lengths, rank 0 first; zeros are allowed.
  [[nodiscard]] static Partition uneven(std::span<const std::int64_t> tokens_per_rank);
  /// Any assignment. `segments[r]` lists what rank r holds, in its storage order.
  [[nodiscard]] static Partition from_segments(std::int64_t num_tokens, std::vector<std::vector<Segment>> segments);

  [[nodiscard]] std::int64_t num_tokens() const noexcept { return num_tokens_; }
  [[nodiscard]] int num_ranks() const noexcept { return static_cast<int>(first_segment_.size()) - 1; }
  [[nodiscard]] std::int64_t tokens_on(Rank rank) const noexcept { return tokens_on_[rank]; }
  [[nodiscard]] std::span<const Segment> segments(Rank rank) const noexcept {
    return std::span(segments_).subspan(first_segment_[rank], first_segment_[rank + 1] - first_segment_[rank]);
  }

  /// Global position of the token that `rank` stores at `local` (0 <= local < tokens_on(rank)).
  [[nodiscard]] std::int64_t global_position(Rank rank, std::int64_t local) const;
  struct Place {
    Rank rank;
    std::int64_t local;
  };
  /// Who stores global position `position`, and where.
  [[nodiscard]] Place place_of(std::int64_t position) const;
  /// Position ids of this rank's tokens in storage order, as rotary embeddings want them.  // (T)
  [[nodiscard]] std::vector<std::int64_t> position_ids(Rank rank) const;

  /// The pieces of rows [first, first + count) of `rank`, with piece.row counted from `row_offset`.
  [[nodiscard]] std::vector<Piece> pieces(Rank rank, Rows rows, std::int64_t row_offset = 0) const;
  [[nodiscard]] std::vector<Piece> pieces(Rank rank) const { return pieces(rank, {0, tokens_on(rank)}); }

  /// True if every segment of every rank has step 1: what linear attention needs.
  [[nodiscard]] bool has_contiguous_segments() const noexcept;

  /// Copies rank's tokens out of / into a whole tensor along axis 1: whole (B, N, ...), shard (B, T, ...).
  /// The two must agree in dtype, number of axes and all other extents. @throws Error(argument) otherwise
  void shard(ConstTensorView whole, Rank rank, TensorView shard) const;
  void unshard(ConstTensorView shard, Rank rank, TensorView whole) const;

  /// "zigzag over 4 ranks, 4096 tokens"; equal partitions have equal texts.
  [[nodiscard]] std::string describe() const;

  bool operator==(const Partition& other) const {
    return num_tokens_ == other.num_tokens_ && segments_ == other.segments_ && first_segment_ == other.first_segment_;
  }

 private:
  Partition(std::string kind, std::int64_t num_tokens, const std::vector<std::vector<Segment>>& segments);

  std::string kind_ = "contiguous";
  std::int64_t num_tokens_ = 0;
  std::vector<Segment> segments_;              // all ranks', rank after rank, no empty ones
  std::vector<std::size_t> first_segment_{0};  // (P + 1)
  std::vector<std::int64_t> tokens_on_;        // (P)
};

SEQCCL_END
