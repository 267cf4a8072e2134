// peak.cpp - a loop of fused multiply-adds in registers, compiled per instruction set like the kernels.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/peak.hpp"

#include <ctime>

#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "../bench/kernels/peak.cpp"  // as seen from include/, the folder on the search path
#include <hwy/foreach_target.h>                         // comes back here once per target

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace seqccl::bench {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

double rounds_of_multiply_add(std::int64_t rounds) {
  using Tag = hn::ScalableTag<float>;
  const Tag d;
  constexpr int chains = 12;  // latency 4 or 5 times two units, and room for the two factors in 16 registers
  volatile float a_number = 0.999F, b_number = 1e-3F;
  const auto a = hn::Set(d, a_number), b = hn::Set(d, b_number);
  hn::Vec<Tag> sum[chains];
  for (int i = 0; i < chains; ++i) sum[i] = hn::Set(d, static_cast<float>(i));
  for (std::int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (int i = 0; i < chains; ++i) sum[i] = hn::MulAdd(sum[i], a, b);
  }
  auto all = sum[0];
  for (int i = 1; i < chains; ++i) all = hn::Add(all, sum[i]);
  volatile float keep = hn::GetLane(hn::SumOfLanes(d, all));
  (void)keep;
  return 2.0 * chains * static_cast<double>(hn::Lanes(d)) * static_cast<double>(rounds);
}

}  // namespace HWY_NAMESPACE
}  // namespace seqccl::bench
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace seqccl::bench {

HWY_EXPORT(rounds_of_multiply_add);

double multiply_add(std::int64_t rounds) { return HWY_DYNAMIC_DISPATCH(rounds_of_multiply_add)(rounds); }

double thread_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

double peak_flops() {
  const double begin = thread_seconds();
  const double work = multiply_add(200000);
  return work / (thread_seconds() - begin);
}

}  // namespace seqccl::bench
#endif
