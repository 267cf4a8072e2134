// cache.cpp - which rows of a shard one decode step reads and writes: blocks and pages, lengths and owners.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>

#include "seqccl/collectives.hpp"

SEQCCL_BEGIN
namespace collectives {

namespace {

class Planner {
 public:
  Planner(const DecodeSpec& spec, Rank rank, const CacheRows& rows, std::span<const std::int64_t> lengths, std::span<const Rank> owners,
          CacheStep& result)
      : q_tokens_(spec.q_tokens), rank_(rank), rows_(rows), lengths_(lengths), owners_(owners), result_(result) {}

  /// Slices of batch row `batch`, written down for `label`.
  void add_slices(std::int64_t batch, std::int64_t label) {
    const std::int64_t length = lengths_[static_cast<std::size_t>(batch)];
    const std::span<const Rank> owners = owners_of(batch);
    // The first new token is seen by all queries, like those that were there.
    const std::int64_t seen_by_all = length + (!owners.empty() && owners[0] == rank_ ? 1 : 0);
    const std::size_t first = result_.slices.size();
    for_each_run(batch, 0, seen_by_all, [&](std::int64_t row, std::int64_t count) {
      const bool goes_on = result_.slices.size() > first && result_.slices.back().k_first + result_.slices.back().k_count == row;
      if (goes_on)
        result_.slices.back().k_count += count;
      else
        result_.slices.push_back({0, q_tokens_, row, count, -unbounded, unbounded, label});
    });
    std::int64_t place = seen_by_all;
    for (std::int64_t token = 1; token < std::ssize(owners); ++token) {
      if (owners[static_cast<std::size_t>(token)] != rank_) continue;
      const std::int64_t row = row_of(batch, place++);
      // Query i sees new token t at row r if t <= i: r - i <= row - token for the whole run.
      BandSlice* run = result_.slices.size() > first ? &result_.slices.back() : nullptr;
      if (run != nullptr && run->high == row - token && run->k_first + run->k_count == row)
        ++run->k_count;
      else
        result_.slices.push_back({token, q_tokens_ - token, row, 1, -unbounded, row - token, label});
    }
  }

  void add_writes(std::int64_t batch) {
    const std::span<const Rank> owners = owners_of(batch);
    std::int64_t place = lengths_[static_cast<std::size_t>(batch)];
    const std::size_t first = result_.writes.size();
    for (std::int64_t token = 0; token < std::ssize(owners); ++token) {
      if (owners[static_cast<std::size_t>(token)] != rank_) continue;
      const std::int64_t row = row_of(batch, place++);
      CacheWrite* run = result_.writes.size() > first ? &result_.writes.back() : nullptr;
      if (run != nullptr && run->token + run->count == token && run->row + run->count == row)
        ++run->count;
      else
        result_.writes.push_back({batch, token, 1, row});
    }
  }

  [[nodiscard]] std::span<const Rank> owners_of(std::int64_t batch) const {
    return owners_.empty() ? owners_ : owners_.subspan(static_cast<std::size_t>(batch * q_tokens_), static_cast<std::size_t>(q_tokens_));
  }

 private:
  [[nodiscard]] std::int64_t page_of(std::int64_t batch, std::int64_t token) const {
    const std::int64_t max_pages = rows_.capacity / rows_.page_tokens, place = token / rows_.page_tokens;
    const std::int64_t page = rows_.page_table[static_cast<std::size_t>(batch * max_pages + place)];
    if (page < 0 || page >= rows_.num_pages)
      throw Error(ErrorKind::argument, fmt::format("Decode: page_table[{}][{}] is {}, which token {} needs, want 0 <= page < {}", batch,
                                                   place, page, token, rows_.num_pages));
    return page;
  }

  [[nodiscard]] std::int64_t row_of(std::int64_t batch, std::int64_t token) const {
    return rows_.page_table.empty() ? token : page_of(batch, token) * rows_.page_rows + token % rows_.page_tokens;
  }

  /// Calls visit(row, count) for the rows of tokens [first, end), a page at a time.
  template <class Visit>
  void for_each_run(std::int64_t batch, std::int64_t first, std::int64_t end, Visit&& visit) const {
    const std::int64_t most = rows_.page_table.empty() ? end - first : rows_.page_tokens;
    while (first < end) {
      const std::int64_t count = std::min(most - (rows_.page_table.empty() ? 0 : first % most), end - first);
      visit(row_of(batch, first), count);
      first += count;
    }
  }

  std::int64_t q_tokens_;
  Rank rank_;
  const CacheRows& rows_;
  std::span<const std::int64_t> lengths_;
  std::span<const Rank> owners_;
  CacheStep& result_;
};

void check_step(const DecodeSpec& spec, int num_ranks, Rank rank, const CacheRows& rows, std::span<const std::int64_t> lengths,
                std::span<const Rank> owners) {
  const auto refuse = [](const std::string& what) { return Error(ErrorKind::argument, "Decode: " + what); };
  if (std::ssize(lengths) != spec.batch)
    throw refuse(fmt::format("the cache has {} lengths, want {}, one per batch row", lengths.size(), spec.batch));
  if (!owners.empty() && std::ssize(owners) != spec.batch * spec.q_tokens)
    throw refuse(fmt::format("there are {} owners, want batch x q_tokens = {}", owners.size(), spec.batch * spec.q_tokens));
  for (std::size_t i = 0; i < owners.size(); ++i)
    if (owners[i] < 0 || owners[i] >= num_ranks)
      throw refuse(fmt::format("owners[{}] is {}, want 0 <= rank < {}", i, owners[i], num_ranks));
  for (std::int64_t batch = 0; batch < spec.batch; ++batch) {
    const std::int64_t length = lengths[static_cast<std::size_t>(batch)];
    if (length < 0 || length > rows.capacity)
      throw refuse(fmt::format("lengths[{}] is {}, want 0 <= length <= {}, the cache's capacity", batch, length, rows.capacity));
    if (owners.empty()) continue;
    const auto of_row = owners.subspan(static_cast<std::size_t>(batch * spec.q_tokens), static_cast<std::size_t>(spec.q_tokens));
    const std::int64_t added = std::count(of_row.begin(), of_row.end(), rank);
    if (length + added > rows.capacity)
      throw refuse(fmt::format("batch row {} of the cache on rank {} holds {} of {} tokens, {} more do not fit", batch, rank, length,
                               rows.capacity, added));
  }
}

}  // namespace

void plan_cache_step(const DecodeSpec& spec, int num_ranks, Rank rank, const CacheRows& rows, std::span<const std::int64_t> lengths,
                     std::span<const Rank> owners, CacheStep& result) {
  check_step(spec, num_ranks, rank, rows, lengths, owners);
  result.slices.clear();
  result.writes.clear();
  Planner planner(spec, rank, rows, lengths, owners, result);
  bool alike = rows.page_table.empty() || spec.batch == 1;
  for (std::int64_t batch = 1; batch < spec.batch && alike; ++batch) {
    const auto mine = planner.owners_of(batch), first = planner.owners_of(0);
    alike = lengths[static_cast<std::size_t>(batch)] == lengths[0] && std::equal(mine.begin(), mine.end(), first.begin());
  }
  for (std::int64_t batch = 0; batch < spec.batch; ++batch) {
    if (!alike || batch == 0) planner.add_slices(batch, alike ? -1 : batch);
    planner.add_writes(batch);
  }
}

}  // namespace collectives
SEQCCL_END
