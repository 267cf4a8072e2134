// sequence_gather.hpp - whole sequences on every rank, and sums of them back to their tokens' owners.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "seqccl/communicator.hpp"
#include "seqccl/partition.hpp"

SEQCCL_BEGIN

struct SequenceGatherSpec {
  std::int64_t batch = 1;
  std::int64_t heads = 1;  // with head_dim: any split of a token's numbers
  std::int64_t head_dim = 0;
  DType dtype = f32;
  Partition partition;

  /// One "name = value" line per field: equal operations have equal texts on all ranks.
  [[nodiscard]] std::string describe() const;
};
/// @throws Error(argument) naming the field, its value and what would be right
void validate(const SequenceGatherSpec& spec, int num_ranks);

/// Sequence all-gather and reduce-scatter
/// ======================================
///
///     gather            tokens (B, T, H, D)  ->  sequence (B, N, H, D), the same on every rank, row i = token i
///     reduce_scatter    partial (B, N, H, D) ->  sums (B, T, H, D) f32,   sums[token] = sum over ranks of partial[token]
///
/// The pair of Megatron sequence parallelism, around blocks whose weights are sharded: gather enters, reduce_scatter leaves. Each is
/// the other's transpose, so it is also the other's backward. The rows of a sequence are in sequence order under every partition:
/// contiguous, zigzag, striped, uneven, any.
///
/// gather is exact movement: every bit arrives as it was. reduce_scatter sends the element type and adds in f32, rank 0 first, then
/// rank 1 and so on, whatever the partition: bitwise repeatable, and the same numbers for every partition.
///
/// Cost: one exchange. gather: one message from every other rank with tokens, B (N - T) H D elements received. reduce_scatter: one
/// message from every other rank, (P - 1) B T H D elements received. Partials of a rank with several segments, with striped tokens
/// or without contiguous memory are packed first; both copy their results out of the arena once.
///
/// Rules, errors and letters as movement.hpp.
/// Source: Megatron sequence parallelism (arXiv:2205.05198).
class SequenceGather {
 public:
  SequenceGather(Communicator& comm, SequenceGatherSpec spec);
  ~SequenceGather();
  SequenceGather(SequenceGather&&) noexcept;
  SequenceGather& operator=(SequenceGather&&) noexcept;

  void gather(ConstTensorView tokens, TensorView sequence);       // (B, T, H, D) -> (B, N, H, D)
  void reduce_scatter(ConstTensorView partial, TensorView sums);  // (B, N, H, D) -> (B, T, H, D) f32
  [[nodiscard]] const SequenceGatherSpec& spec() const noexcept;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

SEQCCL_END
