// coverage_pairs.cpp - finds the tokens and heads that meet in an attend and holds its slices and head map against them.
// SPDX-License-Identifier: Apache-2.0
#include "coverage_pairs.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>
#include <utility>

SEQCCL_BEGIN
namespace checker {

namespace {

auto order_of(const BandSlice& slice) { return std::tie(slice.batch, slice.q_first, slice.k_first, slice.low); }
bool before(const BandSlice& a, const BandSlice& b) { return order_of(a) < order_of(b); }

/// Rows [row, row + count) of one operand with one name, and the fragments that they come from.
struct Part {
  Piece piece;
  std::int64_t head = 0;  // global head of the first head of the cell
  std::vector<std::size_t> fragments{};
};

/// The fragments that reach into heads [first, first + count), sorted by row; runs of tokens that go on are one part.
std::vector<Part> parts_in(std::span<const Fragment> fragments, std::int64_t first, std::int64_t count) {
  std::vector<Part> parts;
  for (std::size_t i = 0; i < fragments.size(); ++i) {
    const Fragment& fragment = fragments[i];
    if (fragment.head_first >= first + count || fragment.head_first + fragment.num_heads <= first) continue;
    parts.push_back({{fragment.rows.first, fragment.tokens}, fragment.head + first - fragment.head_first, {i}});
  }
  std::sort(parts.begin(), parts.end(), [](const Part& a, const Part& b) { return a.piece.row < b.piece.row; });
  std::size_t last = 0;
  for (std::size_t i = 1; i < parts.size(); ++i) {
    Segment &tokens = parts[last].piece.tokens, &more = parts[i].piece.tokens;
    const bool goes_on = (tokens.step == 1 || tokens.count == 1) && (more.step == 1 || more.count == 1) &&
                         tokens.first + tokens.count == more.first && parts[last].head == parts[i].head;
    if (goes_on) {
      tokens = {tokens.first, tokens.count + more.count, 1};
      parts[last].fragments.push_back(parts[i].fragments.front());
    } else if (++last != i) {
      parts[last] = std::move(parts[i]);
    }
  }
  if (!parts.empty()) parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(last) + 1, parts.end());
  return parts;
}

std::int64_t row_end(const Part& part) { return part.piece.row + part.piece.tokens.count; }

class Cells {
 public:
  Cells(Coverage& run, Pairs& pairs, const Block& q, const Block& k, SliceRange slices, const HeadMap& map)
      : run_(run), pairs_(pairs), q_(q), k_(k), slices_(run.schedule->slices_of(slices)), map_(map) {}

  void follow() {
    const std::vector<std::int64_t> cuts = head_cuts();
    for (std::size_t i = 0; i + 1 < cuts.size(); ++i) follow_cell(cuts[i], cuts[i + 1] - cuts[i]);
  }

 private:
  void problem(const std::string& what) {
    run_.problem(what);
    pairs_.is_right = false;
  }

  /// Query heads at which a fragment of q, or of the k that it uses, begins or ends.
  [[nodiscard]] std::vector<std::int64_t> head_cuts() const {
    std::vector<std::int64_t> cuts{0, q_.num_heads};
    const auto cut = [&](std::int64_t head) {
      if (head > 0 && head < q_.num_heads) cuts.push_back(head);
    };
    for (const Fragment& fragment : pairs_.q) cut(fragment.head_first), cut(fragment.head_first + fragment.num_heads);
    for (const Fragment& fragment : pairs_.k)
      for (const std::int64_t head : {fragment.head_first, fragment.head_first + fragment.num_heads})
        cut((head + map_.first_kv) * map_.group - map_.first_q);
    std::sort(cuts.begin(), cuts.end());
    cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
    return cuts;
  }

  /// Query heads [first, first + count), in which all fragments go through.
  void follow_cell(std::int64_t first, std::int64_t count) {
    const auto kv_head = [&](std::int64_t head) { return std::int64_t{map_.kv_head(static_cast<std::int32_t>(head))}; };
    const std::int64_t first_kv = kv_head(first), num_kv = kv_head(first + count - 1) - first_kv + 1;
    if (map_.first_q + first < 0 || first_kv < 0 || first_kv + num_kv > k_.num_heads)
      return problem(fmt::format("its head map sends query heads [{}, +{}) to key heads [{}, +{}) of {}", first, count, first_kv, num_kv,
                                 k_.num_heads));
    const std::vector<Part> queries = parts_in(pairs_.q, first, count), keys = parts_in(pairs_.k, first_kv, num_kv);
    for (const Part& q : queries) {
      if (&q != &queries.front() && q.head == queries.front().head) continue;
      for (const Part& k : keys) {
        if (&k != &keys.front() && k.head == keys.front().head) continue;
        for (std::int64_t i = 0; i < count; ++i)
          if (const std::int64_t want = (q.head + i) / run_.group(), got = k.head + kv_head(first + i) - first_kv; want != got)
            return problem(fmt::format("its head map pairs query head {} with key head {}, want {}", q.head + i, got, want));
      }
    }
    if (!sort_slices(queries, keys)) return;
    auto given = given_.begin();
    for (std::size_t i = 0; i < queries.size(); ++i) {
      for (std::size_t j = 0; j < keys.size(); ++j) {
        slices_here_.clear();
        for (; given != given_.end() && given->first == std::pair(i, j); ++given) slices_here_.push_back(given->second);
        if (!follow_parts(queries[i], keys[j], count)) return;
      }
    }
  }

  /// The op's slices, cut at the borders of the parts: (query part, key part) -> slices, in `given_`.
  bool sort_slices(std::span<const Part> queries, std::span<const Part> keys) {
    given_.clear();
    const auto first_reaching = [](std::span<const Part> parts, std::int64_t row) {
      return std::partition_point(parts.begin(), parts.end(), [row](const Part& part) { return row_end(part) <= row; }) - parts.begin();
    };
    for (const BandSlice& slice : slices_) {
      if (slice.q_first < 0 || slice.q_first + slice.q_count > q_.num_tokens || slice.k_first < 0 ||
          slice.k_first + slice.k_count > k_.num_tokens || slice.batch < -1 || slice.batch >= run_.claim.batch) {
        problem(fmt::format("a slice of queries [{}, +{}), keys [{}, +{}), batch {} lies outside of its operands", slice.q_first,
                            slice.q_count, slice.k_first, slice.k_count, slice.batch));
        return false;
      }
      const auto first_k = static_cast<std::size_t>(first_reaching(keys, slice.k_first));
      for (auto i = static_cast<std::size_t>(first_reaching(queries, slice.q_first));
           i < queries.size() && queries[i].piece.row < slice.q_first + slice.q_count; ++i) {
        for (std::size_t j = first_k; j < keys.size() && keys[j].piece.row < slice.k_first + slice.k_count; ++j) {
          const BandSlice part = seqccl::intersect(slice, {queries[i].piece.row, queries[i].piece.tokens.count, keys[j].piece.row,
                                                           keys[j].piece.tokens.count, -unbounded, unbounded, slice.batch});
          if (part.q_count > 0) given_.push_back({{i, j}, part});
        }
      }
    }
    std::sort(given_.begin(), given_.end(),
              [](const auto& a, const auto& b) { return std::pair(a.first, order_of(a.second)) < std::pair(b.first, order_of(b.second)); });
    return true;
  }

  bool follow_parts(const Part& q, const Part& k, std::int64_t num_heads) {
    visible_.clear();
    run_.mask.between(std::span(&q.piece, 1), std::span(&k.piece, 1), visible_);
    if (visible_.empty() && slices_here_.empty()) return true;
    if (visible_ != slices_here_ && !same_pairs(slices_here_, visible_)) {
      problem(fmt::format("its slices are not what the mask says between q of {} and k of {}, which it finds", describe(q.piece.tokens),
                          describe(k.piece.tokens)));
      return false;
    }
    Count pairs = 0;
    for (const BandSlice& slice : visible_) pairs += count_pairs(slice) * (slice.batch < 0 ? run_.claim.batch : 1);
    const SumId sum = run_.sums.of({Contribution::Kind::pairs, q.piece.tokens, k.piece.tokens, q.head, num_heads, pairs});
    for (const std::size_t i : q.fragments) pairs_.of_q[i] = run_.sums.add(pairs_.of_q[i], sum);
    for (const std::size_t i : k.fragments) pairs_.of_k[i] = run_.sums.add(pairs_.of_k[i], sum);
    return true;
  }

  Coverage& run_;
  Pairs& pairs_;
  const Block &q_, &k_;
  std::span<const BandSlice> slices_;
  const HeadMap& map_;
  std::vector<std::pair<std::pair<std::size_t, std::size_t>, BandSlice>> given_;
  std::vector<BandSlice> visible_, slices_here_;
};

}  // namespace

bool same_pairs(std::vector<BandSlice> a, std::vector<BandSlice> b) {
  std::sort(a.begin(), a.end(), before);
  std::sort(b.begin(), b.end(), before);
  if (a == b) return true;
  // Other slices, same pairs? |a| = |b| = |a and b|, and neither holds a pair twice.
  Count in_a = 0, in_b = 0, in_both = 0;
  for (const BandSlice& slice : a) in_a += count_pairs(slice);
  for (const BandSlice& slice : b) in_b += count_pairs(slice);
  const auto shared = [](const BandSlice& x, const BandSlice& y) {
    return x.batch == y.batch ? count_pairs(seqccl::intersect(x, y)) : Count{0};
  };
  for (const BandSlice& x : a)
    for (const BandSlice& y : b) in_both += shared(x, y);
  for (std::size_t i = 0; i < a.size(); ++i)
    for (std::size_t j = 0; j < i; ++j)
      if (shared(a[i], a[j]) != 0) return false;
  return in_a == in_b && in_a == in_both;
}

Pairs follow_pairs(Coverage& run, const Block& q, const Block& k, const Block& v, SliceRange slices, const HeadMap& map) {
  Pairs pairs;
  pairs.q = run.read(q, "q", What::q);
  pairs.k = run.read(k, "k", What::k);
  const std::vector<Fragment> values = run.read(v, "v", What::v);
  if (k.num_tokens != v.num_tokens || k.num_heads != v.num_heads) {
    run.problem(fmt::format("its k has {} tokens x {} heads, its v {} x {}", k.num_tokens, k.num_heads, v.num_tokens, v.num_heads));
    pairs.is_right = false;
  }
  for_each_overlap(pairs.k, values, [&](std::size_t, const Fragment& key, std::size_t, const Fragment& value) {
    if (same_name(key, value) || !pairs.is_right) return;
    run.problem(fmt::format("its k is {}, its v {}", describe(key), describe(value)));
    pairs.is_right = false;
  });
  const auto is_unread = [](const Block& block, const std::vector<Fragment>& names) { return !block.empty() && names.empty(); };
  if (is_unread(q, pairs.q) || is_unread(k, pairs.k) || is_unread(v, values)) pairs.is_right = false;
  pairs.of_q.resize(pairs.q.size());
  pairs.of_k.resize(pairs.k.size());
  if (pairs.is_right && !q.empty() && !k.empty()) Cells(run, pairs, q, k, slices, map).follow();
  return pairs;
}

}  // namespace checker
SEQCCL_END
