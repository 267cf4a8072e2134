// all_gather.cpp - every rank's string to every rank, through a store: rank 0 puts together, and says so if somebody is missing.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <optional>

#include "last_word.hpp"
#include "limits.hpp"
#include "outcome.hpp"
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
// How long rank 0, which keeps the store, stays for those who have not come yet, if it cannot go on itself.
constexpr auto last_stay = std::chrono::seconds(2);
// From look to look whether the rank that is waited for is gone.
constexpr auto look_interval = std::chrono::milliseconds(100);

/// "rank 2 of 8 has", "ranks 2, 5 of 8 have".
std::string ranks_have(const std::vector<Rank>& ranks, int num_ranks) {
  std::string list;
  for (std::size_t i = 0; i < std::min(ranks.size(), max_ranks_named); ++i) list += fmt::format("{}{}", i == 0 ? "" : ", ", ranks[i]);
  if (ranks.size() > max_ranks_named) list += fmt::format(" and {} more", ranks.size() - max_ranks_named);
  const bool one = ranks.size() == 1;
  return fmt::format("{} {} of {} {}", one ? "rank" : "ranks", list, num_ranks, one ? "has" : "have");
}

std::string gone_key(const std::string& group, Rank rank) { return fmt::format("{}/gone/{}", group, rank); }
std::string round_key(const std::string& group, std::uint64_t round, const char* what, int number) {
  return fmt::format("{}/{}/{}/{}", group, round, what, number);
}

/// False if the key has been put before.
bool put_if_new(Store& store, const std::string& key, std::string_view value) {
  try {
    store.put(key, value);
    return true;
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::mismatched) return false;
    throw;
  }
}

class GatherThroughStore {
 public:
  GatherThroughStore(Store& store, Rank rank, int num_ranks, std::chrono::nanoseconds timeout, std::string group)
      : store_(&store), rank_(rank), num_ranks_(num_ranks), timeout_(timeout), group_(std::move(group)) {
    store_->leave_behind(gone_key(group_, rank_), {});
  }

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
    std::vector<Rank> arrived, missing, gone, differing;
    std::string opinions;
    is_settled_ = is_told_ = false;
    for (Rank rank = 0; rank < num_ranks_; ++rank) {
      const Heard heard = hear("in", rank, deadline);
      if (is_told_) break;
      if (!heard.value) {
        (heard.is_gone ? gone : missing).push_back(rank);
        // Those that are still missing may be so because of this: no need to wait for them.
        if (heard.is_gone) deadline = std::min(deadline, Clock::now() + courtesy);
        continue;
      }
      if (rank != 0) arrived.push_back(rank);
      const auto num_ranks = static_cast<int>(leading_number(*heard.value, 4));
      outcome.values.emplace_back(heard.value->substr(4));
      if (num_ranks == num_ranks_) continue;
      differing.push_back(rank);
      if (differing.size() <= max_ranks_named) opinions += fmt::format(", rank {} says {}", rank, num_ranks);
      deadline = std::min(deadline, Clock::now() + courtesy);
    }
    if (!differing.empty())
      outcome.error =
          Error(ErrorKind::mismatched,
                fmt::format("bootstrap: ranks disagree on how many there are: rank 0 says {}{} (round {})", num_ranks_, opinions, round_),
                std::move(differing));
    else if (!gone.empty())
      outcome.error = Error(ErrorKind::dead,
                            fmt::format("bootstrap: {} left or ended instead of coming (round {}); waited at {}",
                                        ranks_have(gone, num_ranks_), round_, store_->place()),
                            gone);
    else if (!missing.empty())
      outcome.error = absent(missing);
    if (outcome.error) outcome.values.clear();
    if (!is_told_) publish(encode(outcome));
    if (is_told_) {
      outcome = told_outcome();
      arrived.clear();  // who has not come yet shall hear it, too
      for (Rank rank = 1; rank < num_ranks_; ++rank) arrived.push_back(rank);
    }
    const auto end = outcome.error ? Clock::now() + courtesy : std::max(deadline, Clock::now() + courtesy);
    std::vector<Rank> lost;
    for (const Rank rank : arrived) {
      const Heard heard = hear("seen", rank, end);
      if (!heard.value && !heard.is_gone) lost.push_back(rank);  // one that is gone needs it no more; who meets it next will see
    }
    if (!outcome.error && !lost.empty())
      outcome.error = Error(ErrorKind::stalled,
                            fmt::format("bootstrap: {} arrived, but not taken the result after {} (round {}); waited at {}",
                                        ranks_have(lost, num_ranks_), duration_text(timeout_), round_, store_->place()),
                            lost);
    if (outcome.error) throw Error(*outcome.error);
    return std::move(outcome.values);
  }

  struct Heard {
    std::optional<std::string> value;
    bool is_gone = false;  // it has ended, or has left the store, without this
  };
  /// What a rank puts, until the deadline, or until that rank is gone; while nothing is settled also until another has told why it cannot
  /// come.
  Heard hear(const char* what, Rank rank, Store::Deadline deadline) {
    for (bool is_gone = false;;) {
      const auto now = Clock::now();
      if (auto value = store_->get(key(what, rank), is_gone ? now : std::min<Store::Deadline>(deadline, now + look_interval)))
        return {std::move(value), false};
      if (is_gone || Clock::now() >= deadline) return {std::nullopt, is_gone};
      is_gone = store_->get(gone_key(group_, rank), Clock::now()).has_value();  // then once more: what it put last came before this
      if (!is_settled_ && store_->get(key("all", 0), Clock::now())) {
        is_settled_ = is_told_ = true;
        return {};
      }
    }
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
    const std::size_t num_bytes = leading_number(*piece, 8);
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

  /// In pieces, unless another's word has come first.
  void publish(const std::string& text) {
    const std::string first = first_piece(text);
    is_settled_ = true;
    is_told_ = !put_if_new(*store_, key("all", 0), first);
    if (is_told_) return;
    int i = 1;
    for (std::size_t begin = max_store_value_bytes - outcome_size_bytes; begin < text.size(); begin += max_store_value_bytes)
      store_->put(key("all", i++), std::string_view(text).substr(begin, max_store_value_bytes));
  }

  /// The word of one who cannot come: short, so whole in its first piece.
  [[nodiscard]] Outcome told_outcome() {
    const std::string piece = store_->get(key("all", 0), Clock::now() + courtesy).value_or("");
    Outcome outcome = decode(std::string_view(piece).substr(std::min(outcome_size_bytes, piece.size())));
    if (!outcome.error)
      throw Error(ErrorKind::mismatched, fmt::format("bootstrap: another process is rank 0, too, at {}", store_->place()), {0});
    return outcome;
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

  [[nodiscard]] std::string key(const char* what, int number) const { return round_key(group_, round_, what, number); }

  Store* store_;
  Rank rank_;
  int num_ranks_;
  std::chrono::nanoseconds timeout_;
  std::string group_;
  std::uint64_t round_ = 0;
  bool is_settled_ = false, is_told_ = false;  // rank 0, of this round: there is an outcome; it is the word of one who cannot come
  std::optional<Error> failed_;
};

}  // namespace

namespace {

void require_group(const std::string& group) {
  if (group.empty() || group.size() > max_group_bytes)
    throw Error(ErrorKind::argument, fmt::format("store_all_gather: group has {} bytes, want 1 to {}", group.size(), max_group_bytes));
}

}  // namespace

AllGather store_all_gather(Store& store, Rank rank, int num_ranks, std::chrono::nanoseconds timeout, std::string group) {
  require_ranks(rank, num_ranks);
  require_timeout(timeout);
  require_group(group);
  return GatherThroughStore(store, rank, num_ranks, timeout, std::move(group));
}

void bootstrap::leave_word(Store& store, Rank rank, int num_ranks, const std::string& group, const Error& error) noexcept {
  try {
    require_ranks(rank, num_ranks);
    require_group(group);
    const std::string word = first_piece(encode({.num_ranks = num_ranks, .values = {}, .error = error}));
    if (!put_if_new(store, round_key(group, 0, "all", 0), word) || rank != 0) return;
    const auto end = Clock::now() + last_stay;
    for (Rank peer = 1; peer < num_ranks; ++peer)
      while (!store.get(round_key(group, 0, "seen", peer), std::min<Store::Deadline>(end, Clock::now() + look_interval)) &&
             !store.get(gone_key(group, peer), Clock::now()) && Clock::now() < end) {
      }
  } catch (...) {  // then the others find out by themselves
  }
}

SEQCCL_END
