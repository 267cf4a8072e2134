// partition.cpp - the ways to deal tokens to ranks, and the way back from a position to its owner.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/partition.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "digest.hpp"

SEQCCL_BEGIN

namespace {

using Segments = std::vector<std::vector<Segment>>;

constexpr std::int64_t most_tokens = std::int64_t{1} << 56;  // positions may be added to mask bounds without overflow
constexpr std::int64_t most_marked_tokens = std::int64_t{1} << 26;

[[nodiscard]] Error refuse_partition(const std::string& why) { return {ErrorKind::argument, "Partition::" + why}; }

void check_sizes(const char* who, std::int64_t num_tokens, std::int64_t num_ranks) {
  if (num_tokens < 0 || num_tokens > most_tokens)
    throw refuse_partition(fmt::format("{}: num_tokens is {}, want 0 to 2^56", who, num_tokens));
  if (num_ranks < 1 || num_ranks > 1 << 30) throw refuse_partition(fmt::format("{}: num_ranks is {}, want 1 to 2^30", who, num_ranks));
}

void check_rank(const Partition& partition, const char* who, Rank rank) {
  if (rank < 0 || rank >= partition.num_ranks())
    throw refuse_partition(fmt::format("{}: rank is {}, want 0 to {}", who, rank, partition.num_ranks() - 1));
}

// floor(i N / parts), where i N itself may overflow.
[[nodiscard]] std::int64_t boundary(std::int64_t index, std::int64_t num_tokens, std::int64_t parts) noexcept {
  return index * (num_tokens / parts) + index * (num_tokens % parts) / parts;
}

[[nodiscard]] Segment chunk(std::int64_t index, std::int64_t num_tokens, std::int64_t parts) noexcept {
  const std::int64_t first = boundary(index, num_tokens, parts);
  return {first, boundary(index + 1, num_tokens, parts) - first, 1};
}

[[nodiscard]] Segments contiguous_segments(std::int64_t num_tokens, int num_ranks) {
  Segments result(num_ranks);
  for (int rank = 0; rank < num_ranks; ++rank) result[rank] = {chunk(rank, num_tokens, num_ranks)};
  return result;
}

[[nodiscard]] Segments zigzag_segments(std::int64_t num_tokens, int num_ranks) {
  Segments result(num_ranks);
  const std::int64_t parts = 2 * std::int64_t{num_ranks};
  for (int rank = 0; rank < num_ranks; ++rank) result[rank] = {chunk(rank, num_tokens, parts), chunk(parts - 1 - rank, num_tokens, parts)};
  return result;
}

[[nodiscard]] Segments striped_segments(std::int64_t num_tokens, int num_ranks) {
  Segments result(num_ranks);
  for (std::int64_t rank = 0; rank < num_ranks; ++rank)
    result[rank] = {{rank, rank < num_tokens ? (num_tokens - rank - 1) / num_ranks + 1 : 0, num_ranks}};
  return result;
}

// One form for equal lists: no empty segments, one token has step 1, what continues a segment belongs to it.
[[nodiscard]] std::vector<Segment> normalized(const std::vector<Segment>& segments) {
  std::vector<Segment> result;
  for (Segment segment : segments) {
    if (segment.count == 0) continue;
    if (segment.count == 1) segment.step = 1;
    if (!result.empty()) {
      Segment& last = result.back();
      if (last.step == segment.step && segment.first == last.last() + last.step) {
        last.count += segment.count;
        continue;
      }
    }
    result.push_back(segment);
  }
  return result;
}

void check_cover_by_sorting(std::vector<Segment> all, std::int64_t step) {
  std::sort(all.begin(), all.end(),
            [step](const Segment& a, const Segment& b) { return std::pair(a.first % step, a.first) < std::pair(b.first % step, b.first); });
  for (std::size_t i = 1; i < all.size(); ++i)
    if (all[i].first % step == all[i - 1].first % step && all[i].first <= all[i - 1].last())
      throw refuse_partition(fmt::format("from_segments: segments hold token {} twice, want every token once", all[i].first));
}

void check_cover_by_marking(const std::vector<Segment>& all, std::int64_t num_tokens) {
  std::vector<bool> seen(static_cast<std::size_t>(num_tokens));
  for (const Segment& segment : all)
    for (std::int64_t i = 0; i < segment.count; ++i) {
      if (seen[segment[i]])
        throw refuse_partition(fmt::format("from_segments: segments hold token {} twice, want every token once", segment[i]));
      seen[segment[i]] = true;
    }
}

// N tokens, all inside 0 .. N-1 and no two equal, are exactly the tokens 0 .. N-1.
void check_cover(const Segments& segments, std::int64_t num_tokens) {
  std::vector<Segment> all;
  std::int64_t total = 0, step = 0;
  bool one_step = true;
  for (std::size_t rank = 0; rank < segments.size(); ++rank)
    for (Segment segment : segments[rank]) {
      if (segment.count < 0 || segment.step < 1 || segment.first < 0)
        throw refuse_partition(
            fmt::format("from_segments: segments[{}] has {{first {}, count {}, step {}}}, want first >= 0, count >= 0, step >= 1", rank,
                        segment.first, segment.count, segment.step));
      if (segment.count == 0) continue;
      if (segment.first >= num_tokens || segment.count - 1 > (num_tokens - 1 - segment.first) / segment.step)
        throw refuse_partition(
            fmt::format("from_segments: segments[{}] has {{first {}, count {}, step {}}}, want tokens below num_tokens = {}", rank,
                        segment.first, segment.count, segment.step, num_tokens));
      total += segment.count;
      if (total > num_tokens)
        throw refuse_partition(fmt::format("from_segments: segments hold more than num_tokens = {} tokens", num_tokens));
      if (segment.count > 1) {
        one_step = one_step && (step == 0 || step == segment.step);
        step = segment.step;
      }
      all.push_back(segment);
    }
  if (total != num_tokens)
    throw refuse_partition(fmt::format("from_segments: segments hold {} tokens, want num_tokens = {}", total, num_tokens));
  if (one_step) return check_cover_by_sorting(std::move(all), std::max<std::int64_t>(step, 1));
  if (num_tokens > most_marked_tokens)
    throw refuse_partition(
        fmt::format("from_segments: segments mix steps over {} tokens, want one step, or at most 2^26 tokens", num_tokens));
  check_cover_by_marking(all, num_tokens);
}

}  // namespace

Partition::Partition(std::string kind, std::int64_t num_tokens, const Segments& segments)
    : kind_(std::move(kind)), num_tokens_(num_tokens) {
  tokens_on_.reserve(segments.size());
  first_segment_.reserve(segments.size() + 1);
  for (const auto& of_rank : segments) {
    std::int64_t tokens = 0;
    for (const Segment& segment : normalized(of_rank)) {
      segments_.push_back(segment);
      tokens += segment.count;
    }
    first_segment_.push_back(segments_.size());
    tokens_on_.push_back(tokens);
  }
}

Partition Partition::contiguous(std::int64_t num_tokens, int num_ranks) {
  check_sizes("contiguous", num_tokens, num_ranks);
  return {"contiguous", num_tokens, contiguous_segments(num_tokens, num_ranks)};
}

Partition Partition::zigzag(std::int64_t num_tokens, int num_ranks) {
  check_sizes("zigzag", num_tokens, num_ranks);
  return {"zigzag", num_tokens, zigzag_segments(num_tokens, num_ranks)};
}

Partition Partition::striped(std::int64_t num_tokens, int num_ranks) {
  check_sizes("striped", num_tokens, num_ranks);
  return {"striped", num_tokens, striped_segments(num_tokens, num_ranks)};
}

Partition Partition::uneven(std::span<const std::int64_t> tokens_per_rank) {
  if (tokens_per_rank.empty()) throw refuse_partition("uneven: tokens_per_rank has 0 entries, want one per rank");
  Segments segments;
  std::int64_t first = 0;
  for (std::size_t rank = 0; rank < tokens_per_rank.size(); ++rank) {
    const std::int64_t count = tokens_per_rank[rank];
    if (count < 0 || count > most_tokens - first)
      throw refuse_partition(fmt::format("uneven: tokens_per_rank[{}] is {}, want 0 or more, and at most 2^56 in all", rank, count));
    segments.push_back({{first, count, 1}});
    first += count;
  }
  return {"uneven", first, segments};
}

Partition Partition::from_segments(std::int64_t num_tokens, Segments segments) {
  if (segments.empty()) throw refuse_partition("from_segments: segments has 0 lists, want one per rank");
  check_sizes("from_segments", num_tokens, static_cast<std::int64_t>(segments.size()));
  check_cover(segments, num_tokens);
  return {"explicit", num_tokens, segments};
}

std::int64_t Partition::global_position(Rank rank, std::int64_t local) const {
  check_rank(*this, "global_position", rank);
  if (local < 0 || local >= tokens_on(rank))
    throw refuse_partition(fmt::format("global_position: local is {}, want 0 to {} on rank {}", local, tokens_on(rank) - 1, rank));
  std::int64_t rest = local;
  for (const Segment& segment : segments(rank)) {
    if (rest < segment.count) return segment[rest];
    rest -= segment.count;
  }
  throw Error(ErrorKind::internal, "Partition::global_position: segments are shorter than tokens_on");
}

Partition::Place Partition::place_of(std::int64_t position) const {
  if (position < 0 || position >= num_tokens_)
    throw refuse_partition(fmt::format("place_of: position is {}, want 0 to {}", position, num_tokens_ - 1));
  for (Rank rank = 0; rank < num_ranks(); ++rank) {
    std::int64_t local = 0;
    for (const Segment& segment : segments(rank)) {
      const std::int64_t distance = position - segment.first;
      if (distance >= 0 && position <= segment.last() && distance % segment.step == 0) return {rank, local + distance / segment.step};
      local += segment.count;
    }
  }
  throw Error(ErrorKind::internal, "Partition::place_of: nobody owns the position");
}

std::vector<std::int64_t> Partition::position_ids(Rank rank) const {
  check_rank(*this, "position_ids", rank);
  std::vector<std::int64_t> result;
  result.reserve(static_cast<std::size_t>(tokens_on(rank)));
  for (const Segment& segment : segments(rank))
    for (std::int64_t i = 0; i < segment.count; ++i) result.push_back(segment[i]);
  return result;
}

std::vector<Piece> Partition::pieces(Rank rank, Rows rows, std::int64_t row_offset) const {
  check_rank(*this, "pieces", rank);
  if (rows.first < 0 || rows.count < 0 || rows.first > tokens_on(rank) || rows.count > tokens_on(rank) - rows.first)
    throw refuse_partition(fmt::format("pieces: rows is {{first {}, count {}}}, want a part of the {} tokens of rank {}", rows.first,
                                       rows.count, tokens_on(rank), rank));
  std::vector<Piece> result;
  std::int64_t begin = 0;
  for (const Segment& segment : segments(rank)) {
    const std::int64_t first = std::max(rows.first, begin), end = std::min(rows.end(), begin + segment.count);
    if (first < end) {
      const std::int64_t step = end - first == 1 ? 1 : segment.step;
      result.push_back({first - rows.first + row_offset, {segment[first - begin], end - first, step}});
    }
    begin += segment.count;
  }
  return result;
}

bool Partition::has_contiguous_segments() const noexcept {
  return std::all_of(segments_.begin(), segments_.end(), [](const Segment& segment) { return segment.step == 1; });
}

std::string Partition::describe() const {
  if (num_ranks() == 0) return "contiguous over 0 ranks, 0 tokens";
  // Two makers can make the same partition, so the name comes from what it is.
  const Partition named[] = {{"contiguous", num_tokens_, contiguous_segments(num_tokens_, num_ranks())},
                             {"zigzag", num_tokens_, zigzag_segments(num_tokens_, num_ranks())},
                             {"striped", num_tokens_, striped_segments(num_tokens_, num_ranks())}};
  for (const Partition& candidate : named)
    if (*this == candidate) return fmt::format("{} over {} ranks, {} tokens", candidate.kind_, num_ranks(), num_tokens_);

  std::string list;
  for (Rank rank = 0; rank < num_ranks(); ++rank) {
    if (rank > 0) list += " | ";
    for (std::size_t i = 0; i < segments(rank).size(); ++i) {
      const Segment& segment = segments(rank)[i];
      fmt::format_to(std::back_inserter(list), "{}{}+{}", i == 0 ? "" : " ", segment.first, segment.count);
      if (segment.step != 1) fmt::format_to(std::back_inserter(list), "x{}", segment.step);
    }
  }
  std::int64_t end = 0;
  const bool in_order = std::all_of(segments_.begin(), segments_.end(), [&end](const Segment& segment) {
    const bool follows = segment.step == 1 && segment.first == end;
    end = segment.first + segment.count;
    return follows;
  });
  return fmt::format("{} over {} ranks, {} tokens: {}", in_order ? "uneven" : "explicit", num_ranks(), num_tokens_,
                     sequence::shorten(list));
}

SEQCCL_END
