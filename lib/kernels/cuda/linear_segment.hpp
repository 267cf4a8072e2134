// linear_segment.hpp - a run of tokens cut into segments, each with room for its chunks, and the launches that segments are made of.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>

#include "linear_problem.hpp"

SEQCCL_BEGIN
namespace cuda {

/// Gives out device memory piece by piece; without memory it only counts.
class Scratch {
 public:
  Scratch() = default;
  explicit Scratch(void* memory) : memory_(static_cast<std::byte*>(memory)) {}
  template <class T = float>
  [[nodiscard]] T* take(std::int64_t count) {
    std::byte* const piece = memory_ == nullptr ? nullptr : memory_ + used_;
    used_ += (static_cast<std::size_t>(count) * sizeof(T) + 255) / 256 * 256;
    return reinterpret_cast<T*>(piece);
  }
  [[nodiscard]] std::size_t used() const noexcept { return used_; }

 private:
  std::byte* memory_ = nullptr;
  std::size_t used_ = 0;
};

/// (B, T, H) of a run, Dk, Dv and the width of its decay.
struct LinearSizes {
  std::int64_t batch = 0, tokens = 0, heads = 0, key_dim = 0, value_dim = 0, width = 0;
  [[nodiscard]] std::int64_t num_chunks() const { return (tokens + chunk_tokens - 1) / chunk_tokens; }
  [[nodiscard]] std::int64_t num_runs() const { return batch * heads; }
  [[nodiscard]] std::int64_t state_floats() const { return num_runs() * key_dim * value_dim; }
};

/// Bytes for a segment of so many chunks.
using SegmentBytes = std::function<std::size_t(std::int64_t num_chunks)>;
[[nodiscard]] WorkspaceNeed workspace_need(const LinearSizes& sizes, const SegmentBytes& bytes);
/// The most chunks, in segments of equal size, that fit. @throws Error(argument) if not even the least does
[[nodiscard]] std::int64_t segment_chunks(const char* who, const LinearSizes& sizes, const SegmentBytes& bytes, DeviceMemory workspace);

/// Tables of decays of a segment's chunks; those that nobody asks for are absent.
struct DecayTables {
  enum Which : unsigned { queries_bit = 1, keys_bit = 2, total_bit = 4, ratio_bit = 8, log_total_bit = 16, carry_bit = 32 };
  DecayTables(Scratch& scratch, const LinearSizes& sizes, std::int64_t num_chunks, unsigned which);
  float *queries = nullptr, *keys = nullptr, *total = nullptr, *ratio = nullptr;
  double *log_total = nullptr, *carry = nullptr;
};

/// One segment: its matrices, and launches of which each throws in CUDA's words if it fails.
class LinearSegment {
 public:
  LinearSegment(const char* who, const LinearSizes& sizes, std::int64_t num_chunks, std::int64_t index, Stream stream);

  [[nodiscard]] std::int64_t num_items() const { return segment_.num_items(); }
  [[nodiscard]] bool is_first() const { return first_ == 0; }
  [[nodiscard]] bool is_last() const { return first_ + segment_.tokens >= sizes_.tokens; }

  /// Rows of tokens of a (B, T, H, D) view.
  [[nodiscard]] ChunkMatrix tokens(const ConstTensorView& x, float scale = 1) const;
  /// Rows of tokens, (C, C) pairs, and states in scratch.
  [[nodiscard]] ChunkMatrix rows(const float* x, std::int64_t size) const;
  [[nodiscard]] ChunkMatrix pairs(const float* x) const;
  [[nodiscard]] ChunkMatrix states(const float* x, std::int64_t num_rows, std::int64_t num_columns) const;
  /// The same state for all chunks: (B, H, Dk, Dv) with strides, or (B H, Dk, Dv) in scratch.
  [[nodiscard]] static ChunkMatrix state(const ConstTensorView& x);
  [[nodiscard]] ChunkMatrix state(const float* x, std::int64_t num_rows, std::int64_t num_columns) const;
  /// x with factors (items, C, W); x itself where nothing decays.
  [[nodiscard]] ChunkMatrix decayed(ChunkMatrix x, const float* factor) const;

  /// Makes the tables that are there.
  void make(const DecayTables& tables, const ConstTensorView& log_decay, bool before) const;
  /// sums (B H, W) += log_total over the segment; carry, if it is there, what was before each chunk.
  void scan(const double* values, std::int64_t width, double* carry, double* sums) const;

  struct Options {
    const float* factor = nullptr;
    std::int64_t factor_width = 0;
    Triangle triangle = Triangle::all;
    bool accumulate = false;
    ChunkMatrix plus{};
  };
  void product(std::initializer_list<ProductTerm> terms, const ChunkMatrix& out, const Options& options) const;
  void product(std::initializer_list<ProductTerm> terms, const ChunkMatrix& out) const { product(terms, out, Options{}); }
  /// A launch of another kind, with the segment filled in.
  template <class Problem>
  void launch(int (*launcher)(const Problem&, Stream), Problem problem) const {
    static_cast<Segment&>(problem) = segment_;
    require(launcher(problem, stream_));
  }
  /// A run's log_decay and the tables made of it.
  struct Decays {
    const DecayTables& tables;
    const ConstTensorView& log_decay;
    bool before = false;
  };
  /// pairs_ti = sum_d x_td k_id r(t,i)_d for i <= t; with `strict`, or before, i < t.
  struct Scores {
    ChunkMatrix x;
    float* pairs;
    bool strict = false;
  };
  void scores(const Decays& decays, const ChunkMatrix& k, std::initializer_list<Scores> all) const;
  /// weights_ti = sign a_t . b_i for i < t as add_pairs wants them; `raw`, if there, of a scalar gate without r(t,i).
  void weigh_pairs(const Decays& decays, const ProductTerm& a_b, float* weights, float* raw) const;
  /// rows_t += sum_(i<t) weights_ti r(t,i) k_i    and    columns_i += sum_(t>i) weights_ti r(t,i) x_t.
  void add_pairs(const Decays& decays, const float* weights, const ChunkMatrix& k, const ChunkMatrix& x, float* rows, float* columns) const;
  /// to_r = row r of a times row r of b.
  void dots(const ChunkMatrix& a, const ChunkMatrix& b, const ChunkMatrix& to) const;

  [[nodiscard]] DecayProblem decay_problem(const ConstTensorView& log_decay, bool before) const;
  void zero(void* data, std::size_t num_bytes) const;

 private:
  void require(int error) const;

  const char* who_;
  const LinearSizes& sizes_;
  Segment segment_;
  std::int64_t first_;  // token
  Stream stream_;
};

}  // namespace cuda
SEQCCL_END
