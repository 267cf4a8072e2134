// halo_exchange.hpp - the last tokens before each of a rank's segments, for short convolutions and token shifts.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "seqccl/communicator.hpp"
#include "seqccl/partition.hpp"

SEQCCL_BEGIN

struct HaloExchangeSpec {
  std::int64_t batch = 1;
  std::int64_t heads = 1;  // with head_dim: any split of a token's numbers
  std::int64_t head_dim = 0;
  DType dtype = f32;
  Partition partition;                    // every segment of step 1
  std::int64_t width = 1;                 // w: tokens before each segment; kernel size - 1, or 1 for a token shift
  std::vector<std::int64_t> documents{};  // lengths as Mask::documents; none: one document

  [[nodiscard]] std::string describe() const;
};
/// @throws Error(argument) naming the field, its value and what would be right
void validate(const HaloExchangeSpec& spec, int num_ranks);

/// Halo exchange
/// =============
///
///     w = 2, zigzag over 2 ranks       rank 0 | 0 1 | 6 7 |     halo | -  - | 4 5 |         - is a row of zeros
///                                      rank 1 | 2 3 4 5 |       halo | 0 1 |
///
///     halo row j w + i  =  x of token first_j - w + i,      first_j = first token of this rank's segment j, i = 0 .. w - 1
///
/// Before in sequence order, from whoever holds them: where shards are shorter than w, from several ranks. Rows before token 0, or
/// before the start of the document of token first_j, are zero. Put in front of its segment, a halo lets a causal convolution of
/// w + 1 taps (Mamba2, Gated DeltaNet) or a token shift (RWKV, w = 1) run on the segment as on the whole sequence; where a document
/// starts inside a segment the convolution itself starts anew, as it does unsharded.
///
/// reduce is the transpose: dx[token] += sum of dhalo over the rows that hold the token. This rank's own rows first, then the
/// others' in rank order, in each the halos in its storage order; f32, bitwise repeatable.
///
/// Cost: one exchange of one message per ordered pair of ranks that share something. Rank r receives B H D elements per row of its
/// halo that is not zero and not its own: w rows where shards are contiguous and at least w long, 2 w under zigzag. reduce moves the
/// same rows back, in f32.
///
/// Rules, errors and letters as movement.hpp. R: segments of this rank.
/// Striped partitions are refused: every token would need its own halo, w times the sequence on the wire.
class HaloExchange {
 public:
  HaloExchange(Communicator& comm, HaloExchangeSpec spec);
  ~HaloExchange();
  HaloExchange(HaloExchange&&) noexcept;
  HaloExchange& operator=(HaloExchange&&) noexcept;

  /// R w: rows of `halo` on this rank.
  [[nodiscard]] std::int64_t num_rows() const;

  void exchange(ConstTensorView x, TensorView halo);  // (B, T, H, D) -> (B, R w, H, D)
  void reduce(ConstTensorView dhalo, TensorView dx);  // (B, R w, H, D) f32, added to (B, T, H, D) f32
  [[nodiscard]] const HaloExchangeSpec& spec() const noexcept;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

SEQCCL_END
