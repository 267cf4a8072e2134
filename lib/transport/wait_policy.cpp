// wait_policy.cpp - how long a rank polls before it gives its core away.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <thread>

#include "seqccl/transport.hpp"
#include "usable_cores.hpp"

SEQCCL_BEGIN

int usable_cores() noexcept {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  if (sched_getaffinity(0, sizeof(mask), &mask) == 0) return std::max(1, CPU_COUNT(&mask));
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));  // more than CPU_SETSIZE cores
}

// Longer than it takes to wake a sleeper, some 50 to 90 us in a virtual machine: two ranks that sleep sooner than the other can be woken
// never find each other awake again, and a message of 8 bytes takes 90 us for good (measured with 1000).
constexpr int long_spin = 5000;

WaitPolicy WaitPolicy::for_host(int ranks_on_host) {
  // A rank is two threads while it overlaps: one computes, one drives messages. Spinning pays only if the thread that will
  // end the wait runs meanwhile; with fewer cores than that, every spin delays it (measured: 100 spins cost a factor of 4).
  const int cores = usable_cores();
  if (2 * ranks_on_host <= cores) return {.spins = 300, .yields = 100, .inline_spins = long_spin};
  return {.spins = 4, .yields = 40, .inline_spins = ranks_on_host <= cores ? long_spin : 0};
}

std::string WaitPolicy::describe() const {
  const std::string on_one_thread = inline_spins == 0 ? "" : fmt::format(" ({} in plans on one thread)", spins + inline_spins);
  return fmt::format("{} spins{}, {} yields, then block", spins, on_one_thread, yields);
}

SEQCCL_END
