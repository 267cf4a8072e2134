// ucx_shrink_test.cpp - ranks that share no memory agree who goes on, whoever is killed, stopped or late.
// SPDX-License-Identifier: Apache-2.0
#include "shrink_support.hpp"
#include "ucx_support.hpp"

namespace seqccl::test {
namespace {

Story over_ucx(int num_ranks, int num_left) { return {.num_ranks = num_ranks, .num_left = num_left, .transport = ProcessTransport::ucx}; }

TEST(UcxShrink, AKilledRankIsLeftBehind) {
  NEEDS_UCX_IN_PROCESSES();
  for (const int num_ranks : {2, 3, 4, 5, 7, 8})
    for (const Rank victim : std::set<Rank>{0, num_ranks - 1}) {
      SharedOutcome outcome;
      Story story = over_ucx(num_ranks, num_ranks - 1);
      story.in_round = [&](Rank me, int, int round) {
        if (me == victim && round == 3) ::raise(SIGKILL);
      };
      run_story(story, *outcome, true);
      expect_survived(*outcome, num_ranks, {victim});
      std::printf("%d ranks, rank %d: %.0f ms\n", num_ranks, victim, outcome->told[victim==0 ? 1:0].longest_seconds*1e3);
      if (::testing::Test::HasFailure()) FAIL() << num_ranks << " ranks, rank " << victim;
    }
}

}  // namespace
}  // namespace seqccl::test
