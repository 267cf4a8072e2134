// balance.cpp - checks the problem, bounds it from below, and turns the assignment found into partitions and masks.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/balance.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <utility>

#include "balance_search.hpp"

SEQCCL_BEGIN

namespace {

using balancing::Assignment;
using balancing::Item;

constexpr std::int64_t most_tokens = std::int64_t{1} << 56;

[[nodiscard]] Error refuse(const std::string& why) { return {ErrorKind::argument, "balance: " + why}; }

void check_cost(const BatchCost& cost) {
  const auto check = [](const char* what, double value, bool positive) {
    if (!std::isfinite(value) || value < 0 || (positive && value == 0))
      throw refuse(fmt::format("cost.{} is {}, want a finite number {} 0", what, value, positive ? "above" : "not below"));
  };
  check("flops_per_pair", cost.flops_per_pair, false);
  check("flops_per_token", cost.flops_per_token, false);
  check("bytes_per_token", cost.bytes_per_token, false);
  check("flops_per_s", cost.flops_per_s, true);
  check("inside_latency_s", cost.inside_latency_s, false);
  check("inside_bytes_per_s", cost.inside_bytes_per_s, true);
  check("between_latency_s", cost.between_latency_s, false);
  check("between_bytes_per_s", cost.between_bytes_per_s, true);
  check("sequence_s", cost.sequence_s, false);
  check("micro_batch_s", cost.micro_batch_s, false);
}

void check_problem(const BalanceProblem& problem) {
  if (problem.num_ranks < 1) throw refuse(fmt::format("num_ranks is {}, want 1 or more", problem.num_ranks));
  if (!problem.topology.node.empty() && problem.topology.node.size() != static_cast<std::size_t>(problem.num_ranks))
    throw refuse(fmt::format("topology.node has {} entries, want none or num_ranks = {}", problem.topology.node.size(), problem.num_ranks));
  if (problem.max_tokens_per_rank < 0)
    throw refuse(fmt::format("max_tokens_per_rank is {}, want 1 or more, or 0 for no limit", problem.max_tokens_per_rank));
  if (problem.lengths.size() > std::size_t{1} << 30)
    throw refuse(fmt::format("lengths has {} entries, want at most 2^30", problem.lengths.size()));
  if (problem.effort < 1 || problem.effort > 1'000'000) throw refuse(fmt::format("effort is {}, want 1 to 1000000", problem.effort));
  check_cost(problem.cost);
  std::int64_t total = 0;
  for (std::size_t i = 0; i < problem.lengths.size(); ++i) {
    const std::int64_t length = problem.lengths[i];
    if (length < 0 || length > most_tokens - total)
      throw refuse(fmt::format("lengths[{}] is {}, want 0 or more, and at most 2^56 in all", i, length));
    total += length;
    const std::int64_t limit = problem.max_tokens_per_rank;
    if (limit != 0 && length > 0 && (length - 1) / problem.num_ranks + 1 > limit)
      throw refuse(fmt::format("lengths[{}] is {} tokens, want at most num_ranks * max_tokens_per_rank = {} * {} = {}", i, length,
                               problem.num_ranks, limit, problem.num_ranks * limit));
  }
}

/// Sums of times must stay numbers, wherever the sequences go.
void check_sum(const BalanceProblem& problem) {
  double sum_s = 0;
  for (const std::int64_t length : problem.lengths)
    sum_s += problem.cost.compute_s(length, 1) + problem.cost.transfer_s(length, problem.num_ranks, false) +
             problem.cost.transfer_s(length, problem.num_ranks, true) + problem.cost.micro_batch_s;
  if (!std::isfinite(sum_s * problem.num_ranks))
    throw refuse(fmt::format("cost: all sequences together take {} s, want finite times", sum_s));
}

/// Sequences that have tokens, the longest first: most work first, whatever the cost.
[[nodiscard]] std::vector<Item> items_of(const BalanceProblem& problem) {
  std::vector<Item> items;
  for (std::size_t i = 0; i < problem.lengths.size(); ++i) {
    const std::int64_t length = problem.lengths[i], limit = problem.max_tokens_per_rank;
    if (length == 0) continue;
    const int least = limit == 0 ? 1 : static_cast<int>((length - 1) / limit + 1);
    items.push_back({static_cast<std::int64_t>(i), length, least, static_cast<int>(std::min<std::int64_t>(problem.num_ranks, length))});
  }
  std::stable_sort(items.begin(), items.end(), [](const Item& a, const Item& b) { return a.tokens > b.tokens; });
  return items;
}

[[nodiscard]] int largest_node(const BalanceProblem& problem) {
  std::map<int, int> ranks_on;
  int largest = problem.topology.node.empty() ? problem.num_ranks : 0;
  for (const int node : problem.topology.node) largest = std::max(largest, ++ranks_on[node]);
  return largest;
}

/// Per group size of one item: its time alone, and what all ranks of the group spend together at least.
struct Choice {
  double alone_s = 0, spent_s = 0;
};

[[nodiscard]] std::vector<Choice> choices_of(const BalanceProblem& problem, const Item& item, int on_node) {
  const BatchCost& cost = problem.cost;
  std::vector<Choice> choices;
  for (int size = item.least_group; size <= item.most_group; ++size) {
    const double outside_s = cost.transfer_s(item.tokens, size, true);
    const double transfer_s = size <= on_node ? std::min(outside_s, cost.transfer_s(item.tokens, size, false)) : outside_s;
    const double compute_s = cost.compute_s(item.tokens, size);
    choices.push_back({cost.overlap ? std::max(compute_s, transfer_s) : compute_s + transfer_s,
                       size * (cost.overlap ? compute_s : compute_s + transfer_s)});
  }
  return choices;
}

/// The least T that no argument rules out. In a plan of T seconds no sequence takes longer than T, which rules out small groups, and
/// all ranks together have P T; sequences of more than half the room are never in one micro-batch. Plus what as many micro-batches
/// cost as the memory forces.
[[nodiscard]] double lower_bound(const BalanceProblem& problem, const std::vector<Item>& items) {
  if (items.empty()) return 0;
  const int num_ranks = problem.num_ranks, on_node = largest_node(problem);
  const double room = static_cast<double>(problem.max_tokens_per_rank) * num_ranks;
  double spent_s = 0, longest_s = 0, apart_s = 0, tokens = 0;
  std::vector<std::vector<Choice>> choices;
  for (const Item& item : items) {
    choices.push_back(choices_of(problem, item, on_node));
    double alone_s = std::numeric_limits<double>::infinity();
    for (const Choice& choice : choices.back()) alone_s = std::min(alone_s, choice.alone_s);
    longest_s = std::max(longest_s, alone_s);
    if (room > 0 && static_cast<double>(item.tokens) > room / 2) apart_s += alone_s;
    tokens += static_cast<double>(item.tokens);
  }
  const auto least_spent = [](const std::vector<Choice>& of_item, double limit_s) {
    double least_s = std::numeric_limits<double>::infinity();
    for (const Choice& choice : of_item)
      if (choice.alone_s <= limit_s) least_s = std::min(least_s, choice.spent_s);
    return least_s;
  };
  for (const auto& of_item : choices) spent_s += least_spent(of_item, std::numeric_limits<double>::infinity());
  double low_s = std::max({spent_s / num_ranks, longest_s, apart_s});
  // What fits into low_s without a loss fits into any T.
  std::erase_if(choices, [&](const auto& of_item) {
    return least_spent(of_item, low_s) == least_spent(of_item, std::numeric_limits<double>::infinity());
  });
  const auto needs = [&](double limit_s) {
    double sum_s = spent_s;
    for (const auto& of_item : choices)
      sum_s += least_spent(of_item, limit_s) - least_spent(of_item, std::numeric_limits<double>::infinity());
    return sum_s / num_ranks;
  };
  // needs() falls as T grows: T below needs(T) is impossible. low_s always is at most the least possible T.
  double high_s = std::max(low_s, needs(low_s));
  for (int i = 0; i < 40 && high_s > low_s; ++i) {
    const double middle_s = low_s + (high_s - low_s) / 2;
    (needs(middle_s) > middle_s ? low_s : high_s) = middle_s;
  }
  const double least_batches = room > 0 ? std::ceil(tokens / room) : 1;
  return low_s + least_batches * problem.cost.micro_batch_s;
}

/// Every sequence over all ranks; a micro-batch is closed when the next sequence does not fit.
[[nodiscard]] double uniform_seconds(const BalanceProblem& problem) {
  const BatchCost& cost = problem.cost;
  const int node_size = largest_node(problem);
  double total_s = 0, compute_s = 0, transfer_s = 0;
  std::int64_t tokens = 0;
  const auto close = [&] {
    if (tokens > 0) total_s += cost.micro_batch_s + (cost.overlap ? std::max(compute_s, transfer_s) : compute_s + transfer_s);
    tokens = 0;
    compute_s = transfer_s = 0;
  };
  for (const std::int64_t length : problem.lengths) {
    if (length == 0) continue;
    const std::int64_t share = (length - 1) / problem.num_ranks + 1;
    if (problem.max_tokens_per_rank != 0 && tokens + share > problem.max_tokens_per_rank) close();
    tokens += share;
    const int group_size = static_cast<int>(std::min<std::int64_t>(length, problem.num_ranks));  // a rank without a token takes no part
    compute_s += cost.compute_s(length, group_size);
    transfer_s += cost.transfer_s(length, group_size, group_size > node_size);
  }
  close();
  return total_s;
}

/// Zigzag over the group: the i-th of g members holds L / g tokens, one more if i < L mod g, half of them from the front.
struct Zigzag {
  std::vector<Segment> heads, tails;  // per member
  Zigzag(std::int64_t first, std::int64_t num_tokens, std::int64_t group_size) {
    const auto tokens_of = [&](std::int64_t member) { return num_tokens / group_size + (member < num_tokens % group_size ? 1 : 0); };
    for (std::int64_t member = 0; member < group_size; ++member) {
      heads.push_back({first, (tokens_of(member) + 1) / 2, 1});
      first += heads.back().count;
    }
    tails.resize(heads.size());
    for (std::int64_t member = group_size - 1; member >= 0; --member) {
      tails[member] = {first, tokens_of(member) / 2, 1};
      first += tails[member].count;
    }
  }
};

/// Shared sequences first, wide before narrow, so that on every rank each group lies inside the ones before it.
[[nodiscard]] MicroBatch make_micro_batch(const BalanceProblem& problem, std::vector<std::pair<std::int64_t, std::vector<Rank>>> members) {
  std::sort(members.begin(), members.end(), [](const auto& a, const auto& b) {
    if (a.second.size() != b.second.size()) return a.second.size() > b.second.size();
    return a.second != b.second ? a.second < b.second : a.first < b.first;
  });
  MicroBatch micro;
  std::vector<std::int64_t> lengths;
  const auto num_ranks = static_cast<std::size_t>(problem.num_ranks);
  std::vector<std::vector<Segment>> heads(num_ranks), tails(num_ranks);  // heads: the last one is stored first
  std::vector<double> compute_s(num_ranks), transfer_s(num_ranks);
  std::int64_t first = 0;
  for (const auto& [index, group] : members) {
    const std::int64_t length = problem.lengths[index];
    const int group_size = static_cast<int>(group.size());
    const bool between_nodes = balancing::spans_nodes(problem.topology, group);
    const Zigzag zigzag(first, length, group_size);
    for (int i = 0; i < group_size; ++i) {
      const Rank rank = group[i];
      if (group_size > 1) heads[rank].push_back(zigzag.heads[i]);
      tails[rank].push_back(group_size > 1 ? zigzag.tails[i] : Segment{first, length, 1});
      compute_s[rank] += problem.cost.compute_s(length, group_size);
      transfer_s[rank] += problem.cost.transfer_s(length, group_size, between_nodes);
    }
    micro.sequences.push_back(index);
    micro.first_token.push_back(first);
    micro.groups.push_back(group);
    lengths.push_back(length);
    first += length;
  }
  for (std::size_t rank = 0; rank < num_ranks; ++rank) {
    std::reverse(heads[rank].begin(), heads[rank].end());
    heads[rank].insert(heads[rank].end(), tails[rank].begin(), tails[rank].end());
    micro.rank_seconds.push_back(problem.cost.overlap ? std::max(compute_s[rank], transfer_s[rank]) : compute_s[rank] + transfer_s[rank]);
    micro.seconds = std::max(micro.seconds, micro.rank_seconds.back());
  }
  if (first > 0) micro.seconds += problem.cost.micro_batch_s;
  micro.partition = Partition::from_segments(first, std::move(heads));
  micro.mask = Mask::documents(std::move(lengths));
  if (problem.cost.causal) micro.mask = Mask::causal() & micro.mask;
  return micro;
}

}  // namespace

std::vector<std::int64_t> MicroBatch::position_ids(Rank rank) const {
  std::vector<std::int64_t> ids = partition.position_ids(rank);
  for (std::int64_t& id : ids) id -= *std::prev(std::upper_bound(first_token.begin(), first_token.end(), id));
  return ids;
}

BatchPlan balance(const BalanceProblem& problem) {
  check_problem(problem);
  BatchPlan plan;
  if (problem.lengths.empty()) return plan;
  const std::vector<Item> items = items_of(problem);
  check_sum(problem);
  plan.lower_bound_s = lower_bound(problem, items);
  plan.uniform_seconds = uniform_seconds(problem);

  std::vector<std::vector<std::pair<std::int64_t, std::vector<Rank>>>> members;
  if (!items.empty()) {
    const Assignment assignment = balancing::search(problem, items, plan.lower_bound_s);
    for (std::size_t i = 0; i < items.size(); ++i) {
      const auto batch = static_cast<std::size_t>(assignment.batch_of[i]);
      members.resize(std::max(members.size(), batch + 1));
      members[batch].emplace_back(items[i].index, assignment.group_of[i]);
    }
  }
  std::erase_if(members, [](const auto& of_batch) { return of_batch.empty(); });
  if (members.empty()) members.emplace_back();
  for (std::size_t i = 0; i < problem.lengths.size(); ++i)
    if (problem.lengths[i] == 0) members.front().emplace_back(static_cast<std::int64_t>(i), std::vector<Rank>{});
  for (auto& of_batch : members) plan.micro_batches.push_back(make_micro_batch(problem, std::move(of_batch)));
  std::stable_sort(plan.micro_batches.begin(), plan.micro_batches.end(),
                   [](const MicroBatch& a, const MicroBatch& b) { return a.seconds > b.seconds; });
  for (const MicroBatch& micro : plan.micro_batches) plan.seconds += micro.seconds;
  return plan;
}

SEQCCL_END
