// schedule.cpp - bidirectional_ring: half of the blocks come round each way; in the backward pass their sums turn back.
// SPDX-License-Identifier: Apache-2.0
#include <array>

#include "../common/travel.hpp"

SEQCCL_BEGIN
namespace collectives {

namespace {

/// Two ways: blocks of later ranks r + t come on one, blocks of earlier ranks r - t on the other, t = 1 .. num_rounds. With an even
/// number of ranks the block opposite comes half on each.
struct TwoWays {
  int num_rounds;
  std::array<RingPath, 2> path;
  static constexpr std::array lanes{Lane::comm, Lane::comm2};

  TwoWays(SoftmaxLayer& layer, const RingPath::RowsTaken& need)
      : num_rounds(layer.num_ranks / 2),
        path{RingPath(layer.plan, cut(layer.num_ranks, need, 0), RingPath::Towards::earlier),
             RingPath(layer.plan, cut(layer.num_ranks, need, 1), RingPath::Towards::later)} {}

  /// What of `need` comes on one of the ways.
  static RingPath::RowsTaken cut(int num_ranks, const RingPath::RowsTaken& need, int way) {
    return [=](Rank reader, Rank owner) -> Rows {
      const int distance = ((way == 0 ? owner - reader : reader - owner) + num_ranks) % num_ranks;
      if (2 * distance > num_ranks) return {};
      const Rows rows = need(reader, owner);
      if (2 * distance < num_ranks) return rows;
      const std::int64_t half = rows.count / 2;
      return way == 0 ? Rows{rows.first, half} : Rows{rows.first + half, rows.count - half};
    };
  }
};

RingPath::RowsTaken need_of(const SoftmaxLayer& layer) {
  return [&](Rank reader, Rank owner) { return layer.key_need(reader, owner); };
}

void forward(SoftmaxLayer& layer) {
  const TwoWays ways(layer, need_of(layer));
  const Cargo own = {{layer.keys.k, layer.keys.v}, layer.keys.pieces};
  const Blocks mine = sendable(layer.plan, own);
  Spare spare[2];
  Blocks here[2] = {mine, mine};
  for (const int way : {0, 1}) spare[way] = spare_like(layer.plan, own.blocks, ways.path[way].largest_arrival());

  for (int t = 0; t <= ways.num_rounds; ++t) {
    if (t < ways.num_rounds)
      for (const int way : {0, 1}) ways.path[way].record_hop(t + 1, here[way], mine, spare[way][(t + 1) % 2], ways.lanes[way]);
    if (t == 0) layer.attend(layer.queries, layer.keys, layer.state, /*fresh=*/true, layer.rank);
    for (const int way : {0, 1}) {
      if (t > 0) {
        const Rank owner = ways.path[way].owner_in(t);
        const auto pieces = layer.partition.pieces(owner, ways.path[way].need_in(t));
        layer.attend(layer.queries, {here[way][0], here[way][1], pieces}, layer.state, /*fresh=*/false, owner);
      }
      if (t < ways.num_rounds) here[way] = rows_of(spare[way][(t + 1) % 2], {0, ways.path[way].need_in(t + 1).count});
    }
  }
}

/// What travels and what is summed for it.
struct Travels {
  Cargo own;
  Blocks home;
  RingPath::RowsTaken need;
  std::function<void(Rank owner, const Cargo& cargo, const Blocks& sums)> visit;
};

// Blocks are kept as they come: one way each round's block is worked on at once and its sum kept, the other way when its sum passes on
// the way back. So every one of 2 num_rounds rounds has a block to work on, and sums meet in order: farthest first.
void turn_back(SoftmaxLayer& layer, const Travels& what) {
  const TwoWays ways(layer, what.need);
  Recorder& plan = layer.plan;
  const int num_rounds = ways.num_rounds;
  const Blocks mine = sendable(plan, what.own);
  std::vector<Cargo> kept[2];  // per round, [0] unused
  std::vector<Blocks> sums[2];
  Blocks arriving[2], homecoming[2];
  for (const int way : {0, 1}) {
    const RingPath& path = ways.path[way];
    for (int t = 0; t <= num_rounds; ++t) {
      const Rows rows = t == 0 ? Rows{} : path.need_in(t);
      kept[way].push_back({scratch_like(plan, what.own.blocks, rows.count), layer.partition.pieces(path.owner_in(t), rows)});
      sums[way].push_back(scratch_like(plan, what.home, rows.count));
    }
    arriving[way] = scratch_like(plan, what.home, path.largest_arrival());
    homecoming[way] = scratch_like(plan, what.home, layer.partition.tokens_on(layer.rank));
  }
  const auto work = [&](int way, int t) { what.visit(ways.path[way].owner_in(t), kept[way][t], sums[way][t]); };

  for (int t = 0; t <= num_rounds; ++t) {
    if (t < num_rounds)
      for (const int way : {0, 1})
        ways.path[way].record_hop(t + 1, t == 0 ? mine : kept[way][t].blocks, mine, kept[way][t + 1].blocks, ways.lanes[way]);
    if (t == 0)
      what.visit(layer.rank, what.own, what.home);
    else
      work(0, t);
  }
  RingPath::TurnBack back[2];
  for (int t = num_rounds; t >= 1; --t) {
    work(1, t);
    for (const int way : {0, 1}) {
      const RingPath& path = ways.path[way];
      if (t < num_rounds)
        record_adds(plan, rows_of(arriving[way], back[way].passed), rows_of(sums[way][t], back[way].passed), path.owner_in(t));
      back[way] = path.record_turn_back(t, sums[way][t], arriving[way], homecoming[way], ways.lanes[way]);
    }
    for (const int way : {0, 1})
      if (back[way].own.count != 0)
        record_adds(plan, rows_of(homecoming[way], back[way].own), rows_of(what.home, back[way].own), layer.rank);
  }
}

void backward_with_keys(SoftmaxLayer& layer) {
  turn_back(layer, {{{layer.keys.k, layer.keys.v}, layer.keys.pieces},
                    {layer.gradients.dk, layer.gradients.dv},
                    need_of(layer),
                    [&](Rank owner, const Cargo& cargo, const Blocks& sums) {
                      layer.attend_backward(layer.queries, layer.query_gradient(), {cargo.blocks[0], cargo.blocks[1], cargo.pieces},
                                            {sums[0], sums[1]}, /*fresh_dq=*/owner == layer.rank, /*fresh_dkv=*/true, owner);
                    }});
}

void backward_with_queries(SoftmaxLayer& layer) {
  turn_back(layer, {{{layer.queries.q, layer.dout, layer.state.lse, layer.delta}, layer.queries.pieces},
                    {layer.dq},
                    [&](Rank reader, Rank owner) { return layer.query_need(reader, owner); },
                    [&](Rank owner, const Cargo& cargo, const Blocks& sums) {
                      const Blocks& blocks = cargo.blocks;
                      layer.attend_backward({blocks[0], cargo.pieces}, {blocks[1], blocks[2], blocks[3], sums[0]}, layer.keys,
                                            layer.gradients, /*fresh_dq=*/true, /*fresh_dkv=*/owner == layer.rank, owner);
                    }});
}

}  // namespace

Schedule bidirectional_ring_forward(const AttentionSpec& spec, Rank rank, const RecordOptions& options) {
  return record_softmax("bidirectional_ring forward", Pass::forward, forward, spec, rank, options);
}

Schedule bidirectional_ring_backward(const AttentionSpec& spec, Rank rank, const RecordOptions& options) {
  const Body body = spec.backward == Backward::burst ? backward_with_queries : backward_with_keys;
  return record_softmax("bidirectional_ring backward", Pass::backward, body, spec, rank, options);
}

}  // namespace collectives
SEQCCL_END
