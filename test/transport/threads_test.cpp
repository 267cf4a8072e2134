// threads_test.cpp - the conformance suite on thread ranks, polling and always blocking.
// SPDX-License-Identifier: Apache-2.0
#include <thread>
#include <vector>

#include "../../lib/transport/threads/transport.hpp"
#include "conformance.hpp"

namespace seqccl::test {
namespace {

Harness threads(const std::string& name, const WaitPolicy& policy) {
  return {name, [policy](int num_ranks, const std::function<void(Transport&)>& body) {
            auto ends = thread_transports(num_ranks, policy);
            std::vector<std::thread> ranks;
            for (auto& end : ends)
              ranks.emplace_back([&body, own = std::move(end)]() mutable {
                body(*own);
                own.reset();  // leaves as soon as it is done
              });
            for (std::thread& rank : ranks) rank.join();
          }};
}

// Always blocking: a wake-up that is lost shows as a hang.
INSTANTIATE_TEST_SUITE_P(Threads, TransportTest,
                         ::testing::Values(threads("default", WaitPolicy{}), threads("blocking", WaitPolicy{.spins = 0, .yields = 0})),
                         [](const auto& instance) { return instance.param.name; });

TEST(WaitPolicy, GivesCoresAwaySoonerWhenRanksOutnumberThem) {
  const WaitPolicy alone = WaitPolicy::for_host(1), crowded = WaitPolicy::for_host(1 << 20);
  EXPECT_GE(alone.spins, crowded.spins);
  EXPECT_LT(crowded.spins, 100);
  EXPECT_EQ((WaitPolicy{.spins = 3, .yields = 7, .inline_spins = 5}.describe()),
            "3 spins (8 in plans on one thread), 7 yields, then block");
}

}  // namespace
}  // namespace seqccl::test
