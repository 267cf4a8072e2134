// cases_slow_test.cpp - many cases on all transports; the same on one core; 64 ranks.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <sched.h>

#include "case.hpp"

namespace seqccl::test {
namespace {

class ManyFaults : public ::testing::TestWithParam<Case> {};
TEST_P(ManyFaults, AreHandled) { expect_handled(GetParam()); }

/// The transport has one core for all ranks.
class FaultsOnOneCore : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    ASSERT_EQ(::sched_getaffinity(0, sizeof(before_), &before_), 0);
    int core = 0;
    while (CPU_ISSET(core, &before_) == 0) ++core;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(core, &one);
    ASSERT_EQ(::sched_setaffinity(0, sizeof(one), &one), 0);
  }
  void TearDown() override { EXPECT_EQ(::sched_setaffinity(0, sizeof(before_), &before_), 0); }

 private:
  cpu_set_t before_{};
};
TEST_P(FaultsOnOneCore, AreHandled) { expect_handled(GetParam()); }

class FaultsOf64Ranks : public ::testing::TestWithParam<Case> {};
TEST_P(FaultsOf64Ranks, AreHandled) { expect_handled(GetParam()); }

/// Every layer dies once, and is late once.
std::vector<Case> at_64_ranks() {
  std::vector<Case> cases;
  for (const std::string& layer : layers()) {
    cases.push_back({.layer = layer, .num_ranks = 64, .victim = 41, .how = How::kill, .step = 500});
    cases.push_back({.layer = layer, .num_ranks = 64, .victim = 0, .how = How::short_stall, .step = 300, .is_backward = true});
  }
  return cases;
}

const auto by_name = [](const ::testing::TestParamInfo<Case>& info) { return std::to_string(info.index) + "_" + info.param.text(); };
INSTANTIATE_TEST_SUITE_P(Shm, ManyFaults, ::testing::ValuesIn(sample(Where::shm, 420, 11)), by_name);
INSTANTIATE_TEST_SUITE_P(Threads, ManyFaults, ::testing::ValuesIn(sample(Where::threads, 120, 12)), by_name);
INSTANTIATE_TEST_SUITE_P(Ucx, ManyFaults, ::testing::ValuesIn(sample(Where::ucx, 120, 14)), by_name);
INSTANTIATE_TEST_SUITE_P(Shm, FaultsOnOneCore, ::testing::ValuesIn(sample(Where::shm, 45, 13)), by_name);
INSTANTIATE_TEST_SUITE_P(Shm, FaultsOf64Ranks, ::testing::ValuesIn(at_64_ranks()), by_name);

}  // namespace
}  // namespace seqccl::test
