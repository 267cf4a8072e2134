// balance_forest.cpp - makes the forest of a micro-batch's groups.
// SPDX-License-Identifier: Apache-2.0
#include "balance_forest.hpp"

#include <algorithm>
#include <tuple>

SEQCCL_BEGIN
namespace balancing {

void Forest::make(const State& state, const Batch& batch, const std::vector<int>& nodes) {
  version = batch.version;
  num_domains = 0;
  members.clear();
  in_order_s.clear();
  in_order_tokens.clear();
  innermost_.assign(batch.loads.size(), 0);
  const auto add_domain = [&](std::size_t size) {
    if (num_domains == static_cast<int>(domains.size())) domains.emplace_back();
    domains[num_domains].size = static_cast<int>(size);
    domains[num_domains].units.clear();
    ++num_domains;
  };
  const auto add_unit = [&](int domain, std::span<const Rank> ranks) {
    Unit unit{0, 0, nodes[ranks.front()], ranks.front(), static_cast<int>(ranks.size()), static_cast<int>(members.size())};
    for (const Rank rank : ranks) {
      unit.seconds = std::max(unit.seconds, state.seconds(batch.loads[rank]));
      unit.tokens = std::max(unit.tokens, batch.loads[rank].tokens);
      if (nodes[rank] != unit.node) unit.node = -1;
    }
    members.insert(members.end(), ranks.begin(), ranks.end());
    domains[domain].units.push_back(unit);
  };

  add_domain(batch.loads.size());
  for (std::size_t i = 0; i < batch.shared.size(); ++i) {
    const std::vector<Rank>& group = state.group_of(batch.shared[i]);
    if (i > 0 && group == state.group_of(batch.shared[i - 1])) continue;
    add_domain(group.size());
    add_unit(innermost_[group.front()], group);
    for (const Rank rank : group) innermost_[rank] = num_domains - 1;
  }
  for (Rank rank = 0; rank < static_cast<Rank>(batch.loads.size()); ++rank) {
    add_unit(innermost_[rank], {&rank, 1});
    in_order_s.push_back(state.seconds(batch.loads[rank]));
    in_order_tokens.push_back(batch.loads[rank].tokens);
  }
  std::sort(in_order_s.begin(), in_order_s.end());
  std::sort(in_order_tokens.begin(), in_order_tokens.end());
  for (int i = 0; i < num_domains; ++i)
    std::sort(domains[i].units.begin(), domains[i].units.end(),
              [](const Unit& a, const Unit& b) { return std::tie(a.seconds, a.tokens, a.first) < std::tie(b.seconds, b.tokens, b.first); });
}

}  // namespace balancing
SEQCCL_END
