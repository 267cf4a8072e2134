// soak.cpp - random layers, shapes and faults for SEQCCL_SOAK_SECONDS; what the process has must not grow.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>

#include "case.hpp"

namespace seqccl::test {
namespace {

TEST(FaultSoak, NothingGrows) {
  const char* text = std::getenv("SEQCCL_SOAK_SECONDS");
  const int num_seconds = text != nullptr ? std::atoi(text) : 600;
  ASSERT_GT(num_seconds, 0) << "SEQCCL_SOAK_SECONDS is \"" << text << "\", want a whole number of seconds, from 1";
  const std::uint64_t seed = std::random_device()();
  std::printf("seed %llu, %d s\n", static_cast<unsigned long long>(seed), num_seconds);

  // The first rounds fill what is kept on purpose: problems, allocator, threads' stacks.
  constexpr int num_warm = 60;
  Belongings warm;
  int num_cases = 0;
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(num_seconds);
  for (std::uint64_t round = 0; std::chrono::steady_clock::now() < end && !HasFailure(); ++round) {
    for (const Where where : {Where::shm, Where::threads}) {
      std::vector<Case> cases = sample(where, 1 + 15 * 9, seed + round);  // all pairs of layer and way to fail are in there
      std::mt19937_64 random(seed ^ round);
      expect_handled(cases[random() % cases.size()]);
      if (++num_cases == num_warm) warm = Belongings::now();
    }
  }
  const Belongings last = Belongings::now();
  std::printf("%d cases, %zu descriptors, %zu memory files, %.1f MiB resident\n", num_cases, last.num_descriptors, last.num_memory_files,
              static_cast<double>(last.resident_bytes) / (1 << 20));
  if (num_cases <= num_warm) GTEST_SKIP() << "only " << num_cases << " cases: too short to compare";
  EXPECT_EQ(last.num_descriptors, warm.num_descriptors);
  EXPECT_EQ(last.num_memory_files, warm.num_memory_files);
  EXPECT_EQ(last.num_children, 0u);
  EXPECT_LT(last.resident_bytes, warm.resident_bytes + (std::size_t{32} << 20));
}

}  // namespace
}  // namespace seqccl::test
