// ucx_slow_test.cpp - ranks as processes over UCX: every count, method and way to end.
// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <thread>

#include "support/alarm.hpp"
#include "support/watchdog.hpp"
#include "transport/ucx_support.hpp"

namespace seqccl::test {
namespace {

using namespace ucx_ranks;

TEST(UcxProcessesSlow, ResultsAreThoseOfThreadRanksBitByBit) {
  NEEDS_UCX_IN_PROCESSES();
  const Alarm alarm(240);
  const ProcessRanks options = over_ucx_within(60s);
  for (const char* transports : {static_cast<const char*>(nullptr), "tcp,self"}) {
    const Variable chosen("UCX_TLS", transports);
    for (const int num_ranks : {1, 2, 3, 4, 5, 7, 8})
      for (const Method method : {Method::ring, Method::kv_all_gather, Method::head_swap, Method::token_ring}) {
        if (method == Method::head_swap && 8 % num_ranks != 0) continue;
        EXPECT_EQ(attention_on(num_ranks, method, &options), attention_on(num_ranks, method, nullptr))
            << num_ranks << " ranks, " << name(method) << ", " << (transports == nullptr ? "all" : transports);
      }
  }
}

TEST(UcxProcessesSlow, AKilledRankIsNamedByAllOthersSoon) {
  NEEDS_UCX_IN_PROCESSES();
  const Alarm alarm(120);
  double slowest = 0;
  for (const char* transports : {static_cast<const char*>(nullptr), "tcp,self"}) {
    const Variable chosen("UCX_TLS", transports);
    for (const int num_ranks : {2, 3, 5, 8})
      for (const Rank victim : {0, num_ranks - 1}) {
        const auto begin = SteadyClock::now();
        const auto told = told_when_a_rank(
            num_ranks, victim, [] { ::raise(SIGKILL); }, over_ucx_within(60s));
        EXPECT_LT(SteadyClock::now() - begin, 15s) << "the survivors' destructors too";
        for (Rank rank = 0; rank < num_ranks; ++rank) {
          if (rank == victim) continue;
          const Told& mine = told[static_cast<std::size_t>(rank)];
          EXPECT_EQ(mine.kind, static_cast<int>(ErrorKind::dead)) << "rank " << rank << " of " << num_ranks << ": " << mine.text;
          EXPECT_EQ(mine.culprit, victim) << mine.text;
          EXPECT_EQ(mine.num_culprits, 1);
          EXPECT_LT(mine.seconds, 5) << "far below the timeout";
          slowest = std::max(slowest, mine.seconds);
        }
      }
  }
  RecordProperty("slowest_ms", static_cast<int>(slowest * 1e3));
  std::printf("from SIGKILL to the last survivor's error: at most %.1f ms\n", slowest * 1e3);
}

TEST(UcxProcessesSlow, AStoppedRankIsStalled) {
  NEEDS_UCX_IN_PROCESSES();
  const Alarm alarm(60);
  Shared<pid_t> stopped(1);
  const auto told = told_when_a_rank(
      3, 2,
      [&] {
        stopped[0] = ::getpid();
        if (::fork() == 0) {  // ends it long after the others have given up
          std::this_thread::sleep_for(4s);
          ::kill(stopped[0], SIGKILL);
          ::_exit(0);
        }
        ::raise(SIGSTOP);
      },
      over_ucx_within(500ms));
  for (const std::size_t rank : {0u, 1u}) {
    EXPECT_EQ(told[rank].kind, static_cast<int>(ErrorKind::stalled)) << told[rank].text;
    EXPECT_EQ(told[rank].culprit, 2) << told[rank].text;
    EXPECT_LT(told[rank].seconds, 2.5);  // the timeout + 2 s
  }
}

// Its own threads are busy elsewhere; the control thread answers for it.
TEST(UcxProcessesSlow, ARankThatDoesNotCallIsNamedAfterTheTimeout) {
  NEEDS_UCX_IN_PROCESSES();
  const Alarm alarm(60);
  const auto told = told_when_a_rank(
      3, 1, [] { std::this_thread::sleep_for(4s); }, over_ucx_within(500ms));
  for (const std::size_t rank : {0u, 2u}) {
    EXPECT_EQ(told[rank].kind, static_cast<int>(ErrorKind::stalled)) << told[rank].text;
    EXPECT_EQ(told[rank].culprit, 1) << told[rank].text;
    EXPECT_NE(std::string(told[rank].text).find("has not called operation 21"), std::string::npos) << told[rank].text;
    EXPECT_LT(told[rank].seconds, 2.5);
  }
}

}  // namespace
}  // namespace seqccl::test
