// balance_spot.cpp - candidates for an item's group: the least loaded ranks that cut through no other group.
// SPDX-License-Identifier: Apache-2.0
#include "balance_spot.hpp"

#include <algorithm>
#include <limits>
#include <map>
#include <tuple>

SEQCCL_BEGIN
namespace balancing {
namespace {

// All up to 8, then in steps of at most a quarter.
[[nodiscard]] std::vector<int> group_sizes(int num_ranks) {
  std::vector<int> sizes;
  for (int size = 1; size < num_ranks; size += std::max(1, size / 8 * 2)) sizes.push_back(size);
  sizes.push_back(num_ranks);
  return sizes;
}

}  // namespace

Spots::Spots(const State& state)
    : state_(state), sizes_(group_sizes(state.problem().num_ranks)), node_(static_cast<std::size_t>(state.problem().num_ranks)) {
  std::map<int, int> known;
  if (const std::vector<int>& named = state.problem().topology.node; !named.empty())
    for (std::size_t rank = 0; rank < named.size(); ++rank)
      node_[rank] = known.try_emplace(named[rank], static_cast<int>(known.size())).first->second;
  std::vector<int> ranks_on(std::max<std::size_t>(1, known.size()));
  for (const int node : node_) largest_node_ = std::max(largest_node_, ++ranks_on[node]);
  num_nodes_ = static_cast<int>(ranks_on.size());
}

const Forest& Spots::forest_of(int batch) {
  forests_.resize(std::max(forests_.size(), state_.batches().size()));
  Forest& forest = forests_[batch];
  if (forest.in_order_s.empty() || forest.version != state_.batches()[batch].version) {
    forest.make(state_, state_.batches()[batch], node_);
    work_ += static_cast<std::int64_t>(2 * forest.members.size());
  }
  return forest;
}

// A group beyond one node takes the least loaded nodes one after the other, so that the other nodes stay whole.
std::span<const Unit> Spots::node_after_node(const Domain& domain) {
  std::vector<double> node_s(num_nodes_);
  const auto node_of = [&](const Unit& unit) { return node_[unit.first]; };
  for (const Unit& unit : domain.units) node_s[node_of(unit)] = std::max(node_s[node_of(unit)], unit.seconds);
  sorted_ = domain.units;
  const auto key = [&](const Unit& unit) { return std::tuple(node_s[node_of(unit)], node_of(unit), unit.seconds, unit.first); };
  std::sort(sorted_.begin(), sorted_.end(), [&](const Unit& a, const Unit& b) { return key(a) < key(b); });
  work_ += static_cast<std::int64_t>(sorted_.size());
  return sorted_;
}

// Into chosen_: units with room that make up the size, the first ones first; on `node` only if it is not -1.
bool Spots::choose(const Request& request, std::span<const Unit> units, int node) {
  const std::int64_t limit = state_.problem().max_tokens_per_rank, need = (state_.items()[request.item].tokens - 1) / request.size + 1;
  chosen_.clear();
  int missing = request.size;
  for (const Unit& unit : units) {
    ++work_;
    if (request.may_blink && blinks()) continue;
    if (unit.count > missing || (limit != 0 && unit.tokens > limit - need) || (node >= 0 && unit.node != node)) continue;
    chosen_.push_back(&unit);
    if ((missing -= unit.count) == 0) return true;
  }
  return false;
}

double Spots::try_groups(const Request& request) {
  const Forest& forest = forest_of(request.batch);
  const std::vector<Load>& loads = state_.batches()[request.batch].loads;
  double least_growth = std::numeric_limits<double>::infinity();
  const auto try_units = [&](std::span<const Unit> units, int node) {
    if (!choose(request, units, node)) return;
    const int first_node = chosen_.front()->node;
    const bool between_nodes =
        std::any_of(chosen_.begin(), chosen_.end(), [&](const Unit* unit) { return unit->node < 0 || unit->node != first_node; });
    const Load share = state_.share_of(request.item, request.size, between_nodes);
    double end_s = 0;
    for (const Unit* unit : chosen_)
      for (int i = 0; i < unit->count; ++i)
        end_s = std::max(end_s, state_.seconds(State::sum(loads[forest.members[unit->begin + i]], share)));
    const double growth = std::max(0.0, end_s - request.base_s) + request.opening_s;
    least_growth = std::min(least_growth, growth);
    const double price = growth + taste_.waste_weight * (share.compute_s + share.transfer_s) * request.size / state_.problem().num_ranks;
    if (best_.batch >= 0 && price > best_.price) return;
    if (best_.batch >= 0 && price == best_.price && (taste_.first_fit || end_s >= best_.end_s)) return;
    best_.batch = request.batch;
    best_.price = price;
    best_.end_s = end_s;
    best_.group.clear();
    for (const Unit* unit : chosen_)
      best_.group.insert(best_.group.end(), forest.members.begin() + unit->begin, forest.members.begin() + unit->begin + unit->count);
  };
  const auto no_better = [&] { return best_.batch == request.batch && best_.price <= request.least_price * (1 + 1e-12); };
  for (int i = 0; i < forest.num_domains && !no_better(); ++i) {
    const Domain& domain = forest.domains[i];
    if (domain.size < request.size) break;
    if (num_nodes_ > 1 && request.size > largest_node_) {
      try_units(node_after_node(domain), -1);
      continue;
    }
    try_units(domain.units, -1);
    if (num_nodes_ == 1 || request.size == 1) continue;
    for (int node = 0; node < num_nodes_ && !no_better(); ++node) try_units(domain.units, node);
  }
  return least_growth;
}

const Spot& Spots::best(int item, const Taste& taste) {
  const Item& what = state_.items()[item];
  const BatchCost& cost = state_.problem().cost;
  const std::int64_t limit = state_.problem().max_tokens_per_rank;
  taste_ = taste;
  best_ = {-1, std::move(best_.group), 0, 0};
  const int num_batches = static_cast<int>(state_.batches().size());
  int spare = 0;  // the first empty micro-batch that would have to be opened: all of them are alike
  while (spare + 1 < num_batches && state_.batches()[spare].num_items > 0) ++spare;
  for (int index = 0; index < num_batches; ++index) {
    const Batch& batch = state_.batches()[index];
    if (batch.num_items == 0 && index != spare) continue;
    const bool may_blink = index != spare;  // the last resort
    if (may_blink && blinks()) continue;
    Request request{item, index, 1, may_blink, std::max(batch.slowest_s, taste_.target_s), 0, 0};
    if (batch.num_items == 0) {  // never quite free: at equal price what is open is filled first
      request.opening_s = std::max(cost.micro_batch_s, 1e-9 * state_.seconds(state_.share_of(item, what.most_group, false)));
    }
    const Forest& forest = forest_of(index);
    int previous = 0;
    for (std::size_t i = 0; i < sizes_.size(); ++i) {
      int size = sizes_[i];
      if (taste_.any_size && i + 1 < sizes_.size()) size += static_cast<int>(random_() % static_cast<std::uint64_t>(sizes_[i + 1] - size));
      request.size = std::clamp(size, what.least_group, what.most_group);
      if (request.size == previous) continue;
      previous = request.size;
      if (may_blink && blinks()) continue;
      ++work_;
      if (limit != 0 && forest.in_order_tokens[request.size - 1] > limit - ((what.tokens - 1) / request.size + 1)) continue;  // no room
      // The slowest of g ranks is not faster than the g-th of all.
      const double between_s = state_.seconds(state_.share_of(item, request.size, true));
      const double alone_s =
          request.size > largest_node_ ? between_s : std::min(between_s, state_.seconds(state_.share_of(item, request.size, false)));
      const double before_s = forest.in_order_s[request.size - 1], end_s = cost.overlap ? std::max(alone_s, before_s) : alone_s + before_s;
      request.least_price = std::max(0.0, end_s - request.base_s) + request.opening_s +
                            taste_.waste_weight * alone_s * request.size / state_.problem().num_ranks;
      if (best_.batch >= 0 && request.least_price > best_.price) continue;
      if (best_.batch >= 0 && request.least_price == best_.price && taste_.first_fit) continue;
      if (try_groups(request) <= 0) break;  // a larger group only costs more
    }
  }
  std::sort(best_.group.begin(), best_.group.end());
  return best_;
}

}  // namespace balancing
SEQCCL_END
