// meeting_blame_test.cpp - processes of which one ends while they meet: all others name that one, whoever gives up first.
// SPDX-License-Identifier: Apache-2.0
#include <sys/resource.h>

#include <csignal>

#include "meeting_support.hpp"
#include "support/alarm.hpp"

namespace seqccl::test {
namespace {

using namespace meeting;

class MeetingBlame : public ::testing::TestWithParam<ProcessTransport> {};
INSTANTIATE_TEST_SUITE_P(Meeting, MeetingBlame, ::testing::Values(ProcessTransport::shm),
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

}  // namespace
}  // namespace seqccl::test
