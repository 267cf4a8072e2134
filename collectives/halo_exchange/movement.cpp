// movement.cpp - who holds the tokens before whose segments, and the exchange of these rows in both directions.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <utility>
#include <vector>

#include "seqccl/collectives.hpp"
#include "seqccl/documents.hpp"

SEQCCL_BEGIN
namespace collectives {

namespace {

/// Rows of a tensor of mine that another rank, or I, have the counterpart of.
struct Part {
  Rank peer = 0;
  Rows rows;
};

/// What one rank owns of all halos, and has in its own. The parts that two ranks share stand in both lists in the same order: by
/// the reader's segments in its storage order, then by token.
struct HaloParts {
  std::vector<Part> owned;   // rows of x, by reader in rank order
  std::vector<Part> read;    // rows of the halo, with their owners
  std::vector<Rows> absent;  // rows of the halo that no token fills
};

HaloParts parts_of(const HaloExchangeSpec& spec, Rank rank) {
  struct Run {
    Rank owner;
    std::int64_t first, count;  // tokens
    std::int64_t local;         // first row in the owner's shard
    std::int64_t index;         // of the owner's segments
  };
  std::vector<Run> runs;  // in sequence order
  for (Rank owner = 0; owner < spec.partition.num_ranks(); ++owner) {
    std::int64_t local = 0, index = 0;
    for (const Segment& segment : spec.partition.segments(owner)) {
      runs.push_back({owner, segment.first, segment.count, local, index++});
      local += segment.count;
    }
  }
  std::vector<std::size_t> by_reader(runs.size());  // runs in rank and storage order, as places in sequence order
  std::sort(runs.begin(), runs.end(), [](const Run& a, const Run& b) { return a.first < b.first; });
  for (std::size_t i = 0; i < runs.size(); ++i) by_reader[i] = i;
  std::sort(by_reader.begin(), by_reader.end(), [&](std::size_t a, std::size_t b) {
    return std::pair(runs[a].owner, runs[a].index) < std::pair(runs[b].owner, runs[b].index);
  });

  const Documents documents(spec.documents, spec.partition.num_tokens());
  HaloParts parts;
  for (const std::size_t place : by_reader) {
    const Run& reader = runs[place];
    const std::int64_t first = std::max(reader.first - spec.width, documents.start_of(reader.first));
    const auto row_of = [&](std::int64_t token) { return (reader.index + 1) * spec.width - (reader.first - token); };
    const std::int64_t begin = reader.index * spec.width;
    if (reader.owner == rank && row_of(first) != begin) parts.absent.push_back({begin, row_of(first) - begin});
    std::size_t i = place;
    while (i > 0 && runs[i].first > first) --i;
    for (; i < place; ++i) {
      const Run& run = runs[i];
      const std::int64_t from = std::max(first, run.first), count = run.first + run.count - from;
      if (run.owner == rank) parts.owned.push_back({reader.owner, {run.local + from - run.first, count}});
      if (reader.owner == rank) parts.read.push_back({run.owner, {row_of(from), count}});
    }
  }
  return parts;
}

/// Moves parts of `from` to their peers, one message each, and finds for each part in `taken` the block that comes for it. Parts
/// that I share with myself stay where they are.
std::vector<Block> move(Recorder& plan, const Block& from, const std::vector<Part>& given, const std::vector<Part>& taken) {
  const Slot slot = plan.slot(from);
  const auto num_rows = [](const std::vector<Part>& parts, Rank peer) {
    std::int64_t count = 0;
    for (const Part& part : parts) count += part.peer == peer ? part.rows.count : 0;
    return count;
  };
  const auto scratch = [&](std::int64_t rows) { return plan.scratch(slot.dtype, {slot.batch, rows, slot.heads, slot.dim}); };
  const auto block_of = [&](const Part& part) { return from.tokens(part.rows.first, part.rows.count); };

  std::vector<Block> coming(taken.size());
  std::vector<Transfer> sends, receives;
  for (int i = 0; i < plan.num_ranks(); ++i) {
    const Rank to = (plan.rank() + i) % plan.num_ranks(), source = (plan.rank() + plan.num_ranks() - i) % plan.num_ranks();
    std::vector<Block> parts;
    for (const Part& part : given)
      if (part.peer == to) parts.push_back(block_of(part));
    if (i == 0) {
      for (std::size_t j = 0, next = 0; j < taken.size(); ++j)
        if (taken[j].peer == to) coming[j] = parts[next++];
      continue;
    }
    if (parts.size() == 1) sends.push_back({to, plan.sendable(parts.front())});
    if (parts.size() > 1) {
      const Block packed = scratch(num_rows(given, to));
      std::int64_t row = 0;
      for (const Block& part : parts) {
        plan.compute(Copy{part, packed.tokens(row, part.num_tokens)}, to);
        row += part.num_tokens;
      }
      sends.push_back({to, packed});
    }
    const std::int64_t rows = num_rows(taken, source);
    if (rows == 0) continue;
    const Block arriving = scratch(rows);
    receives.push_back({source, arriving});
    std::int64_t row = 0;
    for (std::size_t j = 0; j < taken.size(); ++j) {
      if (taken[j].peer != source) continue;
      coming[j] = arriving.tokens(row, taken[j].rows.count);
      row += taken[j].rows.count;
    }
  }
  plan.exchange(std::move(sends), std::move(receives));
  return coming;
}

std::int64_t halo_rows(const HaloExchangeSpec& spec, Rank rank) {
  return static_cast<std::int64_t>(spec.partition.segments(rank).size()) * spec.width;
}

}  // namespace

Schedule halo_exchange(const HaloExchangeSpec& spec, Rank rank, const RecordOptions& options) {
  Recorder plan("halo exchange", rank, spec.partition.num_ranks());
  const Block x = plan.input(Tensor::user, spec.dtype, {spec.batch, spec.partition.tokens_on(rank), spec.heads, spec.head_dim},
                             options.inputs_sendable);
  const Block halo = plan.output(Tensor::user, spec.dtype, {spec.batch, halo_rows(spec, rank), spec.heads, spec.head_dim});
  const HaloParts parts = parts_of(spec, rank);
  const std::vector<Block> coming = move(plan, x, parts.owned, parts.read);
  for (const Rows& rows : parts.absent) plan.compute(Zero{halo.tokens(rows.first, rows.count)});
  for (const bool own : {true, false})  // my own while the others' come in
    for (std::size_t i = 0; i < coming.size(); ++i) {
      const auto& [peer, rows] = parts.read[i];
      if ((peer == rank) == own) plan.compute(Copy{coming[i], halo.tokens(rows.first, rows.count)}, peer);
    }
  return std::move(plan).finish(spec.describe());
}

Schedule halo_reduce(const HaloExchangeSpec& spec, Rank rank, const RecordOptions& options) {
  Recorder plan("halo reduce", rank, spec.partition.num_ranks());
  const Block dhalo =
      plan.input(Tensor::user, f32, {spec.batch, halo_rows(spec, rank), spec.heads, spec.head_dim}, options.inputs_sendable);
  const Block dx = plan.output(Tensor::user, f32, {spec.batch, spec.partition.tokens_on(rank), spec.heads, spec.head_dim});
  const HaloParts parts = parts_of(spec, rank);
  const std::vector<Block> coming = move(plan, dhalo, parts.read, parts.owned);
  for (const bool own : {true, false})
    for (std::size_t i = 0; i < coming.size(); ++i) {
      const auto& [peer, rows] = parts.owned[i];
      if ((peer == rank) == own) plan.compute(Add{coming[i], dx.tokens(rows.first, rows.count)}, peer);
    }
  return std::move(plan).finish(spec.describe());
}

}  // namespace collectives
SEQCCL_END
