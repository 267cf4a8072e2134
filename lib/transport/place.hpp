// place.hpp - where a process runs: its host and network namespace.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <string>

#include "seqccl/version.hpp"

SEQCCL_BEGIN

/// The same for two processes that see each other's abstract sockets and loopback addresses. No blanks.
inline std::string place_name() {
  std::string boot;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  std::array<char, 128> network{};
  const ssize_t length = ::readlink("/proc/self/ns/net", network.data(), network.size() - 1);
  return fmt::format("{}/{}", boot.empty() ? "unknown" : boot, length > 0 ? network.data() : "unknown");
}

SEQCCL_END
