// communicator_test.cpp - arena, settings, failure and lifetime of a rank's handle; ranks as threads.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/communicator.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <string>
#include <thread>

#include "support/alarm.hpp"
#include "support/watchdog.hpp"

namespace seqccl::test {
namespace {

using std::chrono::seconds;

TEST(Communicator, ArenaGrowsIsAlignedAndStays) {
  auto comm = std::move(thread_communicators(1)[0]);
  std::byte* small = comm.arena(100);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(small) % 64, 0u);
  EXPECT_EQ(comm.arena(64), small);
  std::byte* large = comm.arena(1 << 20);
  large[(1 << 20) - 1] = std::byte{1};
  EXPECT_EQ(comm.arena(100), large);
  const Buffer buffer = comm.allocate(1000);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % 64, 0u);
  EXPECT_EQ(buffer.num_bytes(), 1000u);
}

TEST(Communicator, WrongSettingsNameTheArgumentAndChangeNothing) {
  auto comm = std::move(thread_communicators(2)[0]);
  EXPECT_THROW(comm.set_timeout(seconds(0)), Error);
  EXPECT_EQ(comm.timeout(), std::chrono::minutes(10));
  EXPECT_THROW(comm.set_num_threads(0), Error);
  EXPECT_GE(comm.num_threads(), 1);
  EXPECT_THROW(comm.set_topology({.node = {0, 1, 2}}), Error);
  comm.set_topology({.node = {0, 1}});
  EXPECT_FALSE(comm.topology().same_node(0, 1));
  EXPECT_THROW((void)thread_communicators(0), Error);
  EXPECT_THROW(run_ranks(-1, [](Communicator&) {}), Error);
}

TEST(Communicator, RanksLeaveInAnyOrder) {
  auto comms = thread_communicators(3);
  comms.erase(comms.begin());
  EXPECT_TRUE(comms[0].transport().status(0).left);
  EXPECT_FALSE(comms[0].transport().status(2).left);
  comms.pop_back();
  EXPECT_TRUE(comms[0].transport().status(2).left);
  EXPECT_EQ(comms[0].received_bytes(), std::vector<std::uint64_t>(3, 0));
}

TEST(Communicator, StaysFailedAfterAnAbort) {
  auto comms = thread_communicators(2);
  comms[1].abort("enough");
  for (Communicator& comm : comms) {
    try {
      (void)comm.arena(1);
      FAIL() << "want an error";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::local);
      EXPECT_EQ(error.culprits(), std::vector<Rank>{1});
      EXPECT_STREQ(error.what(), "rank 1 of 2 aborted: enough");
    }
  }
}

TEST(Communicator, CheckTellsOfAnAbortAndOfNothingElse) {
  auto comms = thread_communicators(2);
  for (Communicator& comm : comms) EXPECT_NO_THROW(comm.check());
  comms[1].abort("enough");
  for (Communicator& comm : comms) EXPECT_THROW(comm.check(), Error);
}

TEST(RunRanks, GivesEachRankItsOwnAndItsSettings) {
  Watchdog dog(seconds(60));
  std::atomic<int> seen{0};
  run_ranks(5,
            [&](Communicator& comm) {
              seen += 1 << comm.rank();
              EXPECT_EQ(comm.size(), 5);
              EXPECT_EQ(comm.timeout(), seconds(3));
              EXPECT_EQ(comm.num_threads(), 2);
            },
            {.timeout = seconds(3), .topology = {}, .num_threads = 2});
  EXPECT_EQ(seen, 31);
}

/// It returns as if nothing were wrong; who started the ranks is told all the same, and so are the others.
template <class Run>
void expect_abort_is_told(Run&& run) {
  for (const int num_ranks : {1, 2, 3, 4, 5, 7, 8}) {
    const Rank victim = num_ranks / 2;
    const std::string want = "rank " + std::to_string(victim) + " of " + std::to_string(num_ranks) + " aborted: no more milk";
    for (const bool others_wait : {true, false}) {
      try {
        run(num_ranks, [&](Communicator& comm) {
          if (comm.rank() == victim) return comm.abort("no more milk");
          if (others_wait) (void)wait_until(comm.transport(), SteadyClock::now() + seconds(50), [] { return false; });
        });
        ADD_FAILURE() << "nothing was thrown, " << num_ranks << " ranks";
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::local) << error.what();
        EXPECT_EQ(error.culprits(), std::vector<Rank>{victim}) << error.what();
        EXPECT_EQ(error.what(), want);
      }
    }
  }
}

TEST(RunRanks, TellsOfAnAbortWhoseRankReturns) {
  Watchdog dog(seconds(60));
  expect_abort_is_told([](int num_ranks, const auto& body) { run_ranks(num_ranks, body); });
}
TEST(RunProcesses, TellsOfAnAbortWhoseRankReturns) {
  const Alarm alarm(100);
  expect_abort_is_told([](int num_ranks, const auto& body) { run_processes(num_ranks, body, {.transport = ProcessTransport::shm}); });
}

/// Who aborts to shrink has not failed.
TEST(RunRanks, AnAbortBeforeAShrinkIsNoError) {
  Watchdog dog(seconds(60));
  std::atomic<int> num_members{0};
  run_ranks(3, [&](Communicator& comm) {
    if (comm.rank() == 1) comm.abort("let us go on with less");
    num_members += comm.shrink().size();
  });
  EXPECT_EQ(num_members, 9);
}

TEST(RunRanks, RethrowsTheFirstCauseAndEndsTheOthers) {
  Watchdog dog(seconds(60));
  std::atomic<int> num_ended{0};
  try {
    run_ranks(4, [&](Communicator& comm) {
      if (comm.rank() == 2) throw std::runtime_error("no such file");
      try {
        (void)wait_until(comm.transport(), SteadyClock::now() + seconds(50), [] { return false; });
      } catch (const Error& error) {
        EXPECT_EQ(error.culprits(), std::vector<Rank>{2});
        EXPECT_STREQ(error.what(), "rank 2 of 4 aborted: no such file");
        ++num_ended;
        throw;
      }
    });
    FAIL() << "want an exception";
  } catch (const std::runtime_error& error) {
    EXPECT_STREQ(error.what(), "no such file");
  }
  EXPECT_EQ(num_ended, 3);
}

}  // namespace
}  // namespace seqccl::test
