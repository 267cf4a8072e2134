// shrink_slow_test.cpp - deaths and stops at any moment of a shrink: whoever goes on, goes on with the same others.
// SPDX-License-Identifier: Apache-2.0
#include <random>

#include "shrink_support.hpp"
#include "ucx_support.hpp"

namespace seqccl::test {
namespace {

/// Microseconds from the beginning of a shrink until it is over, about.
unsigned longest_wait(ProcessTransport transport) { return transport == ProcessTransport::ucx ? 10'000 : 2500; }

void any_rank_may_end(ProcessTransport transport) {
  for (const int num_ranks : {2, 3, 4, 5, 7, 8})
    for (Rank victim = 0; victim < num_ranks; ++victim)
      for (const bool by_signal : {true, false}) {
        SharedOutcome outcome;
        Story story{.num_ranks = num_ranks, .num_left = num_ranks - 1, .transport = transport};
        story.in_round = [&](Rank me, int, int round) {
          if (me != victim || round != 3) return;
          if (by_signal) ::raise(SIGKILL);
          ::_exit(0);
        };
        run_story(story, *outcome, by_signal);
        expect_survived(*outcome, num_ranks, {victim});
      }
}

// Rank 1 is killed in a round. Another one is killed some hundred microseconds before or after it begins to shrink: in the middle of the
// vote, or just after it, so that it belongs to the first group of survivors and fails in its first operation.
void a_death_at_any_moment_of_the_vote(ProcessTransport transport, int num_hosts = 0) {
  std::mt19937 random(20261123);
  int num_twice = 0;
  for (int repeat = 0; repeat < 60; ++repeat) {
    const int num_ranks = std::array{3, 4, 5, 7, 8}[static_cast<std::size_t>(repeat % 5)];
    const Rank second = repeat % 2 == 0 ? 0 : num_ranks - 1;
    const std::chrono::microseconds time(random() % longest_wait(transport)), jitter(random() % 5000);
    SharedOutcome outcome;
    Story story{.num_ranks = num_ranks, .num_left = num_ranks - 2, .transport = transport, .num_hosts = num_hosts};
    story.in_round = [](Rank me, int, int round) {
      if (me == 1 && round == 3) ::raise(SIGKILL);
    };
    story.before_shrink = [&](Rank me, int num_shrinks) {
      if (num_shrinks > 0) return;
      if (me == second) after(time, SIGKILL);
      if (me == (second + 1) % num_ranks || me == 2) std::this_thread::sleep_for(jitter);
    };
    run_story(story, *outcome, true);
    expect_survived(*outcome, num_ranks, {1, second});
    num_twice += outcome->told[all_but(num_ranks, {1, second}).front()].num_shrinks == 2 ? 1 : 0;
    if (::testing::Test::HasFailure()) FAIL() << "repeat " << repeat << ": " << num_ranks << " ranks, then rank " << second;
  }
  ::testing::Test::RecordProperty("died_after_the_vote", num_twice);
  std::printf("the second death came after the vote in %d of 60\n", num_twice);
}

// The same with SIGSTOP; the rank wakes when the others have their numbers. Whether it was left out by the first vote or stalls the group
// that the first vote has made, it is told in the end that it is out.
void a_stop_at_any_moment_of_the_vote(ProcessTransport transport, int num_hosts = 0) {
  std::mt19937 random(7);
  for (int repeat = 0; repeat < 12; ++repeat) {
    const int num_ranks = std::array{3, 4, 5, 8}[static_cast<std::size_t>(repeat % 4)];
    // Over ucx one of two goes on without the other only if it is the lower.
    const bool is_lower = repeat % 2 == 0 && !(transport == ProcessTransport::ucx && num_ranks == 3);
    const Rank second = is_lower ? 0 : num_ranks - 1;
    const std::chrono::microseconds time(random() % longest_wait(transport));
    SharedOutcome outcome;
    Story story{.num_ranks = num_ranks,
                .num_left = num_ranks - 2,
                .timeout = 1s,
                .shrink_timeout = 1s,
                .transport = transport,
                .num_hosts = num_hosts};
    story.in_round = [](Rank me, int, int round) {
      if (me == 1 && round == 3) ::raise(SIGKILL);
    };
    story.before_shrink = [&](Rank me, int num_shrinks) {
      if (me == second && num_shrinks == 0) after(time, SIGSTOP);
    };
    story.at_the_end = [&](Rank me) {
      if (me == all_but(num_ranks, {1, second}).front()) ::kill(outcome->told[static_cast<std::size_t>(second)].process, SIGCONT);
      while (outcome->num_done == 0) std::this_thread::sleep_for(1ms);  // until he has been told
    };
    run_story(story, *outcome, true);
    expect_survived(*outcome, num_ranks, {1, second});
    const Told& told = outcome->told[static_cast<std::size_t>(second)];
    EXPECT_TRUE(told.is_left_out) << told.text.data();
    for (const Rank rank : all_but(num_ranks, {1, second}))
      EXPECT_LT(outcome->told[static_cast<std::size_t>(rank)].longest_seconds, 1 + 2) << rank;
    if (::testing::Test::HasFailure()) FAIL() << "repeat " << repeat << ": " << num_ranks << " ranks, then rank " << second;
  }
}

TEST(ShrinkShmSlow, AnyRankMayEnd) { any_rank_may_end(ProcessTransport::shm); }
TEST(ShrinkShmSlow, ADeathAtAnyMomentOfTheVote) { a_death_at_any_moment_of_the_vote(ProcessTransport::shm); }
TEST(ShrinkShmSlow, AStopAtAnyMomentOfTheVote) { a_stop_at_any_moment_of_the_vote(ProcessTransport::shm); }

TEST(UcxShrinkSlow, AnyRankMayEnd) {
  NEEDS_UCX_IN_PROCESSES();
  any_rank_may_end(ProcessTransport::ucx);
}
TEST(UcxShrinkSlow, ADeathAtAnyMomentOfTheVote) {
  NEEDS_UCX_IN_PROCESSES();
  a_death_at_any_moment_of_the_vote(ProcessTransport::ucx);
}
TEST(UcxShrinkSlow, AStopAtAnyMomentOfTheVote) {
  NEEDS_UCX_IN_PROCESSES();
  a_stop_at_any_moment_of_the_vote(ProcessTransport::ucx);
}
TEST(UcxShrinkSlow, OnTwoHostsADeathOrAStopAtAnyMomentOfTheVote) {
  NEEDS_UCX_IN_PROCESSES();
  a_death_at_any_moment_of_the_vote(ProcessTransport::ucx, 2);
  a_stop_at_any_moment_of_the_vote(ProcessTransport::ucx, 2);
}

}  // namespace
}  // namespace seqccl::test
