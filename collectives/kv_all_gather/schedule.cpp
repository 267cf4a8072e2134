// schedule.cpp - kv_all_gather: every rank gets exactly the keys that its mask lets it see, and attends once.
// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "../common/softmax.hpp"

SEQCCL_BEGIN
namespace collectives {

namespace {

/// What moves between me and one peer: runs of rows, as one message per tensor.
struct Share {
  std::vector<Rows> rows;
  std::int64_t num_rows = 0;
  std::int64_t offset = 0;  // of the share in the buffer that holds all peers' shares
};

Share share_of(std::vector<Rows> rows, std::int64_t offset) {
  Share share{std::move(rows), 0, offset};
  for (const Rows& run : share.rows) share.num_rows += run.count;
  return share;
}

/// Group-cast of keys and values and its dual, group-reduce of their gradients.
class Gather {
 public:
  explicit Gather(SoftmaxLayer& layer, bool native) : layer_(layer) {
    const auto& partition = layer.spec.partition;
    const std::int64_t own = partition.tokens_on(layer.rank);
    // Even and full: blocks lie in rank order with a hole for my own, as a native all-gather would put them.
    bool even = native && layer.num_ranks > 1;
    for (Rank peer = 0; peer < layer.num_ranks; ++peer) {
      const bool remote = peer != layer.rank;
      const auto mine = layer.pieces(layer.rank), theirs = layer.pieces(peer);
      needed_.push_back(share_of(remote ? layer.mask.visible_keys(mine, theirs) : std::vector<Rows>{}, num_needed_));
      num_needed_ += needed_.back().num_rows;
      given_.push_back(share_of(remote ? layer.mask.visible_keys(theirs, mine) : std::vector<Rows>{}, num_given_));
      num_given_ += given_.back().num_rows;
      even = even && partition.tokens_on(peer) == own && (!remote || (needed_.back().num_rows == own && given_.back().num_rows == own));
    }
    // The hint is part of what all ranks must agree on: give it only where every pair is visible, which all ranks can tell.
    if (even && layer.mask.num_pairs() == static_cast<double>(layer.spec.batch) * partition.num_tokens() * partition.num_tokens()) {
      native_ = Native::all_gather;
      num_needed_ = partition.num_tokens();
      for (Rank peer = 0; peer < layer.num_ranks; ++peer) needed_[peer].offset = peer * own;
    }
  }

  /// Records the exchange; returns what came, as blocks that each hold whole shares.
  std::vector<Keys> keys() {
    Keys all = layer_.scratch_keys(num_needed_, layer_.spec.num_kv_heads());
    std::vector<Transfer> sends, receives;
    for (int i = 1; i < layer_.num_ranks; ++i) {
      const Rank from = layer_.right(i), to = layer_.left(i);
      for (const Block& block : {packed(layer_.keys.k, given_[to]), packed(layer_.keys.v, given_[to])}) sends.push_back({to, block});
      for (const Block& block : {all.k, all.v}) receives.push_back({from, block.tokens(needed_[from].offset, needed_[from].num_rows)});
    }
    layer_.plan.exchange(std::move(sends), std::move(receives), Lane::comm, native_);

    for (Rank peer = 0; peer < layer_.num_ranks; ++peer) {
      std::int64_t row = needed_[peer].offset;
      for (const Rows& run : needed_[peer].rows) {
        for (const Piece& piece : layer_.spec.partition.pieces(peer, run, row)) all.pieces.push_back(piece);
        row += run.count;
      }
    }
    if (native_ == Native::none) return {all};
    const std::int64_t hole = needed_[layer_.rank].offset, own = layer_.spec.partition.tokens_on(layer_.rank);
    return {all.part({0, hole}), all.part({hole + own, num_needed_ - hole - own})};
  }

  /// Records the way back of sums for all gathered rows, and adds what comes for my own keys, in rank order.
  void reduce(const KeyGradients& sums) {
    const KeyGradients arriving = layer_.scratch_gradients(num_given_, layer_.spec.num_kv_heads());
    std::vector<Transfer> sends, receives;
    for (int i = 1; i < layer_.num_ranks; ++i) {
      const Rank from = layer_.left(i), to = layer_.right(i);
      for (const Block& block : {sums.dk, sums.dv}) sends.push_back({to, block.tokens(needed_[to].offset, needed_[to].num_rows)});
      for (const Block& block : {arriving.dk, arriving.dv}) receives.push_back({from, block.tokens(given_[from].offset, given_[from].num_rows)});
    }
    layer_.plan.exchange(std::move(sends), std::move(receives), Lane::comm,
                         native_ == Native::none ? Native::none : Native::reduce_scatter);
    for (Rank peer = 0; peer < layer_.num_ranks; ++peer) {
      std::int64_t row = given_[peer].offset;
      for (const Rows& run : given_[peer].rows) {
        const KeyGradients from = arriving.part({row, run.count}), to = layer_.gradients.part(run);
        layer_.plan.compute(Add{from.dk, to.dk}, peer);
        layer_.plan.compute(Add{from.dv, to.dv}, peer);
        row += run.count;
      }
    }
  }

  [[nodiscard]] std::int64_t num_rows() const { return num_needed_; }

 private:
  /// One contiguous block with the rows of a share.
  Block packed(const Block& block, const Share& share) {
    if (share.rows.empty()) return {};
    if (share.rows.size() == 1) return layer_.plan.sendable(block.tokens(share.rows[0].first, share.rows[0].count));
    const Slot slot = layer_.plan.slot(block);
    const Block all = layer_.plan.scratch(slot.dtype, {slot.batch, share.num_rows, slot.heads, slot.dim});
    std::int64_t row = 0;
    for (const Rows& run : share.rows) {
      layer_.plan.compute(Copy{block.tokens(run.first, run.count), all.tokens(row, run.count)});
      row += run.count;
    }
    return all;
  }

  SoftmaxLayer& layer_;
  std::vector<Share> needed_, given_;  // per peer: his keys that I see, my keys that he sees
  std::int64_t num_needed_ = 0, num_given_ = 0;
  Native native_ = Native::none;
};

}  // namespace

Schedule kv_all_gather_forward(const AttentionSpec& spec, Rank rank, const RecordOptions& options) {
  SoftmaxLayer layer("kv_all_gather forward", SoftmaxLayer::Pass::forward, spec, rank, options);
  Gather gather(layer, options.native_collectives);
  const std::vector<Keys> remote = gather.keys();
  layer.attend(layer.queries, layer.keys, layer.state, /*fresh=*/true, rank);  // while the others' keys come in
  for (const Keys& keys : remote) layer.attend(layer.queries, keys, layer.state, false, -1);
  return std::move(layer).finish();
}

Schedule kv_all_gather_backward(const AttentionSpec& spec, Rank rank, const RecordOptions& options) {
  SoftmaxLayer layer("kv_all_gather backward", SoftmaxLayer::Pass::backward, spec, rank, options);
  Gather gather(layer, options.native_collectives);
  const SoftmaxLayer::QueryGradient with = {layer.dout, layer.state.lse, layer.delta, layer.dq};
  const std::vector<Keys> remote = gather.keys();
  const KeyGradients sums = layer.scratch_gradients(gather.num_rows(), spec.num_kv_heads());
  layer.attend_backward(layer.queries, with, layer.keys, layer.gradients, layer.heads, true, true, rank);
  for (const Keys& keys : remote)
    layer.attend_backward(layer.queries, with, keys, sums.part({keys.k.token_first, keys.k.num_tokens}), layer.heads, false, true, -1);
  gather.reduce(sums);
  return std::move(layer).finish();
}

}  // namespace collectives
SEQCCL_END
