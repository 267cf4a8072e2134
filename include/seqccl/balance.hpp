// balance.hpp - which ranks share which sequence of a batch, and in which micro-batch: a packed partition and mask per micro-batch.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "seqccl/mask.hpp"
#include "seqccl/mesh.hpp"
#include "seqccl/partition.hpp"

SEQCCL_BEGIN

/// Time of one sequence on each rank that shares it
/// ================================================
///
///     compute(L, g)  = sequence_s + (flops_per_pair pairs(L) + flops_per_token L) / (g flops_per_s)
///     transfer(L, g) = (g - 1) (latency_s + bytes_per_token L / (g bytes_per_s))                 0 for g = 1
///
///     rank           = sum of compute + sum of transfer over its sequences; with `overlap` the larger of the two sums
///     micro-batch    = micro_batch_s + its slowest rank
///
/// L tokens of the sequence, g ranks that share it, pairs(L) = L (L + 1) / 2 if causal, else L^2. A group inside a node uses the
/// `inside` link, any other the `between` link for all of its bytes: every block of a ring crosses the slowest hop.
struct BatchCost {
  double flops_per_pair = 0;   // attention, all heads, of one visible (query, key) pair
  double flops_per_token = 0;  // what is linear in L: projections, feed-forward, ...
  double bytes_per_token = 0;  // that a rank receives for every token of the group that it does not hold
  double flops_per_s = 20e9;   // of one rank
  double inside_latency_s = 2e-6, inside_bytes_per_s = 10e9;
  double between_latency_s = 2e-6, between_bytes_per_s = 10e9;
  double sequence_s = 0;     // fixed, per sequence, on every rank of its group
  double micro_batch_s = 0;  // fixed, per micro-batch
  bool causal = true;
  bool overlap = false;  // transfers of a micro-batch hide behind its compute

  /// Costs of one attention layer by ring or kv_all_gather, rates and fixed times as above: 4 Hq D flops per pair and keys and
  /// values on the wire; `backward` adds 10 Hq D flops, keys and values once more, and their f32 gradients.
  [[nodiscard]] static BatchCost attention(std::int64_t q_heads, std::int64_t kv_heads, std::int64_t head_dim, std::size_t element_bytes,
                                           bool backward);

  [[nodiscard]] double compute_s(std::int64_t num_tokens, int group_size) const noexcept;
  [[nodiscard]] double transfer_s(std::int64_t num_tokens, int group_size, bool between_nodes) const noexcept;
  /// The two together, of a sequence that is alone on its ranks.
  [[nodiscard]] double seconds(std::int64_t num_tokens, int group_size, bool between_nodes = false) const noexcept;
};

struct BalanceProblem {
  std::vector<std::int64_t> lengths;  // tokens of every sequence; zeros are allowed
  int num_ranks = 1;
  Topology topology{};                   // groups stay inside a node where that is no slower
  std::int64_t max_tokens_per_rank = 0;  // in one micro-batch; 0: no limit. From bytes: memory / bytes per token
  BatchCost cost{};
  int effort = 1;  // passes of the search, each as long as the first and none for the worse; for a plan that is used often
};

/// One attention call
/// ==================
///
///     lengths 8, 4, 2, 2 over 4 ranks       rank 0   rank 1   rank 2   rank 3
///                                           8: 0..3 shared by two, zigzag
///                                                             4        2, 2
///
/// The sequences are the documents of one packed sequence, and every one lies zigzag over the ranks of its group. So any softmax
/// method runs the micro-batch over the whole communicator, exactly:
///
///     AttentionSpec spec{..., .partition = micro.partition, .mask = micro.mask};      // ring or kv_all_gather
///
/// Groups of one micro-batch are nested or disjoint. With the storage order of `partition` (of the sequences that a rank shares,
/// heads from narrow to wide, then tails from wide to narrow) everything that a reader needs of a rank is then one run of rows: ring
/// and kv_all_gather receive exactly the rows that the groups need, and no rank receives a token of a group that it is not in. The
/// other methods are exact too but may move more (head_swap: everything to everyone).
struct MicroBatch {
  std::vector<std::int64_t> sequences;    // indices in BalanceProblem::lengths, in packed order
  std::vector<std::int64_t> first_token;  // packed position of each sequence's first token
  std::vector<std::vector<Rank>> groups;  // per sequence, ascending; no ranks for a sequence without tokens
  Partition partition;                    // of the packed sequence over all ranks
  Mask mask;                              // the documents, causal if the cost is
  double seconds = 0;                     // as the cost model has it
  std::vector<double> rank_seconds;       // per rank, without micro_batch_s

  /// Positions of this rank's tokens within their own sequences, in storage order, as rotary embeddings want them.  // (T)
  [[nodiscard]] std::vector<std::int64_t> position_ids(Rank rank) const;
};

struct BatchPlan {
  std::vector<MicroBatch> micro_batches;  // longest first; none for an empty batch
  double seconds = 0;                     // their sum
  double lower_bound_s = 0;               // no assignment is faster
  double uniform_seconds = 0;             // every sequence over all ranks, packed in the given order under the same limit

  /// A table: a line per micro-batch, then its groups; and what the plan gains over the uniform one.
  [[nodiscard]] std::string describe() const;
};

/// Assigns every sequence to a micro-batch and to a group of ranks of any size, so that the sum over micro-batches of the slowest
/// rank's time is small, with at most max_tokens_per_rank on a rank. A group of g ranks needs room for ceil(L / g) tokens on each.
///
/// A heuristic (greedy by many targets, then seeded remove-and-insert; see balance_notes.md), with a bounded number of steps: equal
/// problems give equal plans with one binary, so every rank may make its own. Tens of milliseconds at 512 sequences and 64 ranks.
/// @throws Error(argument) if a sequence has more than num_ranks * max_tokens_per_rank tokens, naming it; for negative lengths or costs,
/// rates that are not positive, a topology that does not name every rank
[[nodiscard]] BatchPlan balance(const BalanceProblem& problem);

SEQCCL_END
