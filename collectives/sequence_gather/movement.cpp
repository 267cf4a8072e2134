// movement.cpp - the messages and copies of the sequence all-gather, and of its transpose with sums in rank order.
// SPDX-License-Identifier: Apache-2.0
#include <utility>
#include <vector>

#include "seqccl/collectives.hpp"

SEQCCL_BEGIN
namespace collectives {

namespace {

/// One direction on one rank.
class SequenceMovement {
 public:
  SequenceMovement(const char* name, const SequenceGatherSpec& spec, Rank rank, const RecordOptions& options)
      : plan_(name, rank, spec.partition.num_ranks()), spec_(spec), own_(spec.partition.tokens_on(rank)) {
    even_ = options.native_collectives && plan_.num_ranks() > 1 && own_ > 0;
    for (Rank peer = 0; peer < plan_.num_ranks(); ++peer) even_ = even_ && spec.partition.tokens_on(peer) == own_;
    for (Rank peer = 0; peer < plan_.num_ranks(); ++peer) {
      first_.push_back(num_rows_);
      if (even_ || peer != rank) num_rows_ += spec.partition.tokens_on(peer);
    }
  }

  Schedule gather(const RecordOptions& options) {
    const Block tokens = plan_.input(Tensor::user, spec_.dtype, shape(own_), options.inputs_sendable);
    const bool receivable = options.outputs_receivable && spec_.partition.has_contiguous_segments() && !even_;
    const Places sequence = places([&](std::int64_t rows) { return plan_.output(Tensor::user, spec_.dtype, shape(rows), receivable); });
    // A rank's rows come in one message: they can land in the sequence only where they are one run of it.
    const auto lands = [&](Rank from) { return sequence[from].size() == 1 && plan_.slot(sequence[from].front()).receivable; };
    bool all_land = true;
    for (int i = 1; i < plan_.num_ranks(); ++i) all_land = all_land && (lands(right(i)) || spec_.partition.tokens_on(right(i)) == 0);
    const Block arriving = plan_.scratch(spec_.dtype, shape(all_land ? 0 : num_rows_));
    const Block sent = plan_.num_ranks() > 1 ? plan_.sendable(tokens) : tokens;
    std::vector<Transfer> sends, receives;
    for (int i = 1; i < plan_.num_ranks(); ++i) {
      sends.push_back({left(i), sent});
      receives.push_back({right(i), lands(right(i)) ? sequence[right(i)].front() : rows_of(arriving, right(i))});
    }
    plan_.exchange(std::move(sends), std::move(receives), Lane::comm, even_ ? Native::all_gather : Native::none);
    spread(tokens, sequence[plan_.rank()], plan_.rank());  // while the others' tokens come in
    for (int i = 1; i < plan_.num_ranks(); ++i)
      if (!lands(right(i))) spread(rows_of(arriving, right(i)), sequence[right(i)], right(i));
    return std::move(plan_).finish(spec_.describe());
  }

  Schedule reduce_scatter(const RecordOptions& options) {
    const bool sendable = options.inputs_sendable && spec_.partition.has_contiguous_segments();
    const Places partial = places([&](std::int64_t rows) { return plan_.input(Tensor::user, spec_.dtype, shape(rows), sendable); });
    const Block sums = plan_.output(Tensor::user, f32, shape(own_));
    const Block sent = lies_in_rank_order(partial) ? Block{} : packed(partial);
    const Block arriving = plan_.scratch(spec_.dtype, shape((plan_.num_ranks() - (even_ ? 0 : 1)) * own_));
    const auto partial_of = [&](Rank from) { return arriving.tokens((from - (!even_ && from > plan_.rank() ? 1 : 0)) * own_, own_); };
    std::vector<Transfer> sends, receives;
    for (int i = 1; i < plan_.num_ranks(); ++i) {
      const Rank to = right(i), from = left(i);
      if (sent.present())
        sends.push_back({to, rows_of(sent, to)});
      else if (!partial[to].empty())
        sends.push_back({to, partial[to].front()});
      receives.push_back({from, partial_of(from)});
    }
    // Each partial arrives by itself and is added below: what a transport may do with its own collective is the movement.
    plan_.exchange(std::move(sends), std::move(receives), Lane::comm, even_ ? Native::all_to_all : Native::none);
    for (Rank from = 0; from < plan_.num_ranks(); ++from) {
      std::int64_t row = 0;
      for (const Block& segment : partial[plan_.rank()]) {
        const Block term = from == plan_.rank() ? segment : partial_of(from).tokens(row, segment.num_tokens);
        const Block sum = sums.tokens(row, segment.num_tokens);
        if (from == 0)
          plan_.compute(Copy{term, sum}, from);
        else
          plan_.compute(Add{term, sum}, from);
        row += segment.num_tokens;
      }
    }
    return std::move(plan_).finish(spec_.describe());
  }

 private:
  /// Per rank, where its segments stand in a whole sequence, in its storage order.
  using Places = std::vector<std::vector<Block>>;

  [[nodiscard]] Recorder::Shape shape(std::int64_t rows) const { return {spec_.batch, rows, spec_.heads, spec_.head_dim}; }
  [[nodiscard]] Rank left(int steps) const { return (plan_.rank() + plan_.num_ranks() - steps) % plan_.num_ranks(); }
  [[nodiscard]] Rank right(int steps) const { return (plan_.rank() + steps) % plan_.num_ranks(); }
  /// Rows of `peer` in a block of everybody's rows in rank order.
  [[nodiscard]] Block rows_of(const Block& all, Rank peer) const { return all.tokens(first_[peer], spec_.partition.tokens_on(peer)); }

  /// Declares the slots of a whole sequence, as sequence_views has them.
  template <class Declare>
  [[nodiscard]] Places places(Declare&& declare) {
    const bool one = spec_.partition.has_contiguous_segments();
    const Block whole = one ? declare(spec_.partition.num_tokens()) : Block{};
    Places result(plan_.num_ranks());
    for (Rank rank = 0; rank < plan_.num_ranks(); ++rank)
      for (const Segment& segment : spec_.partition.segments(rank))
        result[rank].push_back(one ? whole.tokens(segment.first, segment.count) : declare(segment.count));
    return result;
  }

  /// True if parts can be sent as they are: one run each, and in rank order where a native collective wants them so.
  [[nodiscard]] bool lies_in_rank_order(const Places& partial) const {
    std::int64_t next = 0;
    for (const auto& segments : partial) {
      if (segments.empty()) continue;
      if (segments.size() > 1 || !plan_.slot(segments.front()).sendable || (even_ && segments.front().token_first != next)) return false;
      next = segments.front().token_first + segments.front().num_tokens;
    }
    return true;
  }

  /// The others' rows of a sequence in rank order.
  [[nodiscard]] Block packed(const Places& partial) {
    const Block all = plan_.scratch(spec_.dtype, shape(num_rows_));
    for (int i = 1; i < plan_.num_ranks(); ++i) {
      std::int64_t row = first_[right(i)];
      for (const Block& segment : partial[right(i)]) {
        plan_.compute(Copy{segment, all.tokens(row, segment.num_tokens)}, right(i));
        row += segment.num_tokens;
      }
    }
    return all;
  }

  /// From a rank's rows in its storage order to their places.
  void spread(const Block& rows, const std::vector<Block>& segments, Rank owner) {
    std::int64_t row = 0;
    for (const Block& segment : segments) {
      plan_.compute(Copy{rows.tokens(row, segment.num_tokens), segment}, owner);
      row += segment.num_tokens;
    }
  }

  Recorder plan_;
  const SequenceGatherSpec& spec_;
  std::int64_t own_;
  bool even_ = false;                // a native collective fits: buffers in rank order with a hole for my own
  std::vector<std::int64_t> first_;  // per rank: its rows in such a buffer
  std::int64_t num_rows_ = 0;
};

}  // namespace

std::vector<Segment> sequence_views(const SequenceGatherSpec& spec) {
  if (spec.partition.has_contiguous_segments()) return {{0, spec.partition.num_tokens(), 1}};
  std::vector<Segment> result;
  for (Rank rank = 0; rank < spec.partition.num_ranks(); ++rank)
    for (const Segment& segment : spec.partition.segments(rank)) result.push_back(segment);
  return result;
}

Schedule sequence_gather(const SequenceGatherSpec& spec, Rank rank, const RecordOptions& options) {
  return SequenceMovement("sequence gather", spec, rank, options).gather(options);
}

Schedule sequence_reduce_scatter(const SequenceGatherSpec& spec, Rank rank, const RecordOptions& options) {
  return SequenceMovement("sequence reduce-scatter", spec, rank, options).reduce_scatter(options);
}

}  // namespace collectives
SEQCCL_END
