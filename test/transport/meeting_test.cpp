// meeting_test.cpp - a rank that fails while ranks meet is named by the others soon, not after bootstrap_timeout.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <barrier>
#include <csignal>
#include <cstdlib>
#include <optional>
#include <stdexcept>
#include <thread>

#include "../../lib/transport/shm/transport.hpp"
#include "../../lib/transport/ucx/library.hpp"
#include "../../lib/transport/ucx/meet.hpp"
#include "seqccl/communicator.hpp"
#include "support/alarm.hpp"
#include "support/watchdog.hpp"

namespace seqccl::test {
namespace {

using namespace std::chrono_literals;

constexpr auto bootstrap_timeout = 120s, soon = 60s;  // a machine may be slow; nobody waits for the former

/// Ranks as threads, that tell each other what each needs to know.
template <class Body>
std::vector<std::optional<Error>> errors_of(int num_ranks, Body&& body) {
  std::vector<std::string> texts(static_cast<std::size_t>(num_ranks));
  std::barrier meeting(num_ranks);
  std::vector<std::optional<Error>> errors(static_cast<std::size_t>(num_ranks));
  std::vector<std::thread> ranks;
  for (Rank rank = 0; rank < num_ranks; ++rank)
    ranks.emplace_back([&, rank] {
      const AllGather all_gather = [&](std::string_view mine) {
        texts[static_cast<std::size_t>(rank)] = mine;
        meeting.arrive_and_wait();
        return texts;
      };
      try {
        body(rank, all_gather);
      } catch (const Error& error) {
        errors[static_cast<std::size_t>(rank)] = error;
      } catch (const std::runtime_error&) {
      }
    });
  for (std::thread& rank : ranks) rank.join();
  return errors;
}

/// All but the victim fail, and `at_least` of them name it; the others may have seen first that one of those gave up.
void expect_named(const std::vector<std::optional<Error>>& errors, Rank victim, SteadyClock::time_point begin, int at_least) {
  EXPECT_LT(SteadyClock::now() - begin, soon);
  int num_right = 0;
  for (Rank rank = 0; rank < static_cast<Rank>(errors.size()); ++rank) {
    if (rank == victim) continue;
    const auto& error = errors[static_cast<std::size_t>(rank)];
    ASSERT_TRUE(error.has_value()) << "rank " << rank;
    EXPECT_EQ(error->kind(), ErrorKind::dead) << "rank " << rank << ": " << error->what();
    num_right += error->culprits() == std::vector<Rank>{victim} ? 1 : 0;
  }
  EXPECT_GE(num_right, at_least);
}

TEST(Meeting, OverShmARankThatFailsAfterItsCardIsOutIsNamed) {
  for (const int num_ranks : {2, 4, 7})
    for (const Rank victim : {num_ranks - 1, num_ranks / 2}) {
      Watchdog dog(100s);
      const auto begin = SteadyClock::now();
      expect_named(errors_of(num_ranks,
                             [&](Rank rank, const AllGather& all_gather) {
                               (void)shm_transport(
                                   rank, num_ranks,
                                   [&](std::string_view mine) {
                                     auto texts = all_gather(mine);
                                     if (rank == victim) throw std::runtime_error("no more milk");
                                     return texts;
                                   },
                                   WaitPolicy{}, bootstrap_timeout);
                             }),
                   victim, begin, num_ranks - 1);
    }
}

TEST(Meeting, OverUcxARankThatFailsAfterItsCardIsOutIsNamed) {
  for (const Rank victim : {3, 2}) {
    Watchdog dog(100s);
    const auto begin = SteadyClock::now();
    expect_named(errors_of(4,
                           [&](Rank rank, const AllGather& all_gather) {
                             const ucx::Door door(rank, 4, "");
                             const std::vector<std::string> texts = all_gather(door.card().text());
                             if (rank == victim) throw std::runtime_error("no more milk");
                             (void)door.meet(texts, bootstrap_timeout);
                           }),
                 victim, begin, 1);
  }
}

TEST(Meeting, ARankThatCannotComeTellsTheOthersWhy) {
  Watchdog dog(100s);
  const auto begin = SteadyClock::now();
  const auto errors = errors_of(4, [&](Rank rank, const AllGather& all_gather) {
    (void)Communicator::from_callback(rank, 4, all_gather, {.bootstrap_timeout = bootstrap_timeout, .host = rank == 2 ? "two words" : ""});
  });
  EXPECT_LT(SteadyClock::now() - begin, soon);
  for (Rank rank = 0; rank < 4; ++rank) {
    const auto& error = errors[static_cast<std::size_t>(rank)];
    ASSERT_TRUE(error.has_value()) << "rank " << rank;
    EXPECT_EQ(error->kind(), ErrorKind::argument) << error->what();
    EXPECT_NE(std::string(error->what()).find("two words"), std::string::npos) << error->what();
    if (rank != 2) {
      EXPECT_EQ(error->culprits(), std::vector<Rank>{2}) << error->what();
    }
  }
}

Error error_of_processes(int num_ranks, const std::function<void(Communicator&)>& body, const ProcessRanks& options) {
  try {
    run_processes(num_ranks, body, options);
  } catch (const Error& error) {
    return error;
  }
  return {ErrorKind::internal, "nothing was thrown"};
}

TEST(ShmProcesses, ARankThatSleepsAfterAFailureIsEndedAfterTheGrace) {
  const auto begin = SteadyClock::now();
  const Error error = error_of_processes(3,
                                         [](Communicator& comm) {
                                           if (comm.rank() == 1) throw std::runtime_error("no more milk");
                                           if (comm.rank() == 2) std::this_thread::sleep_for(bootstrap_timeout);
                                         },
                                         {.grace = 200ms});
  EXPECT_LT(SteadyClock::now() - begin, soon);
  const std::string text = error.what();
  EXPECT_EQ(error.culprits(), std::vector<Rank>{1}) << text;
  EXPECT_NE(text.find("no more milk"), std::string::npos) << text;
  EXPECT_NE(text.find("rank 2 had not ended 0.2 s after"), std::string::npos) << text;
}

TEST(ShmProcesses, WhatTheOthersKnowOfAKilledRankIsTold) {
  const Error error = error_of_processes(3,
                                         [](Communicator& comm) {
                                           if (comm.rank() == 1) ::raise(SIGKILL);
                                           (void)wait_until(comm.transport(), SteadyClock::now() + 60s, [] { return false; });
                                         },
                                         {});
  const std::string text = error.what();
  EXPECT_EQ(error.kind(), ErrorKind::dead) << text;
  EXPECT_EQ(error.culprits(), std::vector<Rank>{1}) << text;
  EXPECT_NE(text.find("rank 1 by signal 9"), std::string::npos) << text;
  EXPECT_NE(text.find("the process of rank 1 has ended"), std::string::npos) << text;
}

/// A supervisor may have left SIGCHLD ignored: then the system does not say how a child has ended.
TEST(ShmProcesses, EndWhereSigchldIsIgnored) {
  const Alarm alarm(100);
  const auto before = std::signal(SIGCHLD, SIG_IGN);
  const Error none = error_of_processes(3, [](Communicator&) {}, {});
  const Error killed = error_of_processes(3,
                                          [](Communicator& comm) {
                                            if (comm.rank() == 1) ::raise(SIGKILL);
                                          },
                                          {});
  std::signal(SIGCHLD, before);
  EXPECT_STREQ(none.what(), "nothing was thrown");
  EXPECT_EQ(killed.kind(), ErrorKind::dead) << killed.what();
  EXPECT_EQ(killed.culprits(), std::vector<Rank>{1}) << killed.what();
}

/// A stopped rank does not keep its parent once all others have ended by signals, which tell nothing.
TEST(ShmProcesses, EndWhereOneIsStoppedAndTheOthersAreKilled) {
  const Alarm alarm(100);
  const Error error = error_of_processes(3,
                                         [](Communicator& comm) {
                                           if (comm.rank() == 0) ::raise(SIGSTOP);
                                           std::this_thread::sleep_for(300ms);  // until it has stopped, as a rule
                                           ::raise(SIGKILL);
                                         },
                                         {});
  EXPECT_EQ(error.kind(), ErrorKind::dead) << error.what();
}

/// What is wrong in the environment of one rank only.
TEST(Meeting, AWrongVariableOfOneRankIsToldToTheOthers) {
  Watchdog dog(100s);
  std::vector<std::string> texts(2);
  std::barrier meeting(2);
  std::atomic<bool> has_come = false;
  const auto come = [&](Rank rank) -> Error {
    const AllGather all_gather = [&](std::string_view mine) {
      texts[static_cast<std::size_t>(rank)] = mine;
      has_come = true;
      meeting.arrive_and_wait();
      return texts;
    };
    try {
      (void)Communicator::from_callback(rank, 2, all_gather, {.bootstrap_timeout = bootstrap_timeout});
    } catch (const Error& error) {
      return error;
    }
    return {ErrorKind::internal, "nothing was thrown"};
  };
  // The environment is the process's: the other rank comes when this one has read it and waits.
  ::setenv("SEQCCL_TIMEOUT", "soon", 1);
  std::optional<Error> first;
  std::thread rank([&] { first = come(0); });
  while (!has_come) std::this_thread::sleep_for(1ms);
  ::unsetenv("SEQCCL_TIMEOUT");
  const Error second = come(1);
  rank.join();
  EXPECT_NE(std::string(first->what()).find("SEQCCL_TIMEOUT is \"soon\""), std::string::npos) << first->what();
  EXPECT_EQ(second.culprits(), std::vector<Rank>{0}) << second.what();
  EXPECT_NE(std::string(second.what()).find("SEQCCL_TIMEOUT is \"soon\""), std::string::npos) << second.what();
}

}  // namespace
}  // namespace seqccl::test
