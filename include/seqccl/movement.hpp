// movement.hpp - the movement of the methods without their kernels, for people who bring their own.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "seqccl/communicator.hpp"
#include "seqccl/linear_attention.hpp"
#include "seqccl/mask.hpp"
#include "seqccl/partition.hpp"
#include "seqccl/schedule.hpp"

SEQCCL_BEGIN

/// Movement primitives
/// ===================
///
///     HeadSwap      sharded tokens, all heads  <->  all tokens, sharded heads
///     KvAllGather   the keys that my queries see; and sums for them back to their owners
///     Ring          the same keys, one rank's block after the other, while the next block travels
///     StateScan     the state that enters each of my runs of tokens
///
/// In headers of their own: SequenceGather, DimensionSwitch and HaloExchange. Where one process has a whole tensor, Partition::shard
/// and Partition::unshard copy a rank's tokens out of it and back.
///
/// Rules as Attention: every object works on one communicator, which must outlive it; constructors do not communicate; all ranks
/// make the same calls in the same order. A call returns when its results are there; Communicator::start runs it beside the caller.
/// Plans are recorded at the first use and kept. Tensors may have any strides with a contiguous last axis; a batch of 1 with
/// contiguous tokens is sent in place, anything else is packed first. Inputs never change; outputs must not overlap inputs and
/// are unspecified after an error.
///
/// @throws Error(argument) naming the argument, before anything is sent; Error(dead | stalled | mismatched | local) naming the
/// culprit ranks.
///
/// Letters: B batch, N tokens in all, T tokens on this rank, H heads, D head size, P ranks, r this rank.

// --- HeadSwap ---------------------------------------------------------------------------------------------------------------

struct HeadSwapSpec {
  std::int64_t batch = 1;
  std::int64_t heads = 1;
  std::int64_t head_dim = 0;
  DType dtype = f32;
  Partition partition;

  /// One "name = value" line per field: equal operations have equal texts on all ranks.
  [[nodiscard]] std::string describe() const;
};
/// @throws Error(argument) naming the field, its value and what would be right
void validate(const HeadSwapSpec& spec, int num_ranks);

/// Head swap
/// =========
///
///     tokens (B, T, H, D)                 heads (B, N, h_r, D)
///     rank 0  | t0 t1 | all heads         rank 0  | t0 t1 t2 t3 | heads 0 1
///     rank 1  | t2 t3 | all heads  <->    rank 1  | t0 t1 t2 t3 | heads 2 3
///
/// Exact movement: no arithmetic, every bit arrives as it was. Heads and tokens need not divide by P; a rank may have neither.
/// Source: the all-to-all of DeepSpeed-Ulysses (arXiv:2309.14509).
///
/// Cost: one exchange of P - 1 messages per segment of tokens; rank r receives B (N - T) h_r D elements to_heads and
/// B T (H - h_r) D to_tokens, and copies its results out of the arena once.
class HeadSwap {
 public:
  HeadSwap(Communicator& comm, HeadSwapSpec spec);
  ~HeadSwap();
  HeadSwap(HeadSwap&&) noexcept;
  HeadSwap& operator=(HeadSwap&&) noexcept;

  void to_heads(ConstTensorView tokens, TensorView heads);   // (B, T, H, D) -> (B, N, h_r, D)
  void to_tokens(ConstTensorView heads, TensorView tokens);  // (B, N, h_r, D) -> (B, T, H, D)

  /// Heads of `rank`: [rank H / P, (rank + 1) H / P), rounded down. @throws Error(argument) if there is no such rank
  [[nodiscard]] Rows heads_of(Rank rank) const;
  /// Which token each row of `heads` is: one piece in sequence order if every segment has step 1, else the segments of rank 0 first.
  [[nodiscard]] std::vector<Piece> pieces() const;
  [[nodiscard]] const HeadSwapSpec& spec() const noexcept;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// --- KvAllGather ------------------------------------------------------------------------------------------------------------

/// Keys and values over ranks, and which of them each rank's queries see.
struct KvSpec {
  std::int64_t batch = 1;
  std::int64_t kv_heads = 1;
  std::int64_t head_dim = 0, v_head_dim = 0;  // v_head_dim 0: head_dim
  DType dtype = f32;
  Partition partition;
  Mask mask;

  [[nodiscard]] std::int64_t dim_v() const noexcept { return v_head_dim != 0 ? v_head_dim : head_dim; }
  [[nodiscard]] std::string describe() const;
};
void validate(const KvSpec& spec, int num_ranks);
using KvAllGatherSpec = KvSpec;

/// Masked all-gather of keys and values, and its transpose
/// =======================================================
///
///     k_all of rank 2 of 4     | my own keys | what I see of rank 0 | of rank 1 | of rank 3 |      num_rows() rows
///
///     dk[token] = sum over ranks that have the token in their k_all of their dk_all[row of the token]
///
/// A row travels only to ranks with a query that sees it (any batch row). reduce adds the owner's part first, then the others'
/// in rank order, in f32: bitwise repeatable. Source: the group-cast and group-reduce of MagiAttention; with a full mask, the
/// key/value all-gather of Llama 3 (arXiv:2407.21783).
///
/// Cost: one exchange of two messages per pair of ranks that see each other. Rank r receives B Hkv (Dk + Dv) elements for each of
/// its num_rows - T rows in gather, and as many f32 numbers for each row of its own and rank that sees it in reduce. gather
/// copies k_all and v_all out of the arena once.
class KvAllGather {
 public:
  KvAllGather(Communicator& comm, KvAllGatherSpec spec);
  ~KvAllGather();
  KvAllGather(KvAllGather&&) noexcept;
  KvAllGather& operator=(KvAllGather&&) noexcept;

  /// Rows of k_all on this rank: T and the visible rows of the others.
  [[nodiscard]] std::int64_t num_rows() const;
  /// Which token each row of k_all is.
  [[nodiscard]] std::vector<Piece> pieces() const;

  /// k (B, T, Hkv, Dk), v (B, T, Hkv, Dv) -> k_all (B, num_rows, Hkv, Dk), v_all (B, num_rows, Hkv, Dv)
  void gather(ConstTensorView k, ConstTensorView v, TensorView k_all, TensorView v_all);
  /// The transpose, all f32: dk_all, dv_all as k_all, v_all -> dk (B, T, Hkv, Dk), dv (B, T, Hkv, Dv), overwritten.
  void reduce(ConstTensorView dk_all, ConstTensorView dv_all, TensorView dk, TensorView dv);
  [[nodiscard]] const KvAllGatherSpec& spec() const noexcept;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// --- StateScan --------------------------------------------------------------------------------------------------------------

struct StateScanSpec {
  std::int64_t batch = 1;
  std::int64_t heads = 1;
  std::int64_t key_dim = 0, value_dim = 0;
  LinearKind decay = LinearKind::basic;  // what log_sums are: absent, (H), (B, R, H, 1), (B, R, H, Dk), delta kinds (B, R, H, Dk, Dk)
  Partition partition;                   // every segment of step 1
  Scan scan = Scan::all_gather;
  bool reverse = false;    // from the last run to the first: gradients of states
  bool initial = false;    // a state enters the first run (reverse: the last)
  int column_blocks = 4;   // pipelined_chain: K, at most value_dim
  int ranks_per_node = 0;  // hierarchical; 0: Mesh::natural of the communicator's topology, without one of the ranks

  [[nodiscard]] std::string describe() const;
};
void validate(const StateScanSpec& spec, int num_ranks);

/// Exclusive scan of states over runs of tokens
/// ============================================
///
///     entering(first run) = initial or 0,      entering(next run) = T entering(run) + update
///
/// A run is a segment of the partition, in sequence order (reverse: from the end); this rank has R of them, in its storage order.
/// `update` is the state that a run leaves if nothing enters it; T is what the run does to a state: diag(exp(log_sum)), the sum of the
/// run's log decays, or of delta kinds a dense matrix (reverse: its transpose is yours to give). The state that leaves the last run is not
/// computed; it is one more step from its entering state, on the rank that has it.
///
/// Cost for Scan::all_gather: one exchange; a rank receives one update (B H Dk Dv f32) and one log_sum per run of others that comes
/// before its last one. Scan::chain: one update per change of rank, one after the other. The others: see Scan, and for exact counts
/// collectives/state_scan/notes.md. Sources: LASP-2 (arXiv:2502.07563), LASP (arXiv:2404.02882), ZeCO (arXiv:2507.01004), Kogge and Stone.
class StateScan {
 public:
  StateScan(Communicator& comm, StateScanSpec spec);
  ~StateScan();
  StateScan(StateScan&&) noexcept;
  StateScan& operator=(StateScan&&) noexcept;

  /// R: states in `updates` and `entering`.
  [[nodiscard]] std::int64_t num_runs() const;

  /// updates, entering (B, R, H, Dk, Dv), the last two axes contiguous; initial (B, H, Dk, Dv), read only on the rank that has the first
  /// run (reverse: the last). log_sums (B, R, H, 1 | Dk) natural logs; (H) the log decay of one token if it is constant; of delta kinds
  /// the transitions (B, R, H, Dk, Dk), the last two axes contiguous; absent if there is none. All f32.
  void run(ConstTensorView updates, ConstTensorView log_sums, ConstTensorView initial, TensorView entering);
  [[nodiscard]] const StateScanSpec& spec() const noexcept;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// --- Ring -------------------------------------------------------------------------------------------------------------------

using RingSpec = KvSpec;

/// One block of keys on its visit.
struct RingBlock {
  Rank owner = 0;                     // whose keys they are
  std::vector<Piece> tokens;          // which token each row is
  ConstTensorView k, v;               // (B, rows, Hkv, Dk) (B, rows, Hkv, Dv), token-major strides; valid during the step only
  std::span<const TensorView> state;  // as given to run
};
using RingStep = std::function<void(const RingBlock&)>;

/// Ring
/// ====
///
///     rank 0    step k0 v0 | step k1 v1 | step k2 v2 | step k3 v3
///     travels   k1 v1        k2 v2        k3 v3                        owners r, r + 1, r + 2, ... modulo P
///
/// Hands each block of keys that this rank needs to your step while the next one travels: the loop of ring attention around a
/// kernel of yours. The first block is always this rank's own, whole, even if it is empty; of the others come the rows from the
/// first to the last that some query of this rank sees, and blocks without such rows do not come. Not every row that comes is
/// seen by every query: the step masks.
///
/// The step runs on the thread that calls run, one block after the other. An exception in it ends the group: run throws
/// Error(local) with its text and this rank on every rank. Steps communicate on other communicators only.
///
/// Cost: as Method::ring forward: with a full mask P - 1 messages of k and of v from the right neighbour, B T Hkv (Dk + Dv)
/// elements each; a window costs a halo. Source: Ring Attention (arXiv:2310.01889).
class Ring {
 public:
  static constexpr std::size_t max_states = 6;

  Ring(Communicator& comm, RingSpec spec, RingStep step);
  ~Ring();
  Ring(Ring&&) noexcept;
  Ring& operator=(Ring&&) noexcept;

  /// k (B, T, Hkv, Dk), v (B, T, Hkv, Dv). `state`: up to 6 tensors that the step updates, four axes each, any extents and dtypes, their
  /// last axis contiguous; the plan knows them, so that checks and executors see what a step writes.
  void run(ConstTensorView k, ConstTensorView v, std::span<const TensorView> state);
  [[nodiscard]] const RingSpec& spec() const noexcept;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

SEQCCL_END
