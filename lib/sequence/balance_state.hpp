// balance_state.hpp - a batch while it is being balanced: who holds what, how long every rank takes, and the way back.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "seqccl/balance.hpp"

SEQCCL_BEGIN
namespace balancing {

/// A sequence that has tokens.
struct Item {
  std::int64_t index = 0, tokens = 0;  // in BalanceProblem::lengths
  int least_group = 1, most_group = 1;
};

/// What a rank does in one micro-batch.
struct Load {
  double compute_s = 0, transfer_s = 0;
  std::int64_t tokens = 0;
};

struct Batch {
  std::vector<Load> loads;  // per rank
  std::vector<int> shared;  // items on more than one rank, widest group first, equal groups side by side
  int num_items = 0;
  double slowest_s = 0;
  std::uint64_t version = 0;  // another one after every change
};

/// Where every item is.
struct Assignment {
  std::vector<int> batch_of;                // -1: nowhere yet
  std::vector<std::vector<Rank>> group_of;  // ascending
};

[[nodiscard]] bool spans_nodes(const Topology& topology, std::span<const Rank> group) noexcept;

class State {
 public:
  State(const BalanceProblem& problem, std::span<const Item> items);

  /// Room for `tokens` on each rank of the group is the caller's business.
  void place(int item, int batch, const std::vector<Rank>& group);
  void remove(int item);

  /// Everything since the last commit is undone, to the bit.
  void roll_back();
  void commit() { log_.clear(); }
  /// From nothing to `assignment`.
  void load(const Assignment& assignment);

  [[nodiscard]] const BalanceProblem& problem() const noexcept { return problem_; }
  [[nodiscard]] std::span<const Item> items() const noexcept { return items_; }
  [[nodiscard]] const Assignment& assignment() const noexcept { return where_; }
  [[nodiscard]] const std::vector<Batch>& batches() const noexcept { return batches_; }
  [[nodiscard]] int batch_of(int item) const noexcept { return where_.batch_of[item]; }
  [[nodiscard]] const std::vector<Rank>& group_of(int item) const noexcept { return where_.group_of[item]; }

  /// What one rank of the group does for the item: BatchCost's formulas.
  [[nodiscard]] Load share_of(int item, int group_size, bool between_nodes) const noexcept {
    const Price& price = prices_[item];
    return {problem_.cost.sequence_s + price.work_s / group_size,
            (group_size - 1) * (between_nodes ? problem_.cost.between_latency_s + price.between_s / group_size
                                              : problem_.cost.inside_latency_s + price.inside_s / group_size),
            (items_[item].tokens - 1) / group_size + 1};
  }
  [[nodiscard]] double seconds(const Load& load) const noexcept {
    return problem_.cost.overlap ? std::max(load.compute_s, load.transfer_s) : load.compute_s + load.transfer_s;
  }
  [[nodiscard]] static Load sum(const Load& a, const Load& b) noexcept {
    return {a.compute_s + b.compute_s, a.transfer_s + b.transfer_s, a.tokens + b.tokens};
  }
  /// Sum over micro-batches, micro_batch_s included.
  [[nodiscard]] double total_s() const noexcept;

 private:
  struct Change {
    int item = 0, batch = 0;
    bool placed = false;
    std::vector<Rank> group;
    std::vector<Load> loads;  // of the group before
    double slowest_s = 0;
  };
  void open_batch();
  void note(int item, int batch, bool placed);
  void link(int item, int batch);
  void unlink(int item, int batch);

  struct Price {
    double work_s = 0, inside_s = 0, between_s = 0;  // all flops on one rank, all bytes over one link
  };
  const BalanceProblem& problem_;
  std::vector<Price> prices_;
  std::span<const Item> items_;
  std::vector<Batch> batches_;  // always one more than are in use, and it is empty
  Assignment where_;
  std::vector<Change> log_;
  std::uint64_t version_ = 0;
};

}  // namespace balancing
SEQCCL_END
