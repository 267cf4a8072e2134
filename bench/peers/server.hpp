// server.hpp - a library's rank in a comparison: answers questions with the time of the library's own collectives.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>

#include "page.hpp"

namespace peers {

/// What a library offers. Buffers hold max_ranks_bytes each: one block per rank, side by side.
struct Library {
  std::function<void(std::size_t block_bytes)> prepare;     // plans, registrations; may be empty. Not timed
  std::function<void(std::size_t block_bytes)> all_gather;  // send[0 .. block) -> receive, block by block
  std::function<void(std::size_t block_bytes)> all_to_all;  // block r of send -> block of this rank in receive of rank r
  std::function<void()> settle;                             // a barrier of the library's own; may be empty
  std::byte* send = nullptr;
  std::byte* receive = nullptr;
};

/// Serves until the asker says quit or has gone.
void serve(MappedPage& page, int rank, int num_ranks, const Library& library);

/// Memory as an application has it, touched.
[[nodiscard]] std::byte* private_buffer(std::size_t num_bytes);

/// Forks `num_ranks` ranks that run `body`; returns the exit code for main.
int fork_ranks(int num_ranks, const std::function<void(int rank)>& body);

/// All ranks of one host meet. Gives the core away while it waits, and calls `meanwhile`.
void barrier(Page& page, int num_ranks, const std::function<void()>& meanwhile = {});

}  // namespace peers
