// softmax.hpp - what every softmax method works on: tensors of the ranks of a group, who needs which rows, attend and its gradient.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <vector>

#include "seqccl/collectives.hpp"

SEQCCL_BEGIN
namespace collectives {

/// Rows of keys and values with the tokens that they are.
struct Keys {
  Block k, v;  // (B, Tk, Hkv, Dk) (B, Tk, Hkv, Dv)
  std::vector<Piece> pieces;
  /// Rows [rows.first, rows.end()) only.
  [[nodiscard]] Keys part(Rows rows) const;
};

/// Scratch for `tokens` rows with the dtype, batch, heads and head size of `like`.
[[nodiscard]] Block scratch_like(Recorder& plan, const Block& like, std::int64_t tokens);

/// Rows of queries. In a backward pass dout, lse, delta and dq have the same rows.
struct Queries {
  Block q;
  std::vector<Piece> pieces;
};

/// A partial or running result: f32 out and its lse.
struct State {
  Block out, lse;
};

/// Gradients of a block of keys, f32.
struct KeyGradients {
  Block dk, dv;
  [[nodiscard]] KeyGradients part(Rows rows) const { return {dk.tokens(rows.first, rows.count), dv.tokens(rows.first, rows.count)}; }
};

/// A part of the heads: query heads, and the key heads that they use. Counted from the layer's first.
struct HeadGroup {
  Rows queries, keys;
  [[nodiscard]] Block of_queries(const Block& block) const { return part(block, queries); }
  [[nodiscard]] Block of_keys(const Block& block) const { return part(block, keys); }
  [[nodiscard]] KeyGradients of(const KeyGradients& gradients) const { return {of_keys(gradients.dk), of_keys(gradients.dv)}; }

 private:
  [[nodiscard]] static Block part(const Block& block, Rows heads) {
    return block.present() ? block.heads(static_cast<std::int32_t>(heads.first), static_cast<std::int32_t>(heads.count)) : block;
  }
};

/// 0, 1, ..., num_ranks - 1.
[[nodiscard]] std::vector<Rank> all_ranks(int num_ranks);
/// The smallest run that holds all of `rows`.
[[nodiscard]] Rows hull(std::span<const Rows> rows);
/// Rows of `owner`'s keys, as one run, that some query of `reader` sees; empty if none.
[[nodiscard]] Rows key_need(const Partition& partition, const BoundMask& mask, Rank reader, Rank owner);
[[nodiscard]] inline bool covers(Rows outer, Rows inner) { return outer.first <= inner.first && inner.end() <= outer.end(); }
/// Pieces of a part of a block, with rows counted from the part's first row.
[[nodiscard]] std::vector<Piece> part_of(std::span<const Piece> pieces, Rows rows);

enum class Pass { forward, backward };

/// Softmax layer on one rank of a group
/// ====================================
///
/// What the body of a method sees: its rank in the group that it runs over, the partition over that group, its tensors, and results
/// that are sums in f32. Without a mesh the group is all ranks; with one the tensors have been through a head swap.
class SoftmaxLayer {
 public:
  const AttentionSpec& spec;  // of the whole: scale, softcap, dtype, kernel
  Recorder& plan;
  const BoundMask& mask;
  const Partition partition;  // over the ranks of the group
  const Rank rank;
  const int num_ranks;
  const int outer, inner;  // rings of rings: num_ranks = outer * inner
  HeadMap heads;           // of all heads here
  std::int64_t q_heads = 0, kv_heads = 0;
  int num_head_groups = 1;          // that the body may work in
  bool native_collectives = false;  // RecordOptions

  Queries queries;         // mine
  Keys keys;               // mine
  Block sinks;             // of all query heads of the model; absent without
  State state;             // forward: out and lse of my queries, being summed. backward: the finished ones
  Block dout, delta, dq;   // backward
  KeyGradients gradients;  // backward: of my keys

  /// `rank`: in the group, of which `partition` is. The body records in that group.
  SoftmaxLayer(Recorder& plan, const AttentionSpec& spec, const BoundMask& mask, Partition partition, Rank rank, const Mesh& mesh);

  [[nodiscard]] Rank left(int steps = 1) const { return ((rank - steps) % num_ranks + num_ranks) % num_ranks; }
  [[nodiscard]] Rank right(int steps = 1) const { return (rank + steps) % num_ranks; }

  [[nodiscard]] Rows key_need(Rank reader, Rank owner) const { return collectives::key_need(partition, mask, reader, owner); }
  /// Rows of `owner`'s queries, as one run, that see some key of `reader`.
  [[nodiscard]] Rows query_need(Rank reader, Rank owner) const;

  /// `count` groups of heads (fewer if there are fewer key heads), cut between key heads.
  [[nodiscard]] std::vector<HeadGroup> head_groups(int count) const;
  [[nodiscard]] HeadGroup all_heads() const { return {{0, q_heads}, {0, kv_heads}}; }
  [[nodiscard]] HeadMap map_of(const HeadGroup& group) const;

  /// Scratch for `tokens` rows of partial results, and of gradients.
  [[nodiscard]] State scratch_state(std::int64_t tokens);
  [[nodiscard]] KeyGradients scratch_gradients(std::int64_t tokens, std::int64_t num_heads);
  [[nodiscard]] Block scratch_f32(std::int64_t tokens, std::int64_t num_heads, std::int64_t dim);

  /// Records attention of `from` over `over` into `into`. fresh: overwrite all of `into`, even if no pair is visible.
  void attend(const Queries& from, const Keys& over, const State& into, const HeadMap& map, bool fresh, Rank about);
  /// The same with all heads.
  void attend(const Queries& from, const Keys& over, const State& into, bool fresh, Rank about) {
    attend(from, over, into, heads, fresh, about);
  }
  /// Attention of a part of the queries over a part of the keys into `into`, which is overwritten and knows no sinks: the owner's
  /// own result has them.
  void attend_partial(const Queries& from, const Keys& over, const State& into, Rank about);

  struct QueryGradient {
    Block dout, lse, delta, dq;
  };
  [[nodiscard]] QueryGradient query_gradient() const { return {dout, state.lse, delta, dq}; }
  /// Records gradients of one block pair. fresh flags overwrite; blocks without a visible pair are zeroed if fresh, else skipped.
  void attend_backward(const Queries& from, const QueryGradient& with, const Keys& over, const KeyGradients& into, const HeadMap& map,
                       bool fresh_dq, bool fresh_dkv, Rank about);
  void attend_backward(const Queries& from, const QueryGradient& with, const Keys& over, const KeyGradients& into, bool fresh_dq,
                       bool fresh_dkv, Rank about) {
    attend_backward(from, with, over, into, heads, fresh_dq, fresh_dkv, about);
  }

 private:
  [[nodiscard]] Attend attend_op(const Queries& from, const Keys& over, const State& into, const HeadMap& map, bool fresh);

  std::vector<BandSlice> visible_;  // reused
};

/// The straight-line part of a method, over the ranks of a group.
using Body = void (*)(SoftmaxLayer& layer);

/// Records a whole pass: the caller's tensors, the head swap of a mesh around `body`, and what is summed in f32 converted to the element
/// type. `mesh` as spec.mesh, or what the method makes of it.
[[nodiscard]] Schedule record_softmax(const char* name, Pass pass, Body body, const AttentionSpec& spec, const Mesh& mesh, Rank rank,
                                      const RecordOptions& options);
/// With the spec's mesh, without one flat.
[[nodiscard]] Schedule record_softmax(const char* name, Pass pass, Body body, const AttentionSpec& spec, Rank rank,
                                      const RecordOptions& options);

}  // namespace collectives
SEQCCL_END
