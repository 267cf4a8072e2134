// timeout.cpp - reads SEQCCL_TIMEOUT.
// SPDX-License-Identifier: Apache-2.0
#include "timeout.hpp"

#include <fmt/format.h>

#include <cstdlib>

#include "seqccl/error.hpp"

SEQCCL_BEGIN

std::chrono::nanoseconds timeout_from_env(std::chrono::nanoseconds otherwise) {
  const char* text = std::getenv("SEQCCL_TIMEOUT");
  if (text == nullptr || *text == 0) return otherwise;
  char* end = nullptr;
  const double seconds = std::strtod(text, &end);
  if (*end != 0 || !(seconds >= 1e-3 && seconds <= 1e9))
    throw Error(ErrorKind::argument, fmt::format("SEQCCL_TIMEOUT is \"{}\", want seconds from 0.001 to 1e9", text));
  return std::chrono::nanoseconds(static_cast<std::int64_t>(seconds * 1e9));
}

SEQCCL_END
