// usable_cores.hpp - how many cores this process may run on.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "seqccl/version.hpp"

SEQCCL_BEGIN

/// Cores in the affinity mask of the calling thread, at least 1. Containers and launchers narrow the mask, so it counts, not
/// what the machine has.
[[nodiscard]] int usable_cores() noexcept;

SEQCCL_END
