// meeting_blame_test.cpp - processes of which one ends while they meet: all others name that one, whoever gives up first.
// SPDX-License-Identifier: Apache-2.0
#include <sys/resource.h>

#include <csignal>

#include "meeting_support.hpp"
#include "support/alarm.hpp"
#include "ucx_support.hpp"

namespace seqccl::test {
namespace {

using namespace meeting;

class MeetingBlame : public ::testing::TestWithParam<ProcessTransport> {
 protected:
  void SetUp() override {
    if (GetParam() == ProcessTransport::ucx) {
      NEEDS_UCX_IN_PROCESSES();
    }
  }
};
INSTANTIATE_TEST_SUITE_P(Meeting, MeetingBlame, ::testing::Values(ProcessTransport::shm, ProcessTransport::ucx),
                         [](const auto& instance) { return std::string(name(instance.param)); });

TEST_P(MeetingBlame, AllNameARankThatIsKilledRightAfterItsAllGather) {
  const Alarm alarm(300);
  for (const int num_ranks : {2, 3, 4, 5, 7, 8})
    for (Rank victim = 0; victim < num_ranks; ++victim)
      Processes(num_ranks, [&](Rank rank, const AllGather& all_gather) {
        (void)Communicator::from_callback(
            rank, num_ranks,
            [&](std::string_view mine) {
              auto texts = all_gather(mine);
              if (rank == victim) ::raise(SIGKILL);
              return texts;
            },
            options_of(GetParam()));
      }).expect_named(victim, ErrorKind::dead, 40);
}

/// It has met some and not others, who are told by those.
TEST_P(MeetingBlame, AllNameARankThatIsKilledSomewhereInTheMeeting) {
  const Alarm alarm(300);
  constexpr int num_ranks = 8;
  for (int round = 0; round < 24; ++round) {
    const Rank victim = round % num_ranks;
    const auto life = std::chrono::microseconds(150 * (round / num_ranks + 1));
    Processes(num_ranks, [&](Rank rank, const AllGather& all_gather) {
      std::thread killer;
      Communicator comm = Communicator::from_callback(
          rank, num_ranks,
          [&](std::string_view mine) {
            auto texts = all_gather(mine);
            if (rank == victim)
              killer = std::thread([&] {
                std::this_thread::sleep_for(life);
                ::raise(SIGKILL);
              });
            return texts;
          },
          options_of(GetParam()));
      if (rank == victim) std::this_thread::sleep_for(100s);
      (void)wait_until(comm.transport(), SteadyClock::now() + 60s, [] { return false; });
    }).expect_named(victim, ErrorKind::dead, 40);
  }
}

/// What goes wrong on one rank only is its own word to all others, not their guess.
TEST(MeetingShm, AllHearWhyARankCannotGoOnAfterItsAllGather) {
  const Alarm alarm(300);
  for (const int num_ranks : {2, 3, 4, 5, 7, 8})
    for (const Rank victim : {0, num_ranks / 2, num_ranks - 1})
      Processes(num_ranks, [&](Rank rank, const AllGather& all_gather) {
        (void)Communicator::from_callback(
            rank, num_ranks,
            [&](std::string_view mine) {
              auto texts = all_gather(mine);
              if (rank == victim) {
                const rlimit none{3, 3};
                (void)::setrlimit(RLIMIT_NOFILE, &none);
              }
              return texts;
            },
            options_of(ProcessTransport::shm));
      }).expect_named(victim, ErrorKind::local, 40, "Too many open files");
}

/// One of two hosts has no UCX. In a program started anew: the library is loaded once, and this one may have it.
TEST(UcxMeeting, AHostWithoutUcxSaysSo) {
  NEEDS_UCX_IN_PROCESSES();
  const Alarm alarm(300);
  const pid_t child = ::fork();
  if (child == 0) {
    ::execl("/proc/self/exe", "test_transport", "--gtest_filter=UcxMeetingAnew.*", "--gtest_also_run_disabled_tests", "--gtest_brief=1",
            static_cast<char*>(nullptr));
    ::_exit(3);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
}

TEST(UcxMeetingAnew, DISABLED_AHostWithoutUcxSaysSo) {
  for (const int num_ranks : {2, 3, 4, 5, 7, 8})
    for (const Rank victim : {0, num_ranks / 2, num_ranks - 1}) {
      Processes ranks(num_ranks, [&](Rank rank, const AllGather& all_gather) {
        ProcessRanks options = options_of(ProcessTransport::automatic);
        options.host = rank == victim ? "bare" : "full";
        if (rank == victim) ::setenv("SEQCCL_UCX_LIBRARY", "/nowhere/libucp.so", 1);
        (void)Communicator::from_callback(rank, num_ranks, all_gather, options);
      });
      ranks.expect_named(victim, ErrorKind::argument, 40, "has no UCX");
      EXPECT_NE(std::string(ranks[victim].what).find("/nowhere/libucp.so"), std::string::npos) << ranks[victim].what;
      EXPECT_EQ(ranks[victim].culprit, victim);
    }
}

}  // namespace
}  // namespace seqccl::test
