// states.cpp - cuts the sequence into runs, and states into blocks of columns.
// SPDX-License-Identifier: Apache-2.0
#include "states.hpp"

#include <algorithm>
#include <utility>

#include "seqccl/mesh.hpp"

SEQCCL_BEGIN
namespace collectives {

namespace {

/// Where documents begin, in order; of the empty ones nothing is seen.
std::vector<std::int64_t> starts_of(std::span<const std::int64_t> documents) {
  std::vector<std::int64_t> starts{0};
  std::int64_t at = 0;
  for (const std::int64_t length : documents) {
    if (at != starts.back()) starts.push_back(at);
    at += length;
  }
  return starts;
}

}  // namespace

std::vector<Run> runs_of(const Partition& partition, std::span<const std::int64_t> documents) {
  const std::vector<std::int64_t> starts = starts_of(documents);
  std::vector<Run> runs;
  for (Rank owner = 0; owner < partition.num_ranks(); ++owner) {
    std::int64_t index = 0, local = 0;
    for (const Segment& segment : partition.segments(owner)) {
      const std::int64_t end = segment.first + segment.count;
      for (std::int64_t first = segment.first; first < end;) {
        const auto next = std::upper_bound(starts.begin(), starts.end(), first);
        const std::int64_t count = (next == starts.end() ? end : std::min(end, *next)) - first;
        runs.push_back({owner, index, local, count, first, first == segment.first});
        local += count;
        first += count;
      }
      ++index;
    }
  }
  std::sort(runs.begin(), runs.end(), [](const Run& a, const Run& b) { return a.first < b.first; });
  for (std::size_t v = 0; v < runs.size(); ++v) {
    runs[v].opens_document = std::binary_search(starts.begin(), starts.end(), runs[v].first);
    if (v > 0) runs[v - 1].closes_document = runs[v].opens_document;
  }
  return runs;
}

std::vector<Run> reversed(std::vector<Run> runs) {
  std::reverse(runs.begin(), runs.end());
  for (Run& run : runs) std::swap(run.opens_document, run.closes_document);
  return runs;
}

std::vector<Places> documents_of(std::span<const Run> order) {
  std::vector<Places> documents;
  for (std::size_t v = 0; v < order.size(); ++v) {
    if (order[v].opens_document) documents.push_back({v, v});
    documents.back().end = v + 1;
  }
  return documents;
}

int natural_ranks_per_node(int given, const Partition& partition) {
  return given != 0 ? given : Mesh::natural(partition.num_ranks(), {}).inner;
}

Block States::take(const Block& state, int b, int num_blocks) const {
  if (num_blocks == 1) return state;
  const Block columns = scratch(b, num_blocks);
  plan.compute(TakeColumns{state, columns, key_dim, first(b, num_blocks)}, plan.rank());
  return columns;
}

Block States::join(std::span<const Block> blocks) const {
  const auto num_blocks = static_cast<int>(blocks.size());
  if (num_blocks == 1) return blocks.front();
  const Block state = scratch();
  for (int b = 0; b < num_blocks; ++b)
    plan.compute(PutColumns{blocks[static_cast<std::size_t>(b)], state, key_dim, first(b, num_blocks)}, plan.rank());
  return state;
}

}  // namespace collectives
SEQCCL_END
