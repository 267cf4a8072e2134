// scan.hpp - exclusive scan of states over the runs of a sequence: each run gets the state that enters it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "seqccl/collectives.hpp"

SEQCCL_BEGIN
namespace collectives {

/// A contiguous run of tokens: one virtual rank of the scan. A zigzag rank has two.
struct Run {
  Rank owner = 0;
  std::int64_t index = 0;  // which of the owner's runs, in his storage order
  std::int64_t local = 0;  // first row in the owner's shard
  std::int64_t count = 0;  // tokens
  std::int64_t first = 0;  // global position
};
/// All runs of a partition in sequence order.
[[nodiscard]] std::vector<Run> runs_of(const Partition& partition);

/// What a run does to a state: state -> diag(exp(repeat log_sum)) state + update. Blocks of the run's owner only.
struct Summary {
  Block log_sum;  // absent: the identity
  Block update;   // (B, 1, H, Dk Dv)
};

/// Exclusive scan
/// ==============
///
///     entering(0) = initial or 0,    entering(v + 1) = diag(exp(log_sum_v)) entering(v) + update_v
///
/// over the runs in the order given: sequence order for states, reversed for their gradients. An initial state is folded into
/// the first update by its owner, so the first log_sum never travels.
class ScanRecorder {
 public:
  struct Setup {
    std::int64_t batch, heads, state_size;  // state_size = Dk Dv
    std::int64_t log_sum_size;              // numbers per head that travel with an update: 0 (none or constant), 1 or Dk
    Block constant;                         // log_decay of a constant decay, else absent
    Block initial;                          // (B, 1, H, Dk Dv) on the owner of the first run, or absent
  };
  ScanRecorder(Recorder& plan, std::vector<Run> order, Setup setup) : plan_(plan), order_(std::move(order)), setup_(setup) {}

  /// Where the summary of my run at place v of the order must be written before exchange() is recorded.
  [[nodiscard]] Summary summary(std::size_t v);
  /// The same for a summary that is already there, in blocks that can be sent.
  void give(std::size_t v, const Summary& summary);
  /// all_gather: the one exchange, in flight while the caller records local work. chain: nothing yet.
  void exchange(Scan scan);
  /// Calls enter(v, state) for each of my runs in order; `state` is the entering state (B, 1, H, Dk Dv), absent if it is zero.
  /// `leaving`, if present, gets the state that leaves the last run; on the owner of that run only.
  void finish(Scan scan, const std::function<void(std::size_t, const Block&)>& enter, const Block& leaving);

  [[nodiscard]] const std::vector<Run>& order() const noexcept { return order_; }
  [[nodiscard]] bool mine(std::size_t v) const noexcept { return order_[v].owner == plan_.rank(); }

 private:
  [[nodiscard]] Block scratch_state();
  /// state <- what run v makes of it.
  void step(std::size_t v, const Block& state);
  void finish_gathered(const std::function<void(std::size_t, const Block&)>& enter, const Block& leaving);
  void finish_chain(const std::function<void(std::size_t, const Block&)>& enter, const Block& leaving);

  Recorder& plan_;
  std::vector<Run> order_;
  Setup setup_;
  std::vector<Summary> summaries_;  // per place in the order; scratch where known
};

}  // namespace collectives
SEQCCL_END
