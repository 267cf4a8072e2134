// gather.cpp - who sees which keys of whom, and the exchanges that follow from it.
// SPDX-License-Identifier: Apache-2.0
#include "gather.hpp"

#include <utility>

SEQCCL_BEGIN
namespace collectives {

Gather::Share Gather::share_of(std::vector<Rows> rows, std::int64_t offset) {
  Share share{std::move(rows), 0, offset};
  for (const Rows& run : share.rows) share.num_rows += run.count;
  return share;
}

Gather::Gather(Recorder& plan, const Partition& partition, const BoundMask& mask, std::int64_t batch, bool native)
    : plan_(plan), partition_(partition) {
  const std::int64_t own = partition.tokens_on(plan.rank());
  bool even = native && plan.num_ranks() > 1 && !plan.in_group();
  for (Rank peer = 0; peer < plan.num_ranks(); ++peer) {
    const bool remote = peer != plan.rank();
    const auto mine = partition.pieces(plan.rank()), theirs = partition.pieces(peer);
    needed_.push_back(share_of(remote ? mask.visible_keys(mine, theirs) : std::vector<Rows>{}, num_needed_));
    num_needed_ += needed_.back().num_rows;
    given_.push_back(share_of(remote ? mask.visible_keys(theirs, mine) : std::vector<Rows>{}, num_given_));
    num_given_ += given_.back().num_rows;
    even = even && partition.tokens_on(peer) == own && (!remote || (needed_.back().num_rows == own && given_.back().num_rows == own));
  }
  // The hint is part of what all ranks must agree on: give it only where every pair is visible, which all ranks can tell.
  if (even && mask.num_pairs() == static_cast<double>(batch) * partition.num_tokens() * partition.num_tokens()) {
    native_ = Native::all_gather;
    num_needed_ = partition.num_tokens();
    for (Rank peer = 0; peer < plan.num_ranks(); ++peer) needed_[peer].offset = peer * own;
  }
}

std::vector<Piece> Gather::pieces() const {
  std::vector<Piece> result;
  for (Rank peer = 0; peer < plan_.num_ranks(); ++peer) {
    std::int64_t row = needed_[peer].offset;
    for (const Rows& run : needed_[peer].rows) {
      for (const Piece& piece : partition_.pieces(peer, run, row)) result.push_back(piece);
      row += run.count;
    }
  }
  return result;
}

Keys Gather::gather(const Keys& own) {
  Keys all = {scratch_like(plan_, own.k, num_needed_), scratch_like(plan_, own.v, num_needed_), pieces()};
  std::vector<Transfer> sends, receives;
  for (int i = 1; i < plan_.num_ranks(); ++i) {
    const Rank from = right(i), to = left(i);
    for (const Block& block : {packed(own.k, given_[to]), packed(own.v, given_[to])}) sends.push_back({to, block});
    for (const Block& block : {all.k, all.v}) receives.push_back({from, block.tokens(needed_[from].offset, needed_[from].num_rows)});
  }
  plan_.exchange(std::move(sends), std::move(receives), Lane::comm, native_);
  return all;
}

std::vector<Keys> Gather::parts(const Keys& buffer) const {
  if (native_ == Native::none) return {buffer};
  const std::int64_t hole = needed_[plan_.rank()].offset, own = partition_.tokens_on(plan_.rank());
  return {buffer.part({0, hole}), buffer.part({hole + own, num_needed_ - hole - own})};
}

KeyGradients Gather::send_home(const KeyGradients& sums) {
  const KeyGradients arriving = {scratch_like(plan_, sums.dk, num_given_), scratch_like(plan_, sums.dv, num_given_)};
  std::vector<Transfer> sends, receives;
  for (int i = 1; i < plan_.num_ranks(); ++i) {
    const Rank from = left(i), to = right(i);
    for (const Block& block : {sums.dk, sums.dv}) sends.push_back({to, block.tokens(needed_[to].offset, needed_[to].num_rows)});
    for (const Block& block : {arriving.dk, arriving.dv})
      receives.push_back({from, block.tokens(given_[from].offset, given_[from].num_rows)});
  }
  plan_.exchange(std::move(sends), std::move(receives), Lane::comm, native_ == Native::none ? Native::none : Native::reduce_scatter);
  return arriving;
}

void Gather::add(const KeyGradients& arriving, const KeyGradients& home) {
  for (Rank peer = 0; peer < plan_.num_ranks(); ++peer) {
    std::int64_t row = given_[peer].offset;
    for (const Rows& run : given_[peer].rows) {
      const KeyGradients from = arriving.part({row, run.count}), to = home.part(run);
      row += run.count;
      if (from.dk.empty()) continue;
      plan_.compute(Add{from.dk, to.dk}, peer);
      plan_.compute(Add{from.dv, to.dv}, peer);
    }
  }
}

Block Gather::packed(const Block& block, const Share& share) {
  if (share.rows.empty() || block.num_heads == 0) return {};
  if (share.rows.size() == 1) return plan_.sendable(block.tokens(share.rows[0].first, share.rows[0].count));
  const Block all = scratch_like(plan_, block, share.num_rows);
  std::int64_t row = 0;
  for (const Rows& run : share.rows) {
    plan_.compute(Copy{block.tokens(run.first, run.count), all.tokens(row, run.count)});
    row += run.count;
  }
  return all;
}

}  // namespace collectives
SEQCCL_END
