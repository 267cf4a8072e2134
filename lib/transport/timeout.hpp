// timeout.hpp - SEQCCL_TIMEOUT, read in one place for all ways to make ranks.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>

#include "seqccl/version.hpp"

SEQCCL_BEGIN

/// The variable if it is set, else `otherwise`: who starts a program knows how long a rank may be silent there.
/// @throws Error(argument) if it is not a number of seconds
[[nodiscard]] std::chrono::nanoseconds timeout_from_env(std::chrono::nanoseconds otherwise);

SEQCCL_END
