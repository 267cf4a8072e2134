// linear_attention_slow_test.cpp - the sweep of linear_attention_test.cpp with other covering sets: about 70 cases each.
// SPDX-License-Identifier: Apache-2.0
#include "api/linear_cases.hpp"

namespace seqccl::test {
namespace {

class LinearWide : public ::testing::TestWithParam<int> {};

TEST_P(LinearWide, AgreesWithTheRecurrence) {
  for (const std::vector<int>& level : pairwise_cases(linear_factors, 100 + static_cast<std::uint64_t>(GetParam()))) {
    run_linear_case(level);
    if (HasFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, LinearWide, ::testing::Range(0, 12));

}  // namespace
}  // namespace seqccl::test
