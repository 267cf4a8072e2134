// all_gather.cpp - every rank's string to every rank, through a store: rank 0 puts together, and says so if somebody is missing.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <optional>

#include "limits.hpp"
#include "seqccl/bootstrap.hpp"
#include "socket.hpp"
#include "wire.hpp"

SEQCCL_BEGIN

using namespace bootstrap;

namespace {

constexpr std::size_t max_group_bytes = 64;
constexpr std::size_t room_for_header_bytes = 64;
constexpr std::size_t max_ranks_named = 16;
// How long an end waits for what is already on its way.
constexpr auto courtesy = std::chrono::seconds(1);

/// "rank 2 of 8 has", "ranks 2, 5 of 8 have".
std::string ranks_have(const std::vector<Rank>& ranks, int num_ranks) {
  std::string list;
  for (std::size_t i = 0; i < std::min(ranks.size(), max_ranks_named); ++i) list += fmt::format("{}{}", i == 0 ? "" : ", ", ranks[i]);
  if (ranks.size() > max_ranks_named) list += fmt::format(" and {} more", ranks.size() - max_ranks_named);
  const bool one = ranks.size() == 1;
  return fmt::format("{} {} of {} {}", one ? "rank" : "ranks", list, num_ranks, one ? "has" : "have");
}

/// Takes numbers and strings from a text that another rank has made.
class Reader {
 public:
  explicit Reader(std::string_view text) : rest_(text) {}
  std::string_view bytes(std::size_t count) {
    if (count > rest_.size()) throw Error(ErrorKind::internal, "bootstrap: the result of rank 0 is cut off");
    const std::string_view taken = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return taken;
  }
  std::uint64_t number(int num_bytes) { return read_number(bytes(static_cast<std::size_t>(num_bytes))); }
  std::string string() {
    const std::size_t length = number(4);
    return std::string(bytes(length));
  }

 private:
  std::string_view rest_;
};

/// What rank 0 tells the others at the end of a round: all strings, or what went wrong.
///
///     num_ranks 4 | failed 1 | num_ranks times: length 4, string
///                            | kind 1, length 4, text, num_culprits 4, culprits 4 each
struct Outcome {
  int num_ranks = 0;
  std::vector<std::string> values;
  std::optional<Error> error;
};

std::string encode(const Outcome& outcome) {
  std::string text;
  append_number(text, static_cast<std::uint64_t>(outcome.num_ranks), 4);
  append_number(text, outcome.error ? 1 : 0, 1);
  const auto append_string = [&](std::string_view string) {
    append_number(text, string.size(), 4);
    text += string;
  };
  for (const std::string& value : outcome.values) append_string(value);
  if (!outcome.error) return text;
  append_number(text, static_cast<std::uint64_t>(outcome.error->kind()), 1);
  append_string(outcome.error->what());
  append_number(text, outcome.error->culprits().size(), 4);
  for (const Rank culprit : outcome.error->culprits()) append_number(text, static_cast<std::uint64_t>(culprit), 4);
  return text;
}

Outcome decode(std::string_view text) {
  Reader reader(text);
  Outcome outcome{.num_ranks = static_cast<int>(reader.number(4)), .values = {}, .error = {}};
  if (reader.number(1) == 0) {
    for (int rank = 0; rank < outcome.num_ranks; ++rank) outcome.values.push_back(reader.string());
    return outcome;
  }
  const auto kind = static_cast<ErrorKind>(std::min<std::uint64_t>(reader.number(1), static_cast<std::uint64_t>(ErrorKind::internal)));
  const std::string what = reader.string();
  std::vector<Rank> culprits;
  for (std::uint64_t left = reader.number(4); left > 0; --left) culprits.push_back(static_cast<Rank>(reader.number(4)));
  outcome.error = Error(kind, what, std::move(culprits));
  return outcome;
}

class GatherThroughStore {
 public:
  GatherThroughStore(Store& store, Rank rank, int num_ranks, std::chrono::nanoseconds timeout, std::string group)
      : store_(&store), rank_(rank), num_ranks_(num_ranks), timeout_(timeout), group_(std::move(group)) {}

  std::vector<std::string> operator()(std::string_view mine) {
    if (failed_) throw Error(*failed_);
    if (mine.size() > max_store_value_bytes - room_for_header_bytes)
      throw Error(ErrorKind::argument, fmt::format("all_gather: mine has {} bytes, want at most {}", mine.size(),
                                                   max_store_value_bytes - room_for_header_bytes));
    try {
      std::vector<std::string> values = run(mine);
      ++round_;
      return values;
    } catch (const Error& error) {
      failed_ = error;
      throw;
    }
  }

 private:
  std::vector<std::string> run(std::string_view mine) {
    const auto deadline = Clock::now() + timeout_;
    std::string own;
    append_number(own, static_cast<std::uint64_t>(num_ranks_), 4);
    own += mine;
    store_->put(key("in", rank_), own);
    return rank_ == 0 ? lead(deadline) : follow(deadline);
  }

  /// Rank 0: takes what the others have put, tells them the outcome, and waits until they have it.
  std::vector<std::string> lead(Store::Deadline deadline) {
    Outcome outcome{.num_ranks = num_ranks_, .values = {}, .error = {}};
    std::vector<Rank> arrived, missing, differing;
    std::string opinions;
    for (Rank rank = 0; rank < num_ranks_; ++rank) {
      const auto value = store_->get(key("in", rank), deadline);
      if (!value) {
        missing.push_back(rank);
        continue;
      }
      if (rank != 0) arrived.push_back(rank);
      Reader reader(*value);
      const auto num_ranks = static_cast<int>(reader.number(4));
      outcome.values.emplace_back(value->substr(4));
      if (num_ranks == num_ranks_) continue;
      differing.push_back(rank);
      if (differing.size() <= max_ranks_named) opinions += fmt::format(", rank {} says {}", rank, num_ranks);
      // Those that are still missing may be so because of this: no need to wait for them.
      deadline = std::min(deadline, Clock::now() + courtesy);
    }
    if (!differing.empty())
      outcome.error =
          Error(ErrorKind::mismatched,
                fmt::format("bootstrap: ranks disagree on how many there are: rank 0 says {}{} (round {})", num_ranks_, opinions, round_),
                std::move(differing));
    else if (!missing.empty())
      outcome.error = absent(missing);
    if (outcome.error) outcome.values.clear();
    publish(encode(outcome));

    const auto end = outcome.error ? Clock::now() + courtesy : std::max(deadline, Clock::now() + courtesy);
    std::vector<Rank> lost;
    for (const Rank rank : arrived)
      if (!store_->get(key("seen", rank), end)) lost.push_back(rank);
    if (!outcome.error && !lost.empty())
      outcome.error = Error(ErrorKind::stalled,
                            fmt::format("bootstrap: {} arrived, but not taken the result after {} (round {}); waited at {}",
                                        ranks_have(lost, num_ranks_), duration_text(timeout_), round_, store_->place()),
                            lost);
    if (outcome.error) throw Error(*outcome.error);
    return std::move(outcome.values);
  }

  std::vector<std::string> follow(Store::Deadline deadline) {
    auto piece = store_->get(key("all", 0), deadline);
    if (!piece) {
      if (const auto error = who_is_missing()) throw Error(*error);
      // All are here: rank 0 began later than this rank, and its word may be on the way.
      piece = store_->get(key("all", 0), Clock::now() + courtesy);
      if (!piece)
        throw Error(ErrorKind::stalled,
                    fmt::format("bootstrap: rank 0 of {} has arrived, but not answered after {} (round {}); waited at {}", num_ranks_,
                                duration_text(timeout_), round_, store_->place()),
                    {0});
    }
    const std::size_t num_bytes = Reader(*piece).number(8);
    std::string text = piece->substr(8);
    for (int i = 1; text.size() < num_bytes; ++i) {
      // They are put right after the first.
      const auto next = store_->get(key("all", i), std::max(deadline, Clock::now() + courtesy));
      if (!next || next->empty()) throw Error(ErrorKind::dead, "bootstrap: rank 0 has gone in the middle of its answer", {0});
      text += *next;
    }
    store_->put(key("seen", rank_), {});
    Outcome outcome = decode(text);
    if (outcome.error) throw Error(*outcome.error);
    if (outcome.num_ranks != num_ranks_)
      throw Error(ErrorKind::mismatched,
                  fmt::format("bootstrap: ranks disagree on how many there are: rank 0 says {}, rank {} says {} (round {})",
                              outcome.num_ranks, rank_, num_ranks_, round_),
                  {rank_});
    return std::move(outcome.values);
  }

  /// In pieces that a store takes; the first says how long the whole is.
  void publish(const std::string& text) {
    std::string first;
    append_number(first, text.size(), 8);
    std::size_t begin = std::min(text.size(), max_store_value_bytes - first.size());
    first += text.substr(0, begin);
    store_->put(key("all", 0), first);
    for (int i = 1; begin < text.size(); ++i, begin += max_store_value_bytes)
      store_->put(key("all", i), std::string_view(text).substr(begin, max_store_value_bytes));
  }

  std::optional<Error> who_is_missing() {
    std::vector<Rank> missing;
    for (Rank rank = 0; rank < num_ranks_; ++rank)
      if (!store_->get(key("in", rank), Clock::now())) missing.push_back(rank);
    if (missing.empty()) return std::nullopt;
    return absent(missing);
  }

  [[nodiscard]] Error absent(const std::vector<Rank>& missing) const {
    return {ErrorKind::stalled,
            fmt::format("bootstrap: {} not arrived after {} (round {}); waited at {}", ranks_have(missing, num_ranks_),
                        duration_text(timeout_), round_, store_->place()),
            missing};
  }

  [[nodiscard]] std::string key(const char* what, int number) const { return fmt::format("{}/{}/{}/{}", group_, round_, what, number); }

  Store* store_;
  Rank rank_;
  int num_ranks_;
  std::chrono::nanoseconds timeout_;
  std::string group_;
  std::uint64_t round_ = 0;
  std::optional<Error> failed_;
};

}  // namespace

AllGather store_all_gather(Store& store, Rank rank, int num_ranks, std::chrono::nanoseconds timeout, std::string group) {
  require_ranks(rank, num_ranks);
  require_timeout(timeout);
  if (group.empty() || group.size() > max_group_bytes)
    throw Error(ErrorKind::argument, fmt::format("store_all_gather: group has {} bytes, want 1 to {}", group.size(), max_group_bytes));
  return GatherThroughStore(store, rank, num_ranks, timeout, std::move(group));
}

SEQCCL_END
