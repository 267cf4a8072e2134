// attention_slow_test.cpp - the sweep of attention_test.cpp with other covering sets: about 330 cases a method.
// SPDX-License-Identifier: Apache-2.0
#include "api/softmax_cases.hpp"

namespace seqccl::test {
namespace {

class EveryMethodWide : public ::testing::TestWithParam<std::tuple<Method, int>> {};

TEST_P(EveryMethodWide, AgreesWithDenseAttention) {
  const auto [method, seed] = GetParam();
  for (const std::vector<int>& level : pairwise_cases(softmax_factors, 100 + static_cast<std::uint64_t>(seed))) {
    run_softmax_case(method, level);
    if (HasFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(Softmax, EveryMethodWide, ::testing::Combine(::testing::ValuesIn(all_methods()), ::testing::Range(0, 5)),
                         [](const auto& test) {
                           return std::string(name(std::get<0>(test.param))) + "_" + std::to_string(std::get<1>(test.param));
                         });

}  // namespace
}  // namespace seqccl::test
