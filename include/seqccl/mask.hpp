// mask.hpp - which key a query may see, as a short list of band slices: never an object of size N x N.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "seqccl/partition.hpp"

SEQCCL_BEGIN

/// "No bound on this side": far beyond any position, and safe to add positions to.
inline constexpr std::int64_t unbounded = std::numeric_limits<std::int64_t>::max() / 4;

/// Band slice
/// ==========
///
///            keys: k_first ..... k_first + k_count
///     queries   \ \ \ \ . . .         query i sees key j if both are in the rectangle and
///     q_first   . \ \ \ \ . .             low <= j - i <= high
///        ...    . . \ \ \ \ .
///
/// i and j are global positions in a Mask, and rows of the operands in an attend op. batch: the batch row it is for, -1 all.
struct BandSlice {
  std::int64_t q_first = 0, q_count = 0;
  std::int64_t k_first = 0, k_count = 0;
  std::int64_t low = -unbounded, high = unbounded;
  std::int64_t batch = -1;

  bool operator==(const BandSlice&) const = default;
};

/// The smallest equal slice: no empty row or column at the rim, bounds no wider than the rectangle needs. An empty slice
/// becomes BandSlice{} with its batch. Equal sets of pairs in the same rectangle give equal slices.
[[nodiscard]] BandSlice tighten(const BandSlice& slice);

/// Number of (query, key) pairs in the slice, in closed form (valid for lengths far beyond memory).
[[nodiscard]] double num_pairs(const BandSlice& slice);

/// The pairs of `slice` that are visible under `other` too.
[[nodiscard]] BandSlice intersect(const BandSlice& slice, const BandSlice& other);

/// Attention mask over N global positions
/// =======================================
///
/// full          every pair                       prefix(n)      k < n, or k <= q
/// causal        k <= q                           documents      q and k in the same document
/// window(l, r)  q - l <= k <= q + r              slices         the given band slices (disjoint)
///
/// Masks intersect with `&`: `Mask::causal() & Mask::documents({100, 200})`. Documents may differ per batch row.
class Mask {
 public:
  Mask() = default;  ///< full

  [[nodiscard]] static Mask full() { return {}; }
  [[nodiscard]] static Mask causal();
  /// Keys from `left` before to `right` after the query; -1 means no bound. @throws Error(argument) if below -1
  [[nodiscard]] static Mask window(std::int64_t left, std::int64_t right);
  [[nodiscard]] static Mask prefix(std::int64_t length);
  /// Packed sequences: lengths must sum to N (checked when bound to N); zeros are allowed.
  [[nodiscard]] static Mask documents(std::vector<std::int64_t> lengths);
  /// One list of lengths per batch row.
  [[nodiscard]] static Mask documents_per_row(std::vector<std::vector<std::int64_t>> lengths);
  /// Explicit slices in global positions. @throws Error(argument) if two of one batch row share a pair, or a bound is negative
  [[nodiscard]] static Mask slices(std::vector<BandSlice> slices);

  [[nodiscard]] Mask operator&(const Mask& other) const;

  /// All visible pairs of a sequence of `num_tokens` as disjoint tight slices in global positions, sorted by (batch, q_first, k_first).
  /// @throws Error(argument) if document lengths do not sum to num_tokens or there are not `batch` rows of them
  [[nodiscard]] std::vector<BandSlice> bind(std::int64_t num_tokens, std::int64_t batch) const;

  /// "causal", "causal+window:128,0"; equal masks have equal texts. Long lists are shortened with a hash.
  [[nodiscard]] std::string describe() const;
  /// The whole list, for fingerprints.
  [[nodiscard]] std::string describe_fully() const;

  bool operator==(const Mask&) const = default;

 private:
  struct Term {
    enum class Kind { causal, window, prefix, documents, slices } kind = Kind::causal;
    std::int64_t left = 0, right = 0;                  // window; prefix length, or rows that documents_per_row wants, in `left`
    std::vector<std::vector<std::int64_t>> lengths{};  // documents: one row for all, or one per batch row
    std::vector<BandSlice> slices{};
    bool operator==(const Term&) const = default;
  };
  std::vector<Term> terms_;  // intersection of all; none: full
};

/// A mask bound to a sequence, indexed so that a block of queries finds its slices quickly.
class BoundMask {
 public:
  BoundMask() = default;
  BoundMask(const Mask& mask, std::int64_t num_tokens, std::int64_t batch);

  [[nodiscard]] std::span<const BandSlice> slices() const noexcept { return slices_; }

  /// The visible pairs between two blocks, in rows of the blocks: a disjoint list of tight slices, sorted.
  [[nodiscard]] std::vector<BandSlice> between(std::span<const Piece> queries, std::span<const Piece> keys) const;
  /// Appends to `result` instead; the recorder's hot path.
  void between(std::span<const Piece> queries, std::span<const Piece> keys, std::vector<BandSlice>& result) const;

  /// Rows of `keys` that at least one of `queries` sees (any batch row): sorted, disjoint, merged.
  [[nodiscard]] std::vector<Rows> visible_keys(std::span<const Piece> queries, std::span<const Piece> keys) const;
  /// Rows of `queries` that see at least one of `keys`.
  [[nodiscard]] std::vector<Rows> seeing_queries(std::span<const Piece> queries, std::span<const Piece> keys) const;

  /// Visible (query, key) pairs of the whole sequence, summed over the batch.
  [[nodiscard]] double num_pairs() const;

 private:
  std::vector<BandSlice> slices_;
  std::vector<std::int64_t> query_reach_;  // per slice: largest query end so far in its batch row
  std::int64_t batch_ = 1;
};

SEQCCL_END
