// balance_state.cpp - places and removes items, and keeps the loads of the ranks right.
// SPDX-License-Identifier: Apache-2.0
#include "balance_state.hpp"

SEQCCL_BEGIN
namespace balancing {

bool spans_nodes(const Topology& topology, std::span<const Rank> group) noexcept {
  return std::any_of(group.begin(), group.end(), [&](Rank rank) { return !topology.same_node(rank, group.front()); });
}

State::State(const BalanceProblem& problem, std::span<const Item> items) : problem_(problem), items_(items) {
  where_.batch_of.assign(items.size(), -1);
  where_.group_of.resize(items.size());
  const BatchCost& cost = problem.cost;
  for (const Item& item : items) {
    const double bytes = cost.bytes_per_token * static_cast<double>(item.tokens);
    prices_.push_back(
        {cost.compute_s(item.tokens, 1) - cost.sequence_s, bytes / cost.inside_bytes_per_s, bytes / cost.between_bytes_per_s});
  }
  open_batch();
}

void State::open_batch() {
  batches_.emplace_back();
  batches_.back().loads.resize(static_cast<std::size_t>(problem_.num_ranks));
}

double State::total_s() const noexcept {
  double total = 0;
  for (const Batch& batch : batches_)
    if (batch.num_items > 0) total += batch.slowest_s + problem_.cost.micro_batch_s;
  return total;
}

void State::note(int item, int batch, bool placed) {
  Change& change = log_.emplace_back(Change{item, batch, placed, where_.group_of[item], {}, batches_[batch].slowest_s});
  for (const Rank rank : change.group) change.loads.push_back(batches_[batch].loads[rank]);
}

void State::link(int item, int batch) {
  Batch& to = batches_[batch];
  where_.batch_of[item] = batch;
  ++to.num_items;
  to.version = ++version_;
  if (where_.group_of[item].size() > 1) {
    const auto wider = [&](int a, int b) {
      const auto &of_a = where_.group_of[a], &of_b = where_.group_of[b];
      return of_a.size() != of_b.size() ? of_a.size() > of_b.size() : of_a < of_b;
    };
    to.shared.insert(std::upper_bound(to.shared.begin(), to.shared.end(), item, wider), item);
  }
  if (batches_.back().num_items > 0) open_batch();
}

void State::unlink(int item, int batch) {
  Batch& from = batches_[batch];
  where_.batch_of[item] = -1;
  --from.num_items;
  from.version = ++version_;
  std::erase(from.shared, item);
}

void State::place(int item, int batch, const std::vector<Rank>& group) {
  where_.group_of[item] = group;
  note(item, batch, true);
  const Load share = share_of(item, static_cast<int>(group.size()), spans_nodes(problem_.topology, group));
  Batch& to = batches_[batch];
  for (const Rank rank : group) {
    to.loads[rank] = sum(to.loads[rank], share);
    to.slowest_s = std::max(to.slowest_s, seconds(to.loads[rank]));
  }
  link(item, batch);
}

void State::remove(int item) {
  const int batch = where_.batch_of[item];
  const std::vector<Rank>& group = where_.group_of[item];
  note(item, batch, false);
  const Load share = share_of(item, static_cast<int>(group.size()), spans_nodes(problem_.topology, group));
  unlink(item, batch);
  Batch& from = batches_[batch];
  for (const Rank rank : group) from.loads[rank] = sum(from.loads[rank], {-share.compute_s, -share.transfer_s, -share.tokens});
  if (from.num_items == 0) from.loads.assign(from.loads.size(), {});  // no rounding left over
  from.slowest_s = 0;
  for (const Load& load : from.loads) from.slowest_s = std::max(from.slowest_s, seconds(load));
}

void State::roll_back() {
  for (; !log_.empty(); log_.pop_back()) {
    const Change& change = log_.back();
    if (change.placed) {
      unlink(change.item, change.batch);
    } else {
      where_.group_of[change.item] = change.group;
      link(change.item, change.batch);
    }
    Batch& batch = batches_[change.batch];
    for (std::size_t i = 0; i < change.group.size(); ++i) batch.loads[change.group[i]] = change.loads[i];
    batch.slowest_s = change.slowest_s;
  }
}

void State::load(const Assignment& assignment) {
  for (Batch& batch : batches_) {
    batch.loads.assign(batch.loads.size(), {});
    batch.shared.clear();
    batch.num_items = 0;
    batch.slowest_s = 0;
    batch.version = ++version_;
  }
  where_.batch_of.assign(items_.size(), -1);
  for (std::size_t item = 0; item < items_.size(); ++item) {
    while (assignment.batch_of[item] >= static_cast<int>(batches_.size())) open_batch();
    place(static_cast<int>(item), assignment.batch_of[item], assignment.group_of[item]);
  }
  commit();
}

}  // namespace balancing
SEQCCL_END
