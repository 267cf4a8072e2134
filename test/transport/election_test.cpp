// election_test.cpp - whatever is late, stopped or killed in the middle of a word: no two ranks ever decide differently.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <array>
#include <deque>
#include <functional>
#include <numeric>
#include <random>
#include <variant>

#include "../../lib/transport/ucx/election.hpp"

namespace seqccl::test {
namespace {

using ucx::Election, ucx::Statement;
using Decision = std::vector<Rank>;
struct Confirmation {
  std::uint64_t number = 0;
};
using Word = std::variant<Statement, Confirmation, Decision>;

/// Ranks and what is on its way between them. What a rank has written is first its own and goes with it if it is killed; from then on it
/// is the other's system's, which keeps it, and the order, also for a rank that is stopped.
class World {
 public:
  World(int num_ranks, unsigned seed, bool waits_for_delivery = true)
      : num_ranks_(num_ranks), waits_for_delivery_(waits_for_delivery), random_(seed) {
    for (Rank rank = 0; rank < num_ranks; ++rank) ranks_.emplace_back(rank, num_ranks);
  }

  /// One thing happens somewhere; false if there was nothing to do for whoever was drawn.
  bool step(double rate_of_proposals, double rate_of_deaths) {
    const Rank a = draw(num_ranks_), b = draw(num_ranks_);
    One& one = at(a);
    if (one.is_dead) return false;
    if (chance(rate_of_deaths)) {
      chance(0.5) ? kill(a) : void(one.is_stopped = !one.is_stopped);
      return true;
    }
    if (one.is_stopped) return false;
    if (chance(rate_of_proposals)) {
      if (!one.election.has_come(a)) return tell(a, one.election.come()), true;
      return tell(a, one.election.propose()), true;
    }
    switch (draw(3)) {
      case 0:
        return send(a, b);
      case 1:
        return confirm(a);
      default:
        return deliver(b, a);
    }
  }
  void kill(Rank rank) {
    at(rank).is_dead = true;
    for (auto& words : at(rank).written) words.clear();
  }
  /// All who live wake and come; then everything is delivered, and who is asked to propose does, until nothing happens any more.
  void settle() {
    for (Rank rank = 0; rank < num_ranks_; ++rank)
      if (One& one = at(rank); !one.is_dead) {
        one.is_stopped = false;
        if (!one.election.has_come(rank)) tell(rank, one.election.come());
      }
    for (int round = 0; round < 20 && num_undecided() != 0; ++round) {
      for (bool busy = true; busy;) {
        busy = false;
        for (Rank a = 0; a < num_ranks_; ++a) {
          for (Rank b = 0; b < num_ranks_; ++b) {
            while (send(a, b)) busy = true;
            while (deliver(a, b)) busy = true;
          }
          while (confirm(a)) busy = true;
        }
      }
      for (Rank rank = 0; rank < num_ranks_; ++rank)
        if (One& one = at(rank); !one.is_dead && !one.election.decision() && one.election.is_complete() && one.election.turn() == 0)
          tell(rank, one.election.propose());
    }
  }
  [[nodiscard]] int num_undecided() const {
    int count = 0;
    for (const One& one : ranks_) count += !one.is_dead && !one.election.decision() ? 1 : 0;
    return count;
  }
  /// Of all ranks, of those too that were killed afterwards.
  [[nodiscard]] bool agrees() const {
    const Decision* first = nullptr;
    for (const One& one : ranks_) {
      if (!one.election.decision()) continue;
      if (first == nullptr) first = &*one.election.decision();
      if (*one.election.decision() != *first) return false;
    }
    return true;
  }
  [[nodiscard]] const Election& election(Rank rank) const { return ranks_[static_cast<std::size_t>(rank)].election; }

 private:
  struct One {
    One(Rank rank, int num_ranks)
        : election(rank, num_ranks), written(static_cast<std::size_t>(num_ranks)), sent(written.size()), has_lost(written.size()) {}
    Election election;
    std::vector<std::deque<Word>> written, sent;  // by receiver
    std::vector<bool> has_lost;                   // whose end it has seen
    bool is_dead = false, is_stopped = false, has_told_decision = false, waits = false;
  };
  One& at(Rank rank) { return ranks_[static_cast<std::size_t>(rank)]; }
  int draw(int count) { return static_cast<int>(random_() % static_cast<unsigned>(count)); }
  bool chance(double rate) { return std::uniform_real_distribution<>()(random_) < rate; }

  void write(Rank from, const Word& word) {
    for (Rank to = 0; to < num_ranks_; ++to)
      if (to != from) at(from).written[static_cast<std::size_t>(to)].push_back(word);
  }
  void tell(Rank rank, bool has_changed) {
    One& one = at(rank);
    if (has_changed) {
      write(rank, one.election.own());
      one.waits = true;
    }
    if (one.election.decision() && !one.has_told_decision) {
      one.has_told_decision = true;
      write(rank, *one.election.decision());
    }
    if (!waits_for_delivery_) confirm(rank);
  }
  bool send(Rank from, Rank to) {
    auto& written = at(from).written[static_cast<std::size_t>(to)];
    if (at(from).is_dead || at(from).is_stopped || written.empty()) return false;
    at(from).sent[static_cast<std::size_t>(to)].push_back(std::move(written.front()));
    written.pop_front();
    return true;
  }
  bool confirm(Rank rank) {
    One& one = at(rank);
    if (one.is_dead || one.is_stopped || !one.waits) return false;
    if (waits_for_delivery_)
      for (Rank to = 0; to < num_ranks_; ++to)
        if (!at(to).is_dead && !one.written[static_cast<std::size_t>(to)].empty()) return false;
    one.waits = false;
    const std::uint64_t number = one.election.own().number;
    write(rank, Confirmation{number});
    tell(rank, one.election.confirm(rank, number));
    return true;
  }
  bool deliver(Rank from, Rank to) {
    One& one = at(to);
    if (from == to || one.is_dead || one.is_stopped) return false;
    auto& sent = at(from).sent[static_cast<std::size_t>(to)];
    if (sent.empty()) {
      if (!at(from).is_dead || one.has_lost[static_cast<std::size_t>(from)]) return false;
      one.has_lost[static_cast<std::size_t>(from)] = true;
      tell(to, one.election.lose(from));
      return true;
    }
    const Word word = std::move(sent.front());
    sent.pop_front();
    if (const auto* statement = std::get_if<Statement>(&word))
      tell(to, one.election.hear(from, *statement));
    else if (const auto* confirmation = std::get_if<Confirmation>(&word))
      tell(to, one.election.confirm(from, confirmation->number));
    else
      one.election.settle(std::get<Decision>(word));
    return true;
  }

  int num_ranks_;
  bool waits_for_delivery_;
  std::mt19937 random_;
  std::vector<One> ranks_;
};

/// How many of `num_worlds` ended with two different decisions.
int num_quarrels(int num_worlds, bool waits_for_delivery, int* num_early_decisions = nullptr) {
  int count = 0;
  for (int seed = 0; seed < num_worlds; ++seed) {
    World world(std::array{2, 3, 4, 5, 7, 8}[static_cast<std::size_t>(seed % 6)], static_cast<unsigned>(seed), waits_for_delivery);
    const double rate_of_deaths = std::array{0.0, 0.001, 0.003, 0.01}[static_cast<std::size_t>(seed / 6 % 4)];
    for (int step = 0; step < 3000; ++step) world.step(0.004, rate_of_deaths);
    if (num_early_decisions != nullptr && world.num_undecided() == 0) ++*num_early_decisions;
    world.settle();
    if (world.agrees()) {
      EXPECT_EQ(world.num_undecided(), 0) << "seed " << seed;
    } else {
      ++count;
    }
  }
  return count;
}

TEST(Election, NoTwoRanksDecideDifferentlyAndAllWhoLiveDecide) {
  int num_early = 0;
  EXPECT_EQ(num_quarrels(6000, true, &num_early), 0);
  EXPECT_GT(num_early, 1000);
}

// The other way about: what confirmations are for.
TEST(Election, WithoutConfirmationsTheyMay) { EXPECT_GT(num_quarrels(6000, false), 0); }

TEST(Election, AllWhoHaveComeGoOn) {
  for (const int num_ranks : {1, 2, 3, 4, 5, 7, 8})
    for (Rank dead = -1; dead < num_ranks; ++dead) {
      if (num_ranks == 1 && dead == 0) continue;
      World world(num_ranks, 1);
      if (dead >= 0) world.kill(dead);
      world.settle();
      Decision all;
      for (Rank rank = 0; rank < num_ranks; ++rank)
        if (rank != dead) all.push_back(rank);
      for (const Rank rank : all) EXPECT_EQ(world.election(rank).decision(), all) << num_ranks << " ranks without " << dead;
    }
}

}  // namespace
}  // namespace seqccl::test
