// launched.cpp - a program for tests and timings of `seqccl launch`: its ranks meet at a store and gather.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "seqccl/bootstrap.hpp"

/// launched [ROUNDS [FOLDER]]: meets at the TCP store, or at files in FOLDER; rank 0 prints what the ranks said and how long it took.
int main(int argc, char** argv) {
  using namespace seqccl;
  using Clock = std::chrono::steady_clock;
  const auto timeout = std::chrono::seconds(60);
  const int num_rounds = argc > 1 ? std::atoi(argv[1]) : 1;
  try {
    const LaunchInfo launch = launch_from_env();
    const auto begin = Clock::now();
    const auto store = argc > 2 ? file_store(argv[2], launch) : tcp_store(launch, timeout);
    AllGather all_gather = store_all_gather(*store, launch.rank, launch.num_ranks, timeout);
    std::string everyone;
    const auto connected = Clock::now();
    auto first = connected;
    for (int round = 0; round < num_rounds; ++round) {
      everyone.clear();
      for (const std::string& each : all_gather(fmt::format("rank {}", launch.rank))) everyone += (everyone.empty() ? "" : ", ") + each;
      if (round == 0) first = Clock::now();
    }
    const auto microseconds = [](Clock::duration time) { return std::chrono::duration<double, std::micro>(time).count(); };
    fmt::print("{} of {}: {}\n", launch.rank, launch.num_ranks, launch.num_ranks <= 8 ? everyone : "");
    if (launch.rank == 0)
      fmt::print("connect {:.0f} us, first all-gather {:.0f} us, later ones {:.1f} us each\n", microseconds(connected - begin),
                 microseconds(first - connected), num_rounds > 1 ? microseconds(Clock::now() - first) / (num_rounds - 1) : 0.0);
    return 0;
  } catch (const Error& error) {
    fmt::print(stderr, "{}: {}\n", name(error.kind()), error.what());
    return 4;
  }
}
