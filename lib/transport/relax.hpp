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

SEQCCL_END
