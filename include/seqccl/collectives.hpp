// collectives.hpp - the pure functions that record each method's schedule.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "seqccl/attention.hpp"
#include "seqccl/context_pass.hpp"
#include "seqccl/decode.hpp"
#include "seqccl/dimension_switch.hpp"
#include "seqccl/halo_exchange.hpp"
#include "seqccl/linear_attention.hpp"
#include "seqccl/movement.hpp"
#include "seqccl/recorder.hpp"
#include "seqccl/sequence_gather.hpp"

SEQCCL_BEGIN

/// What a recording may assume beyond the spec.
struct RecordOptions {
  bool inputs_sendable = true;      // the caller's tensors are contiguous along tokens: sends read them in place
  bool outputs_receivable = false;  // ... are, and lie in memory from Communicator::allocate: what arrives lands in them
  bool native_collectives = false;  // the transport has its own collectives: hint at them where an exchange is one
};

/// The specs must have passed validate(): these functions do not look again. They are pure: equal arguments give equal schedules.
namespace collectives {

// Softmax attention. Each is collectives/<method>/schedule.cpp; notes.md beside it has derivation, cost and source.
[[nodiscard]] Schedule ring_forward(const AttentionSpec& spec, Rank rank, const RecordOptions& options = {});
[[nodiscard]] Schedule ring_backward(const AttentionSpec& spec, Rank rank, const RecordOptions& options = {});
[[nodiscard]] Schedule bidirectional_ring_forward(const AttentionSpec& spec, Rank rank, const RecordOptions& options = {});
[[nodiscard]] Schedule bidirectional_ring_backward(const AttentionSpec& spec, Rank rank, const RecordOptions& options = {});
[[nodiscard]] Schedule kv_all_gather_forward(const AttentionSpec& spec, Rank rank, const RecordOptions& options = {});
[[nodiscard]] Schedule kv_all_gather_backward(const AttentionSpec& spec, Rank rank, const RecordOptions& options = {});
[[nodiscard]] Schedule head_swap_forward(const AttentionSpec& spec, Rank rank, const RecordOptions& options = {});
[[nodiscard]] Schedule head_swap_backward(const AttentionSpec& spec, Rank rank, const RecordOptions& options = {});
[[nodiscard]] Schedule token_ring_forward(const AttentionSpec& spec, Rank rank, const RecordOptions& options = {});
[[nodiscard]] Schedule token_ring_backward(const AttentionSpec& spec, Rank rank, const RecordOptions& options = {});
[[nodiscard]] Schedule balanced_helper_forward(const AttentionSpec& spec, Rank rank, const RecordOptions& options = {});
[[nodiscard]] Schedule balanced_helper_backward(const AttentionSpec& spec, Rank rank, const RecordOptions& options = {});

// Linear attention: local work around a scan of states (collectives/state_scan).
[[nodiscard]] Schedule linear_forward(const LinearSpec& spec, Rank rank, const RecordOptions& options = {});
[[nodiscard]] Schedule linear_backward(const LinearSpec& spec, Rank rank, const RecordOptions& options = {});

// Movement without kernels, beside the methods they share code with. The caller's tensors are the slots that are not scratch, in
// the order of the arguments of movement.hpp; absent ones have none.
[[nodiscard]] Schedule head_swap_to_heads(const HeadSwapSpec& spec, Rank rank, const RecordOptions& options = {});
[[nodiscard]] Schedule head_swap_to_tokens(const HeadSwapSpec& spec, Rank rank, const RecordOptions& options = {});
[[nodiscard]] Rows head_swap_heads(const HeadSwapSpec& spec, Rank rank);
[[nodiscard]] std::vector<Piece> head_swap_pieces(const HeadSwapSpec& spec);
[[nodiscard]] Schedule kv_gather(const KvAllGatherSpec& spec, Rank rank, const RecordOptions& options = {});
[[nodiscard]] Schedule kv_reduce(const KvAllGatherSpec& spec, Rank rank, const RecordOptions& options = {});
[[nodiscard]] std::vector<Piece> kv_gather_pieces(const KvAllGatherSpec& spec, Rank rank);
[[nodiscard]] Schedule state_scan(const StateScanSpec& spec, Rank rank, const RecordOptions& options = {});
/// `states`: dtypes and extents of the step's tensors. `step` must outlive the schedule.
[[nodiscard]] Schedule ring_blocks(const RingSpec& spec, Rank rank, const RecordOptions& options, const RingStep& step,
                                   std::span<const Slot> states);
/// A whole sequence has one slot, or one for each segment where some have another step than 1: which tokens each slot holds.
[[nodiscard]] std::vector<Segment> sequence_views(const SequenceGatherSpec& spec);
[[nodiscard]] Schedule sequence_gather(const SequenceGatherSpec& spec, Rank rank, const RecordOptions& options = {});
[[nodiscard]] Schedule sequence_reduce_scatter(const SequenceGatherSpec& spec, Rank rank, const RecordOptions& options = {});
/// The tensor's slots are (axes before the two, outer axis with those between, inner axis, axes after).
[[nodiscard]] Schedule dimension_switch(const DimensionSwitchSpec& spec, Rank rank, int num_ranks, const RecordOptions& options = {});
[[nodiscard]] Rows dimension_share(const DimensionSwitchSpec& spec, int axis, Rank rank, int num_ranks);
[[nodiscard]] Schedule halo_exchange(const HaloExchangeSpec& spec, Rank rank, const RecordOptions& options = {});
/// The slot of dx is updated: it holds the caller's numbers before.
[[nodiscard]] Schedule halo_reduce(const HaloExchangeSpec& spec, Rank rank, const RecordOptions& options = {});

/// Where a shard of a decode cache has its tokens, in rows of k and v as the plan sees them.
struct CacheRows {
  std::int64_t capacity = 0;                                   // tokens that a batch row has room for
  std::int64_t page_tokens = 0, page_rows = 0, num_pages = 0;  // page p is rows [p page_rows, p page_rows + page_tokens)
  std::span<const std::int32_t> page_table{};                  // (B, capacity / page_tokens); empty: token n is row n
};
/// Tokens [token, token + count) of a step's new ones, of one batch row, and the first of the rows that they go to.
struct CacheWrite {
  std::int64_t batch = 0, token = 0, count = 0, row = 0;
  bool operator==(const CacheWrite&) const = default;
};
/// What a step's queries see of a shard, its own new tokens included, and what the step writes into it.
struct CacheStep {
  std::vector<BandSlice> slices;
  std::vector<CacheWrite> writes;
};
/// `lengths` (B) before the step; `owners` (B, Tq) of the new tokens, or empty. Overwrites `result`, whose memory is reused. As many
/// slices as runs of rows that follow each other, once for the whole batch where its rows are alike.
/// @throws Error(argument) if the new tokens do not fit, a length or an owner is out of range, or a page that is needed is not there
void plan_cache_step(const DecodeSpec& spec, int num_ranks, Rank rank, const CacheRows& rows, std::span<const std::int64_t> lengths,
                     std::span<const Rank> owners, CacheStep& result);
/// One step over a shard of `cache_rows` rows. Slices and fingerprint may be replaced between runs: nothing else of the plan depends on
/// lengths and owners. `spec.merge` is not automatic.
[[nodiscard]] Schedule decode(const DecodeSpec& spec, int num_ranks, Rank rank, std::int64_t cache_rows, std::span<const BandSlice> slices);
/// Puts other slices into a decode plan.
void replace_slices(Schedule& decode_plan, std::span<const BandSlice> slices);
[[nodiscard]] Schedule context_pass(const ContextPassSpec& spec, Rank rank, const RecordOptions& options = {});

}  // namespace collectives

/// One row of the table of softmax methods.
struct MethodEntry {
  Method method;
  const char* name;
  Schedule (*forward)(const AttentionSpec&, Rank, const RecordOptions&);
  Schedule (*backward)(const AttentionSpec&, Rank, const RecordOptions&);
};
[[nodiscard]] std::span<const MethodEntry> method_table() noexcept;
[[nodiscard]] const MethodEntry& entry_of(Method method);

/// Schedules of all ranks, for the checker and the simulator.
template <class Spec>
[[nodiscard]] std::vector<Schedule> record_all(Schedule (*record)(const Spec&, Rank, const RecordOptions&), const Spec& spec,
                                               const RecordOptions& options = {}) {
  std::vector<Schedule> schedules;
  for (Rank rank = 0; rank < spec.partition.num_ranks(); ++rank) schedules.push_back(record(spec, rank, options));
  return schedules;
}

SEQCCL_END
