// ring_path.cpp - who takes which rows from whom, and the exchanges that follow from it.
// SPDX-License-Identifier: Apache-2.0
#include "ring_path.hpp"

#include <algorithm>

SEQCCL_BEGIN
namespace collectives {

RingPath::RingPath(SoftmaxLayer& layer, Travels what)
    : RingPath(layer.plan, [&](Rank reader, Rank owner) {
        return what == Travels::keys ? layer.key_need(reader, owner) : layer.query_need(reader, owner);
      }) {}

RingPath::RingPath(Recorder& plan, const std::function<Rows(Rank reader, Rank owner)>& rows_taken)
    : plan_(plan), rank_(plan.rank()), num_ranks_(plan.num_ranks()) {
  const auto look_up = [&](Rank reader, Rank owner) { return reader == owner ? Rows{} : rows_taken(reader, owner); };
  for (Rank rank = 0; rank < num_ranks_; ++rank) {
    next_needs_.push_back(look_up(next(rank_), rank));
    my_needs_.push_back(look_up(rank_, rank));
    previous_needs_.push_back(look_up(previous(rank_), rank));
    takers_.push_back(look_up(rank, rank_));
  }
}

Rows RingPath::need(Rank reader, Rank owner) const {
  if (owner == rank_) return takers_[reader];
  if (reader == rank_) return my_needs_[owner];
  return reader == next(rank_) ? next_needs_[owner] : previous_needs_[owner];
}

bool RingPath::is_hop(Rank reader, Rank owner) const {
  const Rows rows = need(reader, owner);
  return rows.count != 0 && previous(reader) != owner && covers(need(previous(reader), owner), rows);
}

std::int64_t RingPath::largest_arrival() const {
  std::int64_t largest = 0;
  for (const Rows& rows : my_needs_) largest = std::max(largest, rows.count);
  return largest;
}

std::vector<Rows> RingPath::ends_at(Rank holder, Rank owner) const {
  const Rows held = need(holder, owner);
  if (held.count == 0) return {};
  if (!is_hop(next(holder), owner)) return {held};
  const Rows taken = need(next(holder), owner);
  std::vector<Rows> rest;
  if (taken.first > held.first) rest.push_back({held.first, taken.first - held.first});
  if (taken.end() < held.end()) rest.push_back({taken.end(), held.end() - taken.end()});
  return rest;
}

void RingPath::record_hop(int t, Blocks here, Blocks mine, Blocks into, Lane lane) const {
  if (t >= num_ranks_) return;
  std::vector<Transfer> sends, receives;
  const Rank passed = (rank_ + t - 1) % num_ranks_, taker = (rank_ + num_ranks_ - t) % num_ranks_, coming = (rank_ + t) % num_ranks_;
  if (passed != rank_ && is_hop(next(rank_), passed)) {
    const Rows rows = need(next(rank_), passed), held = need(rank_, passed);
    for (const Block& block : here) sends.push_back({next(rank_), block.tokens(rows.first - held.first, rows.count)});
  }
  if (const Rows rows = need(taker, rank_); rows.count != 0 && !is_hop(taker, rank_))
    for (const Block& block : mine) sends.push_back({taker, block.tokens(rows.first, rows.count)});
  if (const Rows rows = need(rank_, coming); rows.count != 0)
    for (const Block& block : into) receives.push_back({is_hop(rank_, coming) ? previous(rank_) : coming, block.tokens(0, rows.count)});
  plan_.exchange(std::move(sends), std::move(receives), lane, Native::none, coming);
}

RingPath::Homecoming RingPath::record_return(int t, Blocks done, Blocks into, Blocks home, Lane lane) const {
  std::vector<Transfer> sends, receives;
  Homecoming result;
  const Rank finished = (rank_ + t - 1) % num_ranks_, coming = (rank_ + t) % num_ranks_, holder = (rank_ + num_ranks_ - t + 1) % num_ranks_;
  const Rows held = need(rank_, finished);
  if (is_hop(next(rank_), finished)) {
    const Rows rows = need(next(rank_), finished);
    for (const Block& block : done) sends.push_back({next(rank_), block.tokens(rows.first - held.first, rows.count)});
  }
  for (const Rows& rows : ends_at(rank_, finished))
    for (const Block& block : done) sends.push_back({finished, block.tokens(rows.first - held.first, rows.count)});
  if (t < num_ranks_ && is_hop(rank_, coming))
    for (const Block& block : into) receives.push_back({previous(rank_), block.tokens(0, need(rank_, coming).count)});
  result.rows = ends_at(holder, rank_);
  for (const Rows& rows : result.rows)
    for (const Block& block : home) receives.push_back({holder, block.tokens(rows.first, rows.count)});
  plan_.exchange(std::move(sends), std::move(receives), lane, Native::none, coming);
  return result;
}

Rows RingPath::record_straight_return(int t, Blocks done, Blocks home, Lane lane) const {
  std::vector<Transfer> sends, receives;
  const Rank finished = (rank_ + t - 1) % num_ranks_, worker = (rank_ + num_ranks_ - t + 1) % num_ranks_;
  if (const Rows rows = need(rank_, finished); rows.count != 0)
    for (const Block& block : done) sends.push_back({finished, block.tokens(0, rows.count)});
  const Rows rows = need(worker, rank_);
  if (rows.count != 0)
    for (const Block& block : home) receives.push_back({worker, block.tokens(rows.first, rows.count)});
  plan_.exchange(std::move(sends), std::move(receives), lane, Native::none, finished);
  return rows;
}

}  // namespace collectives
SEQCCL_END
