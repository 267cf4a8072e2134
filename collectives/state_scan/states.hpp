// states.hpp - runs of tokens, scratch for states, and states divided into blocks of columns.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <vector>

#include "seqccl/collectives.hpp"

SEQCCL_BEGIN
namespace collectives {

/// A contiguous run of tokens of one document: one virtual rank of the scan. A zigzag rank has two, more where documents begin inside.
struct Run {
  Rank owner = 0;
  std::int64_t segment = 0;     // which of the owner's segments, in his storage order
  std::int64_t local = 0;       // first row in the owner's shard
  std::int64_t count = 0;       // tokens
  std::int64_t first = 0;       // global position
  bool opens_segment = true;    // it begins where its segment begins
  bool opens_document = true;   // nothing of its document comes before it in the order of the scan
  bool closes_document = true;  // nothing comes after it
};
/// All runs of a partition in sequence order, cut where documents begin (lengths that sum to N; empty: one document).
[[nodiscard]] std::vector<Run> runs_of(const Partition& partition, std::span<const std::int64_t> documents = {});
/// The same from the end: the order of gradients.
[[nodiscard]] std::vector<Run> reversed(std::vector<Run> runs);

/// How many ranks share a node: `given`, or if that is 0 the natural number.
[[nodiscard]] int natural_ranks_per_node(int given, const Partition& partition);

/// Runs [first, end) of an order.
struct Places {
  std::size_t first = 0, end = 0;
  [[nodiscard]] std::size_t size() const noexcept { return end - first; }
};
/// The places of each document.
[[nodiscard]] std::vector<Places> documents_of(std::span<const Run> order);

/// States (B, 1, H, Dk Dv) of one plan.
struct States {
  Recorder& plan;
  std::int64_t batch, heads, key_dim, value_dim;

  [[nodiscard]] Recorder::Shape shape(std::int64_t count) const { return {batch, count, heads, key_dim * value_dim}; }
  [[nodiscard]] Block scratch() const { return plan.scratch(f32, shape(1)); }
  /// Width of block b of `num_blocks` blocks of columns, as even as can be.
  [[nodiscard]] std::int64_t width(int b, int num_blocks) const { return first(b + 1, num_blocks) - first(b, num_blocks); }
  [[nodiscard]] Block scratch(int b, int num_blocks) const { return plan.scratch(f32, {batch, 1, heads, key_dim * width(b, num_blocks)}); }
  /// Columns of block b: `state` itself if it is the only one.
  [[nodiscard]] Block take(const Block& state, int b, int num_blocks) const;
  /// The state whose blocks of columns these are: the only one itself.
  [[nodiscard]] Block join(std::span<const Block> blocks) const;

 private:
  [[nodiscard]] std::int64_t first(int b, int num_blocks) const { return b * value_dim / num_blocks; }
};

}  // namespace collectives
SEQCCL_END
