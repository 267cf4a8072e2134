// symbolic.cpp - arithmetic of segments, multisets of contributions, and memory as disjoint named boxes.
// SPDX-License-Identifier: Apache-2.0
#include "symbolic.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <tuple>

SEQCCL_BEGIN
namespace checker {

namespace {

std::int64_t modulo(std::int64_t value, std::int64_t by) noexcept { return (value % by + by) % by; }

/// x with a x = 1 (mod m), for coprime a and m.
std::int64_t inverse(std::int64_t a, std::int64_t m) {
  std::int64_t r0 = m, r1 = modulo(a, m), x0 = 0, x1 = 1;
  while (r1 != 0) {
    const std::int64_t quotient = r0 / r1;
    std::tie(r0, r1) = std::pair(r1, r0 - quotient * r1);
    std::tie(x0, x1) = std::pair(x1, x0 - quotient * x1);
  }
  return m == 1 ? 0 : modulo(x0, m);
}

}  // namespace

// Chinese remainders: x = a.first (mod a.step), x = b.first (mod b.step) has a solution modulo the least common multiple iff the
// difference of the firsts is a multiple of the greatest common divisor.
Segment intersect(const Segment& a, const Segment& b) {
  if (a.count == 0 || b.count == 0) return {};
  const std::int64_t first = std::max(a.first, b.first), last = std::min(a.last(), b.last());
  if (first > last) return {};
  if (a.step == 1 && b.step == 1) return {first, last - first + 1, 1};
  const std::int64_t divisor = std::gcd(a.step, b.step), distance = b.first - a.first;
  if (distance % divisor != 0) return {};
  const std::int64_t other = b.step / divisor;
  const auto turns = static_cast<std::int64_t>(Count{modulo(distance / divisor, other)} * inverse(a.step / divisor, other) % other);
  const Count common = Count{a.step} * other, start = Count{a.first} + Count{a.step} * turns;
  const Count begin = start + (Count{first} - start + (start < first ? common - 1 : 0)) / common * common;  // smallest >= first
  if (begin > last) return {};
  const auto count = static_cast<std::int64_t>((last - begin) / common + 1);
  return {static_cast<std::int64_t>(begin), count, count == 1 ? 1 : static_cast<std::int64_t>(common)};
}

bool equal(const Segment& a, const Segment& b) noexcept {
  return a.count == b.count && (a.count == 0 || a.first == b.first) && (a.count <= 1 || a.step == b.step);
}

// Query i sees min(k_last, i + high) - max(k_first, i + low) + 1 keys. That is positive exactly for k_first - high <= i <=
// k_last - low, and linear between the points where a minimum or maximum changes sides: at most three arithmetic series.
Count count_pairs(const BandSlice& slice, const Segment& queries) {
  if (slice.q_count <= 0 || slice.k_count <= 0 || slice.low > slice.high || queries.count == 0) return 0;
  const std::int64_t k_first = slice.k_first, k_last = slice.k_first + std::min(slice.k_count, unbounded) - 1;
  const std::int64_t q_last = slice.q_first + std::min(slice.q_count, unbounded) - 1;
  const auto index_from = [&](std::int64_t position) {  // first index of `queries` at or after position
    return position <= queries.first ? 0 : std::min(queries.count, (position - queries.first + queries.step - 1) / queries.step);
  };
  std::int64_t begin = index_from(std::max(slice.q_first, k_first - slice.high));
  const std::int64_t end = index_from(std::min(q_last, k_last - slice.low) + 1);
  const auto keys_of = [&](std::int64_t index) {
    const std::int64_t i = queries[index];
    return Count{std::min(k_last, i + slice.high) - std::max(k_first, i + slice.low) + 1};
  };
  const std::int64_t turn_high = index_from(k_last - slice.high), turn_low = index_from(k_first - slice.low);
  Count pairs = 0;
  for (const std::int64_t turn : {std::min(turn_high, turn_low), std::max(turn_high, turn_low), end}) {
    const std::int64_t stop = std::min(turn, end);
    if (begin >= stop) continue;
    pairs += Count{stop - begin} * (keys_of(begin) + keys_of(stop - 1)) / 2;
    begin = stop;
  }
  return pairs;
}

BandSlice transposed(const BandSlice& slice) noexcept {
  return {slice.k_first, slice.k_count, slice.q_first, slice.q_count, -slice.high, -slice.low, slice.batch};
}

// --- Sums ---------------------------------------------------------------------------------------------------------------

SumId Sums::of(const Contribution& contribution) {
  nodes_.push_back({0, 0, static_cast<std::uint32_t>(leaves_.size()), 1});
  leaves_.push_back(contribution);
  return static_cast<SumId>(nodes_.size() - 1);
}

SumId Sums::add(SumId a, SumId b) {
  if (a == 0 || b == 0) return a + b;
  const auto [known, is_new] = known_.try_emplace(std::uint64_t{a} << 32 | b, static_cast<SumId>(nodes_.size()));
  if (is_new) nodes_.push_back({a, b, 0, nodes_[a].size + nodes_[b].size});
  return known->second;
}

bool Sums::list(SumId sum, std::vector<Contribution>& result) const {
  constexpr std::uint64_t most = std::uint64_t{1} << 20;
  result.clear();
  if (nodes_[sum].size > most) return false;
  std::vector<SumId> open{sum};
  while (!open.empty()) {
    const Node& node = nodes_[open.back()];
    open.pop_back();
    if (node.size == 0) continue;
    if (node.left == 0) {
      result.push_back(leaves_[node.leaf]);
    } else {
      open.push_back(node.right);
      open.push_back(node.left);
    }
  }
  return true;
}

// --- Contents of memory ---------------------------------------------------------------------------------------------------

const char* name(What what) noexcept {
  constexpr const char* names[] = {"zero",
                                   "the caller's data",
                                   "q",
                                   "k",
                                   "v",
                                   "dout",
                                   "out",
                                   "lse",
                                   "delta",
                                   "dq",
                                   "dk",
                                   "dv",
                                   "log_decay",
                                   "dlog_decay",
                                   "beta",
                                   "dbeta",
                                   "out without entering state",
                                   "sinks",
                                   "dsinks",
                                   "constant log_decay",
                                   "constant dlog_decay",
                                   "bonus",
                                   "dbonus",
                                   "state",
                                   "state gradient",
                                   "log_sum",
                                   "transition",
                                   "transposed transition"};
  static_assert(std::size(names) == static_cast<std::size_t>(What::transposed) + 1);
  return names[static_cast<int>(what)];
}

std::string describe(const Segment& tokens) {
  if (tokens.count == 0) return fmt::format("no token (before {})", tokens.first);
  if (tokens.count == 1) return fmt::format("token {}", tokens.first);
  return fmt::format("tokens {} .. {}{}", tokens.first, tokens.last(), tokens.step == 1 ? "" : fmt::format(" step {}", tokens.step));
}

std::string describe(const Fragment& fragment) {
  if (fragment.what == What::zero || fragment.what == What::user) return name(fragment.what);
  std::string text = name(fragment.what);
  if (fragment.num_columns != 0)
    text += fmt::format(", columns {} .. {},", fragment.column_first, fragment.column_first + fragment.num_columns - 1);
  if (row_is_token(fragment.what) || fragment.what >= What::state) text += " of " + describe(fragment.tokens);
  const std::int64_t last = fragment.head + fragment.num_heads - 1;
  return text + (last == fragment.head ? fmt::format(", head {}", last) : fmt::format(", heads {} .. {}", fragment.head, last));
}

bool same_rows_and_heads(const Fragment& a, const Fragment& b) noexcept {
  return a.rows == b.rows && a.head_first == b.head_first && a.num_heads == b.num_heads;
}

bool same_name(const Fragment& a, const Fragment& b) noexcept {
  return a.head == b.head && equal(a.tokens, b.tokens) && a.column_first == b.column_first && a.num_columns == b.num_columns;
}

Fragment clip(const Fragment& fragment, Rows rows, std::int64_t head_first, std::int64_t num_heads) {
  const std::int64_t row = std::max(fragment.rows.first, rows.first), row_end = std::min(fragment.rows.end(), rows.end());
  const std::int64_t head = std::max(fragment.head_first, head_first);
  const std::int64_t head_end = std::min(fragment.head_first + fragment.num_heads, head_first + num_heads);
  Fragment part = fragment;
  if (row >= row_end || head >= head_end) {
    part.rows.count = 0;
    return part;
  }
  part.rows = {row, row_end - row};
  part.head_first = head;
  part.num_heads = head_end - head;
  part.head += head - fragment.head_first;
  if (row_is_token(fragment.what)) part.tokens = {fragment.tokens[row - fragment.rows.first], part.rows.count, fragment.tokens.step};
  return part;
}

void Contents::write(const Block& block, std::span<const Fragment> fragments) {
  const Rows rows{block.token_first, block.num_tokens};
  const std::int64_t head = block.head_first, head_end = head + block.num_heads;
  kept_.clear();
  const auto keep = [&](const Fragment& part) {
    if (part.rows.count != 0) kept_.push_back(part);
  };
  for (const Fragment& old : fragments_) {
    const Fragment lost = clip(old, rows, head, block.num_heads);
    if (lost.rows.count == 0) {
      kept_.push_back(old);
      continue;
    }
    // Above, below, and in the same rows the heads before and after.
    const std::int64_t old_head_end = old.head_first + old.num_heads;
    keep(clip(old, {old.rows.first, rows.first - old.rows.first}, old.head_first, old.num_heads));
    keep(clip(old, {rows.end(), old.rows.end() - rows.end()}, old.head_first, old.num_heads));
    keep(clip(old, lost.rows, old.head_first, head - old.head_first));
    keep(clip(old, lost.rows, head_end, old_head_end - head_end));
  }
  for (Fragment fragment : fragments) {
    fragment.rows.first += rows.first;
    fragment.head_first += head;
    keep(fragment);
  }
  fragments_.swap(kept_);
}

std::vector<Fragment> Contents::read(const Block& block) const {
  std::vector<Fragment> result;
  for (const Fragment& fragment : fragments_) {
    Fragment part = clip(fragment, {block.token_first, block.num_tokens}, block.head_first, block.num_heads);
    if (part.rows.count == 0) continue;
    part.rows.first -= block.token_first;
    part.head_first -= block.head_first;
    result.push_back(part);
  }
  std::sort(result.begin(), result.end(), [](const Fragment& a, const Fragment& b) {
    return std::tie(a.head_first, a.rows.first) < std::tie(b.head_first, b.rows.first);
  });
  return result;
}

bool fills(std::span<const Fragment> fragments, std::int64_t num_tokens, std::int64_t num_heads) {
  Count area = 0;
  for (const Fragment& fragment : fragments) {
    if (fragment.rows.end() > num_tokens || fragment.head_first + fragment.num_heads > num_heads) return false;
    area += Count{fragment.rows.count} * fragment.num_heads;
  }
  return area == Count{num_tokens} * num_heads;
}

}  // namespace checker
SEQCCL_END
