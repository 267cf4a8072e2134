// symbolic.hpp - what memory holds while a schedule is followed by name: which rows are which tokens, summed over which pairs.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "seqccl/mask.hpp"
#include "seqccl/ops.hpp"

SEQCCL_BEGIN
namespace checker {

/// Pairs of a sequence of 2^40 tokens, times heads and batch, exactly.
__extension__ typedef __int128 Count;

/// Tokens that are in both. Steps may differ.
[[nodiscard]] Segment intersect(const Segment& a, const Segment& b);
/// The same tokens in the same order; one token has any step.
[[nodiscard]] bool equal(const Segment& a, const Segment& b) noexcept;
/// Pairs of a band slice whose query is one of `queries`, exactly.
[[nodiscard]] Count count_pairs(const BandSlice& slice, const Segment& queries);
[[nodiscard]] inline Count count_pairs(const BandSlice& slice) { return count_pairs(slice, {slice.q_first, slice.q_count, 1}); }
/// Keys for queries.
[[nodiscard]] BandSlice transposed(const BandSlice& slice) noexcept;

// --- Sums ---------------------------------------------------------------------------------------------------------------

/// Something that was added: all visible pairs of `queries` and `keys` for some query heads, one sink per query, or (for sums
/// over tokens alone) the queries themselves.
struct Contribution {
  enum class Kind : std::uint8_t { pairs, sink, tokens } kind = Kind::pairs;
  Segment queries{}, keys{};
  std::int64_t head_first = 0, num_heads = 0;  // global query heads
  Count pairs = 0;                             // visible, of one head, over the whole batch
};

/// A multiset of contributions. 0 is the empty one. Equal histories give equal ids.
using SumId = std::uint32_t;

class Sums {
 public:
  Sums() : nodes_(1) {}
  [[nodiscard]] SumId of(const Contribution& contribution);
  [[nodiscard]] SumId add(SumId a, SumId b);
  /// False if there are too many to list: something is added to itself over and over.
  [[nodiscard]] bool list(SumId sum, std::vector<Contribution>& result) const;

 private:
  struct Node {  // a leaf has left == 0
    SumId left = 0, right = 0;
    std::uint32_t leaf = 0;
    std::uint64_t size = 0;
  };
  std::vector<Node> nodes_;
  std::vector<Contribution> leaves_;
  std::unordered_map<std::uint64_t, SumId> known_;
};

// --- Contents of memory ---------------------------------------------------------------------------------------------------

enum class What : std::uint8_t {
  zero,
  user,  // cleared; written by the caller's own function
  q,
  k,
  v,
  dout,
  out,
  lse,
  delta,
  dq,
  dk,
  dv,  // a row is a token
  log_decay,
  dlog_decay,
  beta,
  dbeta,
  local_out,  // a row is a token; local_out lacks the entering state
  sinks,
  dsinks,
  constant_decay,
  dconstant_decay,
  bonus,
  dbonus,  // no tokens
  state,
  gradient,
  log_sum,
  transition,
  transposed,  // a row is a run of tokens, `tokens`; what the run does to a state, and to a gradient
};
[[nodiscard]] const char* name(What what) noexcept;
[[nodiscard]] constexpr bool row_is_token(What what) noexcept { return what >= What::q && what <= What::local_out; }

/// A box of rows and heads with one name.
struct Fragment {
  Rows rows{};                                 // of the slot, or of the block that it was read from
  std::int64_t head_first = 0, num_heads = 0;  // likewise
  What what = What::user;
  Segment tokens{};            // row i is tokens[i] if a row is a token
  std::int64_t head = 0;       // global head of the first
  SumId sum = 0;               // out, lse, dq, dk, dv, dsinks, dconstant_decay, dbonus, states that are sums: what went in
  bool complete = false;       // a finished result, not a sum in progress; a state: includes the initial one
  std::int64_t run_first = 0;  // local_out: first token of its run
  std::int64_t column_first = 0, num_columns = 0;  // a state: some of its columns; none: all of them
};
[[nodiscard]] bool same_rows_and_heads(const Fragment& a, const Fragment& b) noexcept;
/// Same tokens, global heads and columns, for fragments of equal extents.
[[nodiscard]] bool same_name(const Fragment& a, const Fragment& b) noexcept;
/// "k of tokens 0 .. 1023, heads 0 .. 7"
[[nodiscard]] std::string describe(const Fragment& fragment);
[[nodiscard]] std::string describe(const Segment& tokens);

/// The part of a fragment in a box; zero rows if there is none.
[[nodiscard]] Fragment clip(const Fragment& fragment, Rows rows, std::int64_t head_first, std::int64_t num_heads);

/// What one slot holds: disjoint fragments.
class Contents {
 public:
  /// Overwrites `block` with fragments in rows and heads of the block.
  void write(const Block& block, std::span<const Fragment> fragments);
  /// What `block` holds, in rows and heads of the block, sorted by head, then row.
  [[nodiscard]] std::vector<Fragment> read(const Block& block) const;

 private:
  std::vector<Fragment> fragments_;
  std::vector<Fragment> kept_;  // reused by write
};

/// True if the fragments lie in a block of these extents and leave no gap.
[[nodiscard]] bool fills(std::span<const Fragment> fragments, std::int64_t num_tokens, std::int64_t num_heads);

/// Calls visit(i, part of a[i], j, part of b[j]) for all overlaps of two lists of disjoint fragments of one box.
template <class Visit>
void for_each_overlap(std::span<const Fragment> a, std::span<const Fragment> b, Visit&& visit) {
  const auto meet = [&](std::size_t i, std::size_t j) {
    if (same_rows_and_heads(a[i], b[j])) return visit(i, a[i], j, b[j]);
    const Fragment part = clip(a[i], b[j].rows, b[j].head_first, b[j].num_heads);
    if (part.rows.count != 0) visit(i, part, j, clip(b[j], part.rows, part.head_first, part.num_heads));
  };
  bool alike = a.size() == b.size();
  for (std::size_t i = 0; alike && i < a.size(); ++i) alike = same_rows_and_heads(a[i], b[i]);
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (alike)
      meet(i, i);
    else
      for (std::size_t j = 0; j < b.size(); ++j) meet(i, j);
  }
}

}  // namespace checker
SEQCCL_END
