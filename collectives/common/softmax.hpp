// softmax.hpp - what every softmax method begins and ends with: the layer's tensors, who needs which rows, attend and merge.
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

/// Scratch for `tokens` rows with the dtype, batch, heads and head sizes of `like`, without pieces.
[[nodiscard]] Block scratch_like(Recorder& plan, const Block& like, std::int64_t tokens);
[[nodiscard]] Keys scratch_like(Recorder& plan, const Keys& like, std::int64_t tokens);

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

/// The smallest run that holds all of `rows`.
[[nodiscard]] Rows hull(std::span<const Rows> rows);
/// Rows of `owner`'s keys, as one run, that some query of `reader` sees; empty if none.
[[nodiscard]] Rows key_need(const Partition& partition, const BoundMask& mask, Rank reader, Rank owner);
[[nodiscard]] inline bool covers(Rows outer, Rows inner) { return outer.first <= inner.first && inner.end() <= outer.end(); }
/// Pieces of a part of a block, with rows counted from the part's first row.
[[nodiscard]] std::vector<Piece> part_of(std::span<const Piece> pieces, Rows rows);

/// Softmax layer on one rank
/// =========================
///
/// Holds the recorder and the layer's own tensors. Sums that end in a 16-bit tensor are kept in f32 scratch; finish()
/// converts them.
class SoftmaxLayer {
 public:
  enum class Pass { forward, backward };
  /// Which results arrive complete and are written in the element type, instead of being summed in f32 first.
  struct Direct {
    bool queries = false, keys = false;  // out, dq / dk, dv
  };
  SoftmaxLayer(const char* name, Pass pass, const AttentionSpec& layer_spec, Rank my_rank, const RecordOptions& options, Direct direct);
  SoftmaxLayer(const char* name, Pass pass, const AttentionSpec& layer_spec, Rank my_rank, const RecordOptions& options)
      : SoftmaxLayer(name, pass, layer_spec, my_rank, options, Direct{}) {}

  const AttentionSpec& spec;
  const Rank rank;
  const int num_ranks;
  Recorder plan;
  BoundMask mask;
  HeadMap heads;  // of all heads

  Queries queries;         // mine
  Keys keys;               // mine
  Block sinks;             // absent without
  State state;             // forward: out and lse of my queries, being summed. backward: the finished ones
  Block dout, delta, dq;   // backward
  KeyGradients gradients;  // backward: of my keys

  [[nodiscard]] Rank left(int steps = 1) const { return ((rank - steps) % num_ranks + num_ranks) % num_ranks; }
  [[nodiscard]] Rank right(int steps = 1) const { return (rank + steps) % num_ranks; }
  [[nodiscard]] std::vector<Piece> pieces(Rank owner, Rows rows) const { return spec.partition.pieces(owner, rows); }
  [[nodiscard]] std::vector<Piece> pieces(Rank owner) const { return spec.partition.pieces(owner); }

  [[nodiscard]] Rows key_need(Rank reader, Rank owner) const { return collectives::key_need(spec.partition, mask, reader, owner); }
  /// Rows of `owner`'s queries, as one run, that see some key of `reader`.
  [[nodiscard]] Rows query_need(Rank reader, Rank owner) const;

  /// Scratch for up to `tokens` rows of keys / queries ...
  [[nodiscard]] Keys scratch_keys(std::int64_t tokens, std::int64_t num_heads);
  [[nodiscard]] State scratch_state(std::int64_t tokens, std::int64_t num_heads);
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
  /// Records gradients of one block pair. fresh flags overwrite; blocks without a visible pair are zeroed if fresh, else skipped.
  void attend_backward(const Queries& from, const QueryGradient& with, const Keys& over, const KeyGradients& into, const HeadMap& map,
                       bool fresh_dq, bool fresh_dkv, Rank about);

  /// Converts what was summed in scratch into the caller's tensors and ends the recording.
  [[nodiscard]] Schedule finish() &&;

 private:
  [[nodiscard]] Attend attend_op(const Queries& from, const Keys& over, const State& into, const HeadMap& map, bool fresh);
  [[nodiscard]] Block result(Tensor tensor, Recorder::Shape shape, bool direct);

  struct Conversion {
    Block from, to;
  };
  std::vector<Conversion> conversions_;
  std::vector<BandSlice> visible_;  // reused
};

}  // namespace collectives
SEQCCL_END
