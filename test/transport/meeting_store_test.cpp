// meeting_store_test.cpp - processes that meet over a TCP store, of which one ends or cannot come: the others are told soon, and why.
// SPDX-License-Identifier: Apache-2.0
#include <pthread.h>

#include <csignal>
#include <cstdlib>

#include "bootstrap_support.hpp"
#include "meeting_support.hpp"
#include "support/alarm.hpp"

namespace seqccl::test {
namespace {

using namespace meeting;

/// A store that ends its process when it puts the card of an all-gather.
class EndsAtItsCard final : public Store {
 public:
  EndsAtItsCard(std::unique_ptr<Store> store, bool card_is_out)
      : Store(store->place()), store_(std::move(store)), card_is_out_(card_is_out) {}
  void put(std::string_view key, std::string_view value) override {
    const bool is_card = key.find("/in/") != std::string_view::npos;
    if (is_card && !card_is_out_) ::raise(SIGKILL);
    store_->put(key, value);
    if (is_card) ::raise(SIGKILL);
  }
  void leave_behind(std::string_view key, std::string_view value) override { store_->leave_behind(key, value); }
  std::optional<std::string> get(std::string_view key, Deadline deadline) override { return store_->get(key, deadline); }

 private:
  std::unique_ptr<Store> store_;
  bool card_is_out_;
};

/// All but rank 0, whose end is that of the store.
void expect_victims_named(bool card_is_out) {
  const Alarm alarm(300);
  for (const int num_ranks : {2, 3, 4, 5, 7, 8})
    for (const Rank victim : {1, num_ranks / 2, num_ranks - 1}) {
      const int port = free_port();
      Processes(num_ranks, [&](Rank rank, const AllGather&) {
        auto store = tcp_store(launch_of(rank, num_ranks, port), 80s);
        if (rank == victim) store = std::make_unique<EndsAtItsCard>(std::move(store), card_is_out);
        (void)Communicator::from_store(*store, rank, num_ranks, options_of(ProcessTransport::shm));
      }).expect_named(victim, ErrorKind::dead, 40);
    }
}

TEST(MeetingStore, ARankThatIsKilledBeforeItsCardIsOutIsNamedSoon) { expect_victims_named(false); }
TEST(MeetingStore, ARankThatIsKilledAfterItsCardIsOutIsNamedSoon) { expect_victims_named(true); }

/// Its mistake is its own: it does not wait for those who have not begun, and they hear of it all the same.
TEST(MeetingStore, ARankThatCannotComeFailsAtOnceAndTheOthersHearWhyLater) {
  const Alarm alarm(300);
  for (const int num_ranks : {2, 3, 4, 5, 7, 8})
    for (const Rank victim : {1, num_ranks / 2, num_ranks - 1}) {
      const int port = free_port();
      Processes ranks(num_ranks, [&](Rank rank, const AllGather&) {
        const auto store = tcp_store(launch_of(rank, num_ranks, port), 80s);
        if (rank == victim)
          ::setenv("SEQCCL_TIMEOUT", "soon", 1);
        else
          while (!current_round->seats[victim].has_failed) std::this_thread::sleep_for(1ms);
        (void)Communicator::from_store(*store, rank, num_ranks, options_of(ProcessTransport::shm));
      });
      ranks.expect_named(victim, ErrorKind::argument, 40, "cannot join the communicator: SEQCCL_TIMEOUT is \"soon\"");
      EXPECT_LT(ranks[victim].seconds, 40) << ranks[victim].what;
    }
}

/// Rank 0 keeps the store: who has come hears it, and who has not come yet is not waited for.
TEST(MeetingStore, RankZeroThatCannotComeTellsThoseWhoAreThere) {
  const Alarm alarm(300);
  for (const int num_ranks : {3, 4, 8}) {
    const int port = free_port();
    const Rank late = num_ranks - 1;
    Processes ranks(num_ranks, [&](Rank rank, const AllGather&) {
      if (rank == late) return;
      const auto store = tcp_store(launch_of(rank, num_ranks, port), 80s);
      if (rank == 0) {
        for (Rank peer = 1; peer < late; ++peer) (void)store->get("world/0/in/" + std::to_string(peer), SteadyClock::now() + 60s);
        ::setenv("SEQCCL_TIMEOUT", "soon", 1);
      }
      (void)Communicator::from_store(*store, rank, num_ranks, options_of(ProcessTransport::shm));
    });
    for (Rank rank = 0; rank < late; ++rank) {
      EXPECT_NE(std::string(ranks[rank].what).find("SEQCCL_TIMEOUT is \"soon\""), std::string::npos) << rank << ": " << ranks[rank].what;
      EXPECT_LT(ranks[rank].seconds, 40) << ranks[rank].what;
    }
  }
}

int forks_until_end = -1;  // -1: nobody is ended

/// The ranks of run_processes meet over memory of its own.
TEST(ShmProcesses, ARankThatEndsBeforeItComesIsNamedSoon) {
  const Alarm alarm(100);
  static const int failed = ::pthread_atfork(  // once: it cannot be taken back
      nullptr, [] { forks_until_end -= forks_until_end >= 0 ? 1 : 0; },
      [] {
        if (forks_until_end == 0) ::raise(SIGKILL);
      });
  ASSERT_EQ(failed, 0);
  for (const int num_ranks : {1, 2, 3, 4, 5, 7, 8}) {
    const Rank victim = num_ranks / 2;
    forks_until_end = victim;
    const auto begin = SteadyClock::now();
    try {
      run_processes(
          num_ranks, [](Communicator&) {}, options_of(ProcessTransport::shm));
      ADD_FAILURE() << "nothing was thrown";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::dead) << error.what();
      EXPECT_EQ(error.culprits(), std::vector<Rank>{victim}) << error.what();
      EXPECT_LT(SteadyClock::now() - begin, 40s);
    }
    forks_until_end = -1;
  }
}

}  // namespace
}  // namespace seqccl::test
