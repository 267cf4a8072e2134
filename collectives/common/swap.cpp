// swap.cpp - the messages and copies of a head swap.
// SPDX-License-Identifier: Apache-2.0
#include "swap.hpp"

#include <algorithm>

SEQCCL_BEGIN
namespace collectives {

HeadShares even_shares(std::int64_t num_heads, int num_ranks) {
  HeadShares shares;
  for (std::int64_t rank = 0; rank < num_ranks; ++rank) {
    const auto first = static_cast<std::int32_t>(rank * num_heads / num_ranks);
    shares.push_back({first, static_cast<std::int32_t>((rank + 1) * num_heads / num_ranks) - first});
  }
  return shares;
}

SwapRows::SwapRows(const Partition& partition) : SwapRows(partition, all_ranks(partition.num_ranks())) {}

SwapRows::SwapRows(const Partition& partition, std::span<const Rank> members) : landings(members.size()) {
  struct Run {
    std::size_t owner;
    std::int64_t local;
    Segment tokens;
  };
  std::vector<Run> runs;
  for (std::size_t owner = 0; owner < members.size(); ++owner)
    for (std::int64_t local = 0; const Segment& segment : partition.segments(members[owner])) {
      runs.push_back({owner, local, segment});
      local += segment.count;
    }
  if (partition.has_contiguous_segments())
    std::sort(runs.begin(), runs.end(), [](const Run& a, const Run& b) { return a.tokens.first < b.tokens.first; });
  for (const Run& run : runs) {
    landings[run.owner].push_back({{run.local, run.tokens.count}, {num_rows, run.tokens.count}});
    Piece* last = pieces.empty() ? nullptr : &pieces.back();
    if (last != nullptr && last->tokens.step == 1 && run.tokens.step == 1 && last->tokens.last() + 1 == run.tokens.first)
      last->tokens.count += run.tokens.count;
    else
      pieces.push_back({num_rows, run.tokens});
    num_rows += run.tokens.count;
  }
}

std::vector<Segment> SwapRows::segments() const {
  std::vector<Segment> result;
  for (const Piece& piece : pieces) result.push_back(piece.tokens);
  return result;
}

Block Swap::scratch(DType dtype, const HeadShares& shares, std::int64_t dim) {
  return plan_.scratch(dtype, {batch_, rows_.num_rows, shares[plan_.rank()].count, dim});
}

void Swap::copy(const Block& from, const Block& to) {
  if (!from.empty() && from.slot != to.slot) plan_.compute(Copy{from, to});
}

Block Swap::enter(const Block& tokens, const HeadShares& shares, Messages& messages, const Block& into) {
  const Slot slot = plan_.slot(tokens);
  const Block all = into.present() && plan_.slot(into).receivable ? into : scratch(slot.dtype, shares, slot.dim);
  for (int i = 0; i < plan_.num_ranks(); ++i) {
    const Rank to = right(i), from = left(i);
    const Block his = tokens.heads(shares[to].first, shares[to].count);
    if (i == 0) {
      for (const auto& [local, row] : rows_.landings[to]) copy(his.tokens(local.first, local.count), all.tokens(row.first, row.count));
      continue;
    }
    const Block packed = plan_.sendable(his);
    for (const auto& [local, row] : rows_.landings[plan_.rank()]) messages.sends.push_back({to, packed.tokens(local.first, local.count)});
    for (const auto& [local, row] : rows_.landings[from]) messages.receives.push_back({from, all.tokens(row.first, row.count)});
  }
  return all;
}

std::vector<Swap::Returned> Swap::leave(const Block& all, const HeadShares& shares, Messages& messages) {
  const Slot slot = plan_.slot(all);
  std::vector<Returned> result;
  for (Rank from = 0; from < plan_.num_ranks(); ++from)
    result.push_back({from, plan_.scratch(slot.dtype, {slot.batch, own_tokens_, shares[from].count, slot.dim}), shares[from]});
  for (int i = 0; i < plan_.num_ranks(); ++i) {
    const Rank to = right(i), from = left(i);
    for (const auto& [local, row] : rows_.landings[to]) {
      const Block rows = all.tokens(row.first, row.count);
      if (i == 0)
        copy(rows, result[to].block.tokens(local.first, local.count));
      else
        messages.sends.push_back({to, rows});
    }
    if (i == 0) continue;
    for (const auto& [local, row] : rows_.landings[plan_.rank()])
      messages.receives.push_back({from, result[from].block.tokens(local.first, local.count)});
  }
  return result;
}

void Swap::settle(const std::vector<Returned>& returned, const Block& to, std::vector<bool>& filled) {
  filled.resize(to.num_heads);
  for (const auto& [from, block, heads] : returned) {
    for (std::int32_t first = 0, end = 0; first < heads.count; first = end) {  // runs of heads that are there, or not
      const bool is_there = filled[heads.first + first];
      while (end < heads.count && filled[heads.first + end] == is_there) filled[heads.first + end++] = true;
      const Block part = block.heads(first, end - first), place = to.heads(heads.first + first, end - first);
      if (part.empty()) continue;
      is_there ? plan_.compute(Add{part, place}, from) : plan_.compute(Copy{part, place}, from);
    }
  }
}

}  // namespace collectives
SEQCCL_END
