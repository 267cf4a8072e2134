// ring_path.cpp - who takes which rows from whom, and the exchanges that follow from it.
// SPDX-License-Identifier: Apache-2.0
#include "ring_path.hpp"

#include <algorithm>
#include <utility>

SEQCCL_BEGIN
namespace collectives {

Blocks scratch_like(Recorder& plan, std::span<const Block> like, std::int64_t tokens) {
  Blocks result;
  for (const Block& block : like) result.push_back(scratch_like(plan, block, tokens));
  return result;
}

Blocks rows_of(std::span<const Block> blocks, Rows rows) {
  Blocks result;
  for (const Block& block : blocks) result.push_back(block.tokens(rows.first, rows.count));
  return result;
}

RingPath::RingPath(Recorder& plan, const RowsTaken& rows_taken, Towards towards)
    : RingPath(plan, all_ranks(plan.num_ranks()), rows_taken, towards) {}

RingPath::RingPath(Recorder& plan, std::vector<Rank> members, const RowsTaken& rows_taken, Towards towards)
    : plan_(plan),
      members_(std::move(members)),
      rank_(static_cast<Rank>(std::find(members_.begin(), members_.end(), plan.rank()) - members_.begin())),
      num_ranks_(static_cast<int>(members_.size())),
      sign_(towards == Towards::earlier ? 1 : -1) {
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

void RingPath::exchange(std::vector<Transfer> sends, std::vector<Transfer> receives, Lane lane, Rank about) const {
  for (Transfer& send : sends) send.peer = members_[send.peer];
  for (Transfer& receive : receives) receive.peer = members_[receive.peer];
  plan_.exchange(std::move(sends), std::move(receives), lane, Native::none, members_[about]);
}

void RingPath::record_hop(int t, std::span<const Block> here, std::span<const Block> mine, std::span<const Block> into, Lane lane) const {
  if (t >= num_ranks_) return;
  std::vector<Transfer> sends, receives;
  const Rank passed = owner_in(t - 1), taker = owner_in(-t), coming = owner_in(t);
  if (passed != rank_ && is_hop(next(rank_), passed)) {
    const Rows rows = need(next(rank_), passed), held = need(rank_, passed);
    for (const Block& block : here) sends.push_back({next(rank_), block.tokens(rows.first - held.first, rows.count)});
  }
  if (const Rows rows = need(taker, rank_); rows.count != 0 && !is_hop(taker, rank_))
    for (const Block& block : mine) sends.push_back({taker, block.tokens(rows.first, rows.count)});
  if (const Rows rows = need(rank_, coming); rows.count != 0)
    for (const Block& block : into) receives.push_back({is_hop(rank_, coming) ? previous(rank_) : coming, block.tokens(0, rows.count)});
  exchange(std::move(sends), std::move(receives), lane, coming);
}

RingPath::Homecoming RingPath::record_return(int t, std::span<const Block> done, std::span<const Block> into, std::span<const Block> home,
                                             Lane lane) const {
  std::vector<Transfer> sends, receives;
  Homecoming result;
  const Rank finished = owner_in(t - 1), coming = owner_in(t), holder = owner_in(1 - t);
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
  exchange(std::move(sends), std::move(receives), lane, coming);
  return result;
}

RingPath::Straight RingPath::record_straight_return(int t, std::span<const Block> done, std::span<const Block> home, Lane lane) const {
  std::vector<Transfer> sends, receives;
  const Rank finished = owner_in(t - 1), worker = owner_in(1 - t);
  if (const Rows rows = need(rank_, finished); rows.count != 0)
    for (const Block& block : done) sends.push_back({finished, block.tokens(0, rows.count)});
  const Rows rows = need(worker, rank_);
  if (rows.count != 0)
    for (const Block& block : home) receives.push_back({worker, block.tokens(rows.first, rows.count)});
  exchange(std::move(sends), std::move(receives), lane, finished);
  return {rows, worker};
}

RingPath::TurnBack RingPath::record_turn_back(int t, std::span<const Block> done, std::span<const Block> into, std::span<const Block> home,
                                              Lane lane) const {
  std::vector<Transfer> sends, receives;
  TurnBack result;
  const Rank finished = owner_in(t), passed = owner_in(t - 1), taker = owner_in(-t);
  if (const Rows rows = need(rank_, finished); rows.count != 0)
    for (const Block& block : done) sends.push_back({is_hop(rank_, finished) ? previous(rank_) : finished, block.tokens(0, rows.count)});
  if (passed != rank_ && is_hop(next(rank_), passed)) {
    const Rows rows = need(next(rank_), passed);
    result.passed = {rows.first - need(rank_, passed).first, rows.count};
    for (const Block& block : into) receives.push_back({next(rank_), block.tokens(result.passed.first, rows.count)});
  }
  if (const Rows rows = need(taker, rank_); rows.count != 0 && !is_hop(taker, rank_)) {
    result.own = rows;
    for (const Block& block : home) receives.push_back({taker, block.tokens(rows.first, rows.count)});
  }
  exchange(std::move(sends), std::move(receives), lane, finished);
  return result;
}

}  // namespace collectives
SEQCCL_END
