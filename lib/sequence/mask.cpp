// mask.cpp - masks as intersections of terms, each of them a list of disjoint band slices.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/mask.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <numeric>
#include <utility>

#include "digest.hpp"
#include "slice_search.hpp"

SEQCCL_BEGIN

namespace {

using Slices = std::vector<BandSlice>;
using Lengths = std::vector<std::int64_t>;

[[nodiscard]] Error refuse(const std::string& why) { return {ErrorKind::argument, "Mask::" + why}; }

void check_lengths(const char* who, const Lengths& lengths) {
  for (std::size_t i = 0; i < lengths.size(); ++i)
    if (lengths[i] < 0) throw refuse(fmt::format("{}: lengths[{}] is {}, want 0 or more", who, i, lengths[i]));
}

// -1 on both sides of a window is no bound, the larger of all.
[[nodiscard]] std::int64_t tighter(std::int64_t a, std::int64_t b) noexcept { return a < 0 ? b : b < 0 ? a : std::min(a, b); }

[[nodiscard]] Slices intersect_lists(const Slices& a, const Slices& b) {
  const std::vector<std::int64_t> reach = sequence::query_reach(b);
  Slices result;
  for (const BandSlice& slice : a)
    sequence::for_slices_near(b, reach, slice.batch, slice.q_first, slice.q_first + slice.q_count, [&](const BandSlice& other) {
      const BandSlice both = intersect(slice, other);
      if (both.q_count > 0) result.push_back(both);
    });
  std::sort(result.begin(), result.end(), sequence::before);
  return result;
}

void append_documents(const Lengths& lengths, std::int64_t num_tokens, std::int64_t batch, Slices& result) {
  std::int64_t first = 0;
  for (const std::int64_t length : lengths) {
    if (length > num_tokens - first) {
      first = num_tokens + 1;
      break;
    }
    if (length > 0) result.push_back(tighten({first, length, first, length, -unbounded, unbounded, batch}));
    first += length;
  }
  if (first == num_tokens) return;
  const std::string row = batch < 0 ? "" : fmt::format(" of batch row {}", batch);
  const double sum =
      std::accumulate(lengths.begin(), lengths.end(), 0.0, [](double a, std::int64_t b) { return a + static_cast<double>(b); });
  throw refuse(fmt::format("bind: document lengths{} sum to {:.0f}, want num_tokens = {}", row, sum, num_tokens));
}

void check_disjoint(const Slices& slices) {
  const std::vector<std::int64_t> reach = sequence::query_reach(slices);
  for (const BandSlice& slice : slices)
    sequence::for_slices_near(slices, reach, slice.batch, slice.q_first, slice.q_first + slice.q_count, [&](const BandSlice& other) {
      if (&other == &slice) return;
      const BandSlice both = intersect(slice, other);
      if (both.q_count > 0)
        throw refuse(fmt::format("slices: slices share the pair (query {}, key {}), want disjoint ones", both.q_first,
                                 std::max(both.k_first, both.q_first + both.low)));
    });
}

[[nodiscard]] std::string bound(std::int64_t value) {
  return value <= -unbounded ? "-inf" : value >= unbounded ? "inf" : fmt::format("{}", value);
}

[[nodiscard]] std::string list_of(const std::vector<Lengths>& rows) {
  std::string text;
  for (std::size_t row = 0; row < rows.size(); ++row)
    fmt::format_to(std::back_inserter(text), "{}{}", row == 0 ? "" : "|", fmt::join(rows[row], ","));
  return text;
}

[[nodiscard]] std::string list_of(const Slices& slices) {
  std::string text;
  for (const BandSlice& slice : slices) {
    fmt::format_to(std::back_inserter(text), "{}q{}+{},k{}+{},{}..{}", text.empty() ? "" : "|", slice.q_first, slice.q_count, slice.k_first,
                   slice.k_count, bound(slice.low), bound(slice.high));
    if (slice.batch >= 0) fmt::format_to(std::back_inserter(text), ",b{}", slice.batch);
  }
  return text;
}

}  // namespace

Mask Mask::causal() {
  Mask mask;
  mask.terms_.push_back({});
  return mask;
}

Mask Mask::window(std::int64_t left, std::int64_t right) {
  if (left < -1) throw refuse(fmt::format("window: left is {}, want -1 (no bound) or more", left));
  if (right < -1) throw refuse(fmt::format("window: right is {}, want -1 (no bound) or more", right));
  if (left == -1 && right == -1) return full();
  Mask mask;
  mask.terms_.push_back({Term::Kind::window, left, right, {}, {}});
  return mask;
}

Mask Mask::prefix(std::int64_t length) {
  if (length < 0) throw refuse(fmt::format("prefix: length is {}, want 0 or more", length));
  if (length == 0) return causal();
  Mask mask;
  mask.terms_.push_back({Term::Kind::prefix, length, 0, {}, {}});
  return mask;
}

Mask Mask::documents(Lengths lengths) {
  check_lengths("documents", lengths);
  Mask mask;
  mask.terms_.push_back({Term::Kind::documents, 0, 0, {std::move(lengths)}, {}});
  return mask;
}

Mask Mask::documents_per_row(std::vector<Lengths> lengths) {
  if (lengths.empty()) throw refuse("documents_per_row: lengths has 0 rows, want one per batch row");
  for (const Lengths& row : lengths) check_lengths("documents_per_row", row);
  const auto rows = static_cast<std::int64_t>(lengths.size());
  Mask mask;
  mask.terms_.push_back({Term::Kind::documents, rows, 0, std::move(lengths), {}});
  return mask;
}

Mask Mask::slices(Slices slices) {
  for (std::size_t i = 0; i < slices.size(); ++i) {
    const BandSlice& slice = slices[i];
    const std::pair<const char*, std::int64_t> fields[] = {
        {"q_first", slice.q_first}, {"q_count", slice.q_count}, {"k_first", slice.k_first}, {"k_count", slice.k_count}};
    for (const auto& [field, value] : fields)
      if (value < 0) throw refuse(fmt::format("slices: slices[{}].{} is {}, want 0 or more", i, field, value));
    if (slice.q_first > unbounded) throw refuse(fmt::format("slices: slices[{}].q_first is {}, want a position", i, slice.q_first));
    if (slice.k_first > unbounded) throw refuse(fmt::format("slices: slices[{}].k_first is {}, want a position", i, slice.k_first));
    if (slice.batch < -1) throw refuse(fmt::format("slices: slices[{}].batch is {}, want -1 (all) or a batch row", i, slice.batch));
  }
  Mask mask;
  mask.terms_.push_back({Term::Kind::slices, 0, 0, {}, {}});
  Slices& kept = mask.terms_.back().slices;
  for (const BandSlice& slice : slices)
    if (const BandSlice tight = tighten(slice); tight.q_count > 0) kept.push_back(tight);
  std::sort(kept.begin(), kept.end(), sequence::before);
  check_disjoint(kept);
  return mask;
}

// Terms are kept in the order of their kinds, each once, windows and prefixes joined: `a & b` equals `b & a`.
Mask Mask::operator&(const Mask& other) const {
  Mask mask = *this;
  for (const Term& term : other.terms_) {
    const auto same_kind = [&term](const Term& mine) { return mine.kind == term.kind; };
    const auto mine = std::find_if(mask.terms_.begin(), mask.terms_.end(), same_kind);
    if (mine != mask.terms_.end() && term.kind == Term::Kind::window) {
      mine->left = tighter(mine->left, term.left);
      mine->right = tighter(mine->right, term.right);
    } else if (mine != mask.terms_.end() && term.kind == Term::Kind::prefix) {
      mine->left = std::min(mine->left, term.left);
    } else if (std::find(mask.terms_.begin(), mask.terms_.end(), term) == mask.terms_.end()) {
      mask.terms_.push_back(term);
    }
  }
  std::sort(mask.terms_.begin(), mask.terms_.end(), [](const Term& a, const Term& b) {
    if (a.kind != b.kind) return a.kind < b.kind;
    if (a.left != b.left) return a.left < b.left;
    if (a.lengths != b.lengths) return a.lengths < b.lengths;
    return std::lexicographical_compare(a.slices.begin(), a.slices.end(), b.slices.begin(), b.slices.end(),
                                        [](const BandSlice& x, const BandSlice& y) {
                                          return std::tie(x.batch, x.q_first, x.k_first, x.low, x.high, x.q_count, x.k_count) <
                                                 std::tie(y.batch, y.q_first, y.k_first, y.low, y.high, y.q_count, y.k_count);
                                        });
  });
  return mask;
}

Slices Mask::bind(std::int64_t num_tokens, std::int64_t batch) const {
  constexpr std::int64_t most_tokens = std::int64_t{1} << 56;
  if (num_tokens < 0 || num_tokens > most_tokens) throw refuse(fmt::format("bind: num_tokens is {}, want 0 to 2^56", num_tokens));
  if (batch < 0) throw refuse(fmt::format("bind: batch is {}, want 0 or more", batch));
  const BandSlice everything = tighten({0, num_tokens, 0, num_tokens});

  const auto slices_of = [&](const Term& term) {
    Slices result;
    const auto add = [&result](const BandSlice& slice) {
      if (slice.q_count > 0) result.push_back(slice);
    };
    switch (term.kind) {
      case Term::Kind::causal:
        add(tighten({0, num_tokens, 0, num_tokens, -unbounded, 0}));
        break;
      case Term::Kind::window:
        add(tighten({0, num_tokens, 0, num_tokens, term.left < 0 ? -unbounded : -term.left, term.right < 0 ? unbounded : term.right}));
        break;
      case Term::Kind::prefix: {
        const std::int64_t length = std::min(term.left, num_tokens);
        add(tighten({0, num_tokens, 0, length}));
        add(tighten({0, num_tokens, length, num_tokens - length, -unbounded, 0}));
        break;
      }
      case Term::Kind::documents: {
        if (term.left != 0 && term.left != batch)
          throw refuse(fmt::format("bind: documents_per_row has {} rows of lengths, want batch = {}", term.left, batch));
        const bool all_equal =
            std::all_of(term.lengths.begin(), term.lengths.end(), [&](const Lengths& row) { return row == term.lengths[0]; });
        for (std::size_t row = 0; row < (all_equal ? 1 : term.lengths.size()); ++row)
          append_documents(term.lengths[row], num_tokens, all_equal ? -1 : static_cast<std::int64_t>(row), result);
        break;
      }
      case Term::Kind::slices:
        for (const BandSlice& slice : term.slices) {
          if (slice.batch >= batch) throw refuse(fmt::format("bind: a slice has batch {}, want below batch = {}", slice.batch, batch));
          add(intersect(slice, everything));
        }
        break;
    }
    std::sort(result.begin(), result.end(), sequence::before);
    return result;
  };

  if (terms_.empty()) return everything.q_count > 0 ? Slices{everything} : Slices{};
  Slices result = slices_of(terms_[0]);
  for (std::size_t i = 1; i < terms_.size(); ++i) result = intersect_lists(result, slices_of(terms_[i]));
  return result;
}

std::string Mask::describe_fully() const {
  if (terms_.empty()) return "full";
  std::string text;
  for (const Term& term : terms_) {
    if (!text.empty()) text += "+";
    switch (term.kind) {
      case Term::Kind::causal:
        text += "causal";
        break;
      case Term::Kind::window:
        text += fmt::format("window:{},{}", term.left, term.right);
        break;
      case Term::Kind::prefix:
        text += fmt::format("prefix:{}", term.left);
        break;
      case Term::Kind::documents:
        text += (term.left != 0 ? "documents_per_row:" : "documents:") + list_of(term.lengths);
        break;
      case Term::Kind::slices:
        text += "slices:" + list_of(term.slices);
        break;
    }
  }
  return text;
}

std::string Mask::describe() const {
  if (terms_.empty()) return "full";
  std::string text;
  for (const Term& term : terms_) {
    Mask one;
    one.terms_ = {term};
    text += (text.empty() ? "" : "+") + sequence::shorten(one.describe_fully());
  }
  return text;
}

SEQCCL_END
