// cases_test.cpp - a few of the cases, every way to fail on every transport among them.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <algorithm>

#include "../../lib/transport/shm/liveness.hpp"
#include "case.hpp"

namespace seqccl::test {
namespace {

class Faults : public ::testing::TestWithParam<Case> {};
TEST_P(Faults, AreHandled) { expect_handled(GetParam()); }

/// Every way to fail twice, but those that take as long as a timeout only once.
std::vector<Case> few() {
  std::vector<Case> cases = sample(Where::shm, 2 * num_hows, 1);
  const auto takes_long = [](const Case& it) { return it.how == How::stop || it.how == How::stall; };
  cases.erase(std::remove_if(cases.begin() + num_hows, cases.end(), takes_long), cases.end());
  return cases;
}

const auto by_name = [](const ::testing::TestParamInfo<Case>& info) { return std::to_string(info.index) + "_" + info.param.text(); };
INSTANTIATE_TEST_SUITE_P(Shm, Faults, ::testing::ValuesIn(few()), by_name);
INSTANTIATE_TEST_SUITE_P(Threads, Faults, ::testing::ValuesIn(sample(Where::threads, 9, 2)), by_name);

INSTANTIATE_TEST_SUITE_P(Ucx, Faults, ::testing::ValuesIn(sample(Where::ucx, 6, 3)), by_name);

// Where a peer's process cannot be seen (another namespace of processes), its socket tells.
TEST(FaultLiveness, AClosedSocketIsAnEndedPeer) {
  int ends[2] = {-1, -1};
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
  shm::Liveness liveness;
  liveness.watch(3, 0, Descriptor(ends[0]));
  EXPECT_TRUE(liveness.ended().empty());
  ::close(ends[1]);
  EXPECT_EQ(liveness.ended(), std::vector<Rank>{3});
  liveness.forget(3);
  EXPECT_TRUE(liveness.ended().empty());
}

}  // namespace
}  // namespace seqccl::test
