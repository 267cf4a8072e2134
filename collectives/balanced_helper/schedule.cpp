// schedule.cpp - balanced_helper: of each pair of ranks the nearer one in ring order takes the other's keys, the farther one works on the
// other's queries and returns the result. Causal contiguous shards get even work without a permutation.
// SPDX-License-Identifier: Apache-2.0
#include <array>

#include "../common/travel.hpp"

SEQCCL_BEGIN
namespace collectives {

namespace {

/// Round t, 1 <= t <= P / 2: rank r meets rank r - t (peer) and rank r + t (other). It attends with its own queries to the peer's keys,
/// and with the peer's queries, which are t ranks ahead round the ring, to its own keys. Causal contiguous: exactly one of the two is
/// visible. Opposite ranks (2 t = P) attend with their own queries only: the other half of the pair is their peer's.
struct Meeting {
  Rank peer, other;
  Rows keys, queries;              // of the peer that I take
  Rows keys_given, queries_given;  // of mine that the other takes

  Meeting(const SoftmaxLayer& layer, int t) : peer(layer.left(t)), other(layer.right(t)) {
    const bool both = 2 * t != layer.num_ranks;
    keys = layer.key_need(layer.rank, peer);
    keys_given = layer.key_need(other, layer.rank);
    if (both) queries = layer.query_need(layer.rank, peer), queries_given = layer.query_need(other, layer.rank);
  }
};

/// The exchange of a round: what I take from the peer, and what the other takes from me.
void record_meeting(SoftmaxLayer& layer, const Meeting& round, const Blocks& keys, const Blocks& queries, const Blocks& keys_in,
                    const Blocks& queries_in) {
  std::vector<Transfer> sends, receives;
  for (const Block& block : rows_of(keys, round.keys_given)) sends.push_back({round.other, block});
  for (const Block& block : rows_of(queries, round.queries_given)) sends.push_back({round.other, block});
  for (const Block& block : rows_of(keys_in, {0, round.keys.count})) receives.push_back({round.peer, block});
  for (const Block& block : rows_of(queries_in, {0, round.queries.count})) receives.push_back({round.peer, block});
  layer.plan.exchange(std::move(sends), std::move(receives), Lane::comm, Native::none, round.peer);
}

/// The most rows that I take, and that others take of mine.
struct Largest {
  std::int64_t keys = 0, queries = 0, queries_given = 0, keys_given = 0;
  explicit Largest(const std::vector<Meeting>& rounds) {
    for (const Meeting& round : rounds) {
      keys = std::max(keys, round.keys.count);
      queries = std::max(queries, round.queries.count);
      keys_given = std::max(keys_given, round.keys_given.count);
      queries_given = std::max(queries_given, round.queries_given.count);
    }
  }
};

std::vector<Meeting> meetings(const SoftmaxLayer& layer) {
  std::vector<Meeting> rounds;
  for (int t = 1; 2 * t <= layer.num_ranks; ++t) rounds.emplace_back(layer, t);
  return rounds;
}

void forward(SoftmaxLayer& layer) {
  Recorder& plan = layer.plan;
  const std::vector<Meeting> rounds = meetings(layer);
  const Largest largest(rounds);
  const Cargo keys = {{layer.keys.k, layer.keys.v}, layer.keys.pieces}, queries = {{layer.queries.q}, layer.queries.pieces};
  const Blocks my_keys = sendable(plan, keys), my_queries = sendable(plan, queries);
  const Spare keys_in = spare_like(plan, keys.blocks, largest.keys), queries_in = spare_like(plan, queries.blocks, largest.queries);
  const State partial[2] = {layer.scratch_state(largest.queries), layer.scratch_state(largest.queries)};
  const bool narrow = layer.spec.partials_in_dtype && layer.spec.dtype != f32;
  const auto wire = [&](std::int64_t rows) {
    return plan.scratch(narrow ? layer.spec.dtype : f32, {layer.spec.batch, rows, layer.q_heads, layer.spec.dim_v()});
  };
  const Block narrowed[2] = {narrow ? wire(largest.queries) : partial[0].out, narrow ? wire(largest.queries) : partial[1].out};
  const Blocks returned = {wire(largest.queries_given), layer.scratch_f32(largest.queries_given, layer.q_heads, 1)};

  // What a round returned is merged after the attends of the next, which so need not wait for it.
  const auto merge = [&](const Meeting& round) {
    const Blocks back = rows_of(returned, {0, round.queries_given.count});
    const Blocks sum = rows_of(std::array{layer.state.out, layer.state.lse}, round.queries_given);
    if (!back[0].empty()) plan.compute(Merge{back[0], back[1], sum[0], sum[1]}, round.other);
  };

  if (!rounds.empty()) record_meeting(layer, rounds[0], my_keys, my_queries, keys_in[0], queries_in[0]);
  layer.attend(layer.queries, layer.keys, layer.state, /*fresh=*/true, layer.rank);
  for (std::size_t i = 0; i < rounds.size(); ++i) {
    const Meeting& round = rounds[i];
    if (i + 1 < rounds.size()) record_meeting(layer, rounds[i + 1], my_keys, my_queries, keys_in[(i + 1) % 2], queries_in[(i + 1) % 2]);
    const Blocks blocks = rows_of(keys_in[i % 2], {0, round.keys.count});
    const State part = {partial[i % 2].out.tokens(0, round.queries.count), partial[i % 2].lse.tokens(0, round.queries.count)};
    const Block part_out = narrowed[i % 2].tokens(0, round.queries.count);
    // The help first: it has a way to go.
    if (round.queries.count != 0) {
      layer.attend_partial({queries_in[i % 2][0].tokens(0, round.queries.count), layer.partition.pieces(round.peer, round.queries)},
                           layer.keys, part, round.peer);
      if (narrow && !part.out.empty()) plan.compute(Copy{part.out, part_out}, round.peer);
    }
    layer.attend(layer.queries, {blocks[0], blocks[1], layer.partition.pieces(round.peer, round.keys)}, layer.state, /*fresh=*/false,
                 round.peer);
    if (i > 0) merge(rounds[i - 1]);
    const Blocks back = rows_of(returned, {0, round.queries_given.count});
    plan.exchange({{round.peer, part_out}, {round.peer, part.lse}}, {{round.other, back[0]}, {round.other, back[1]}}, Lane::comm2,
                  Native::none, round.peer);
  }
  if (!rounds.empty()) merge(rounds.back());
}

// The same meetings; dk, dv of the peer's keys and dq of the peer's queries go back to him.
void backward(SoftmaxLayer& layer) {
  Recorder& plan = layer.plan;
  const std::vector<Meeting> rounds = meetings(layer);
  const Largest largest(rounds);
  const Cargo keys = {{layer.keys.k, layer.keys.v}, layer.keys.pieces};
  const Cargo queries = {{layer.queries.q, layer.dout, layer.state.lse, layer.delta}, layer.queries.pieces};
  const Blocks key_sums = {layer.gradients.dk, layer.gradients.dv}, query_sums = {layer.dq};
  const Blocks my_keys = sendable(plan, keys), my_queries = sendable(plan, queries);
  const Spare keys_in = spare_like(plan, keys.blocks, largest.keys), queries_in = spare_like(plan, queries.blocks, largest.queries);
  const Spare key_parts = spare_like(plan, key_sums, largest.keys), query_parts = spare_like(plan, query_sums, largest.queries);
  const Blocks keys_back = scratch_like(plan, key_sums, largest.keys_given),
               queries_back = scratch_like(plan, query_sums, largest.queries_given);

  const auto add = [&](const Meeting& round) {  // as merge in forward
    record_adds(plan, rows_of(queries_back, {0, round.queries_given.count}), rows_of(query_sums, round.queries_given), round.other);
    record_adds(plan, rows_of(keys_back, {0, round.keys_given.count}), rows_of(key_sums, round.keys_given), round.other);
  };

  if (!rounds.empty()) record_meeting(layer, rounds[0], my_keys, my_queries, keys_in[0], queries_in[0]);
  layer.attend_backward(layer.queries, layer.query_gradient(), layer.keys, layer.gradients, true, true, layer.rank);
  for (std::size_t i = 0; i < rounds.size(); ++i) {
    const Meeting& round = rounds[i];
    if (i + 1 < rounds.size()) record_meeting(layer, rounds[i + 1], my_keys, my_queries, keys_in[(i + 1) % 2], queries_in[(i + 1) % 2]);
    const Blocks theirs = rows_of(queries_in[i % 2], {0, round.queries.count}), block = rows_of(keys_in[i % 2], {0, round.keys.count});
    const Blocks query_part = rows_of(query_parts[i % 2], {0, round.queries.count}),
                 key_part = rows_of(key_parts[i % 2], {0, round.keys.count});
    layer.attend_backward({theirs[0], layer.partition.pieces(round.peer, round.queries)}, {theirs[1], theirs[2], theirs[3], query_part[0]},
                          layer.keys, layer.gradients, /*fresh_dq=*/true, /*fresh_dkv=*/false, round.peer);
    layer.attend_backward(layer.queries, layer.query_gradient(), {block[0], block[1], layer.partition.pieces(round.peer, round.keys)},
                          {key_part[0], key_part[1]},
                          /*fresh_dq=*/false, /*fresh_dkv=*/true, round.peer);
    if (i > 0) add(rounds[i - 1]);
    const Blocks keys_home = rows_of(keys_back, {0, round.keys_given.count}),
                 queries_home = rows_of(queries_back, {0, round.queries_given.count});
    plan.exchange({{round.peer, query_part[0]}, {round.peer, key_part[0]}, {round.peer, key_part[1]}},
                  {{round.other, queries_home[0]}, {round.other, keys_home[0]}, {round.other, keys_home[1]}}, Lane::comm2, Native::none,
                  round.peer);
  }
  if (!rounds.empty()) add(rounds.back());
}

}  // namespace

Schedule balanced_helper_forward(const AttentionSpec& spec, Rank rank, const RecordOptions& options) {
  return record_softmax("balanced_helper forward", Pass::forward, forward, spec, rank, options);
}

Schedule balanced_helper_backward(const AttentionSpec& spec, Rank rank, const RecordOptions& options) {
  return record_softmax("balanced_helper backward", Pass::backward, backward, spec, rank, options);
}

}  // namespace collectives
SEQCCL_END
