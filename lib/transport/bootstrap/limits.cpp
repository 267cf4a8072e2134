// limits.cpp - refuses what no store takes.
// SPDX-License-Identifier: Apache-2.0
#include "limits.hpp"

#include <fmt/format.h>

SEQCCL_BEGIN
namespace bootstrap {

void require_ranks(Rank rank, int num_ranks) {
  if (num_ranks < 1) throw Error(ErrorKind::argument, fmt::format("bootstrap: num_ranks is {}, want 1 or more", num_ranks));
  if (rank < 0 || rank >= num_ranks)
    throw Error(ErrorKind::argument, fmt::format("bootstrap: rank is {}, want 0 to {}", rank, num_ranks - 1));
}

void require_timeout(std::chrono::nanoseconds timeout) {
  // A century and more would overflow the clock.
  constexpr auto most = std::chrono::hours(24 * 365);
  if (timeout <= std::chrono::nanoseconds(0) || timeout > most)
    throw Error(ErrorKind::argument, fmt::format("bootstrap: timeout is {:g} s, want more than 0 s and at most a year",
                                                 std::chrono::duration<double>(timeout).count()));
}

void require_launch(const LaunchInfo& launch, std::chrono::nanoseconds timeout) {
  require_ranks(launch.rank, launch.num_ranks);
  require_timeout(timeout);
}

void require_key(std::string_view key) {
  if (key.empty() || key.size() > max_store_key_bytes)
    throw Error(ErrorKind::argument, fmt::format("bootstrap: key has {} bytes, want 1 to {}", key.size(), max_store_key_bytes));
}

void require_value(std::string_view value) {
  if (value.size() > max_store_value_bytes)
    throw Error(ErrorKind::argument, fmt::format("bootstrap: value has {} bytes, want at most {}", value.size(), max_store_value_bytes));
}

void refuse_second_put(std::string_view key, const std::string& place) {
  throw Error(
      ErrorKind::mismatched,
      fmt::format("bootstrap: key \"{}\" has been put before at {}: two processes are the same rank, or a name is used twice", key, place));
}

}  // namespace bootstrap
SEQCCL_END
