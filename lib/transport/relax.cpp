// relax.cpp - notices that two threads that spin for each other share a core, and parts them.
// SPDX-License-Identifier: Apache-2.0
#include "relax.hpp"

#include <sched.h>
#include <unistd.h>

#include <chrono>
#include <thread>

SEQCCL_BEGIN
namespace {

using namespace std::chrono_literals;

/// The thread's mask without this core, and then the mask again: the scheduler moves a thread at once only if it must.
void change_core() noexcept {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  const int core = ::sched_getcpu();
  if (core < 0 || core >= CPU_SETSIZE || ::sched_getaffinity(0, sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) < 2) return;
  cpu_set_t others = allowed;
  CPU_CLR(core, &others);
  if (CPU_COUNT(&others) != 0 && ::sched_setaffinity(0, sizeof others, &others) == 0)
    (void)::sched_setaffinity(0, sizeof allowed, &allowed);
}

}  // namespace

void offer_core() noexcept {
  constexpr std::chrono::nanoseconds somebody_ran = 1500ns, between_moves = 5ms;  // a yield with nobody there takes 0.3 to 0.6 us
  constexpr int patience = 16;
  thread_local int num_taken = 0;
  thread_local std::chrono::steady_clock::time_point last_move{};
  const auto before = std::chrono::steady_clock::now();
  std::this_thread::yield();
  const auto after = std::chrono::steady_clock::now();
  num_taken = after - before > somebody_ran ? num_taken + 1 : 0;
  if (num_taken < patience) return;
  // Not the same for two ranks, or both would leave for the same core. Asked each time: a forked rank has the variables of its parent.
  if (num_taken < patience + 8 * static_cast<int>(::gettid() % 7) || after - last_move < between_moves) return;
  num_taken = 0;
  last_move = after;
  change_core();
}

SEQCCL_END
