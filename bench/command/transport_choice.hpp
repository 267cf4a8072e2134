// transport_choice.hpp - the paths of `bench --transport`: several at once, single transports of UCX, and which of them there are here.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "command/ranks.hpp"

namespace seqccl::command {

/// One path to measure: "threads", "shm", "ucx" (UCX chooses), "ucx:tcp" (it may use its transport tcp only).
struct TransportChoice {
  RankTransport transport = RankTransport::threads;
  std::string ucx_lanes;  // with commas, as UCX_TLS has them; empty: UCX chooses

  /// As it is written on the command line.
  [[nodiscard]] std::string text() const;
};

/// Names with commas between them: threads|shm|ucx|ucx:LANE|ucx:LANE+LANE...|auto, which is shm where there is shared memory, else threads.
/// Each once. @throws Error(argument)
[[nodiscard]] std::vector<TransportChoice> parse_transports(std::string_view text);
/// For --help.
inline constexpr const char* transports_help =
    "Paths to compare, with commas. threads: ranks are threads of this process|shm: processes that share memory|ucx: processes that talk "
    "over UCX|ucx:tcp and so on: over that transport of UCX only|auto: shm where it is there";

/// Whether it can be used here, or why not. Of single transports of UCX two processes try it.
struct PathState {
  std::string path;
  bool is_there = false;
  std::string text;
};
[[nodiscard]] PathState path_state(const TransportChoice& choice);
/// Of all that UCX's hosts commonly have, besides threads, shm and ucx.
[[nodiscard]] std::vector<TransportChoice> known_paths();

/// @throws Error(argument) if one is not there
void require_there(const std::vector<TransportChoice>& choices);

}  // namespace seqccl::command
