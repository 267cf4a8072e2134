// relax.hpp - what a core does between two polls.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "seqccl/version.hpp"

SEQCCL_BEGIN

inline void relax_core() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Lets others run on this core. If they do so time after time while this thread spins, it asks the scheduler, at most every 5 ms, for
/// another of the cores that it may use. Which those are is the same afterwards, unless somebody changes them in the same microseconds.
void offer_core() noexcept;

/// Between the polls of a long spin (Transport::inline_spins, attempts below 0). Now and then the core is offered to others: where the
/// scheduler has put two ranks on one core, the other cannot answer before this one steps aside. It does put them there, whoever sleeps is
/// woken on the waker's core, and 300 us of spinning then pass for every message (measured) although a core is idle.
inline void spin(int attempt) noexcept {
  constexpr int polls_per_offer = 64;
  if (attempt < 0 && attempt % polls_per_offer == 0)
    offer_core();
  else
    relax_core();
}

SEQCCL_END
