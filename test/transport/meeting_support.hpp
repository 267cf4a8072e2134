// meeting_support.hpp - processes that meet, and what each of them is told.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "seqccl/communicator.hpp"

namespace seqccl::test::meeting {

using namespace std::chrono_literals;

inline constexpr int most_ranks = 8;

/// What ranks of one round leave behind, in memory that all see.
struct Round {
  struct Seat {
    std::atomic<int> num_chars{0};
    char text[512] = {};
    std::atomic<bool> has_failed{false};
    ErrorKind kind{};
    int num_culprits = 0;
    Rank culprit = -1;
    double seconds = 0;
    char what[512] = {};
  };
  Seat seats[most_ranks];
};

/// The one that goes on, for the ranks.
inline Round* current_round = nullptr;

/// Runs `body` in a process per rank and keeps what it throws; `body` gets an all-gather over the round's memory.
using Body = std::function<void(Rank, const AllGather&)>;
class Processes {
 public:
  Processes(int num_ranks, const Body& body) : num_ranks_(num_ranks) {
    round_ = new (::mmap(nullptr, sizeof(Round), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)) Round();
    current_round = round_;
    std::vector<pid_t> children;
    for (Rank rank = 0; rank < num_ranks; ++rank) {
      children.push_back(::fork());
      if (children.back() == 0) {
        ::alarm(100);
        live(rank, body);
        ::_exit(0);
      }
    }
    for (const pid_t child : children) (void)::waitpid(child, nullptr, 0);
  }
  ~Processes() { ::munmap(round_, sizeof(Round)); }
  Processes(const Processes&) = delete;
  Processes& operator=(const Processes&) = delete;
  [[nodiscard]] const Round::Seat& operator[](Rank rank) const { return round_->seats[rank]; }

  /// All but the victim name it, and soon.
  void expect_named(Rank victim, ErrorKind kind, double soon, const std::string& word = "") const {
    for (Rank rank = 0; rank < num_ranks_; ++rank) {
      if (rank == victim) continue;
      const Round::Seat& seat = round_->seats[rank];
      ASSERT_TRUE(seat.has_failed) << "rank " << rank << " of " << num_ranks_;
      EXPECT_EQ(seat.kind, kind) << "rank " << rank << ": " << seat.what;
      EXPECT_EQ(seat.num_culprits, 1) << seat.what;
      EXPECT_EQ(seat.culprit, victim) << "rank " << rank << " of " << num_ranks_ << ": " << seat.what;
      EXPECT_NE(std::string(seat.what).find(word), std::string::npos) << seat.what;
      EXPECT_LT(seat.seconds, soon) << seat.what;
    }
  }

 private:
  std::vector<std::string> gather(Rank rank, std::string_view mine) {
    std::memcpy(round_->seats[rank].text, mine.data(), std::min(mine.size(), sizeof(Round::Seat::text)));
    round_->seats[rank].num_chars = static_cast<int>(mine.size());
    std::vector<std::string> texts;
    for (Rank peer = 0; peer < num_ranks_; ++peer) {
      Round::Seat& seat = round_->seats[peer];
      while (seat.num_chars == 0) std::this_thread::sleep_for(50us);
      texts.emplace_back(seat.text, static_cast<std::size_t>(seat.num_chars.load()));
    }
    return texts;
  }
  void live(Rank rank, const Body& body) {
    const auto begin = SteadyClock::now();
    Round::Seat& seat = round_->seats[rank];
    try {
      body(rank, [&](std::string_view mine) { return gather(rank, mine); });
    } catch (const Error& error) {
      seat.seconds = std::chrono::duration<double>(SteadyClock::now() - begin).count();
      seat.kind = error.kind();
      seat.num_culprits = static_cast<int>(error.culprits().size());
      if (!error.culprits().empty()) seat.culprit = error.culprits().front();
      std::strncpy(seat.what, error.what(), sizeof(seat.what) - 1);
      seat.has_failed = true;
    }
  }

  int num_ranks_;
  Round* round_;
};

inline ProcessRanks options_of(ProcessTransport transport) {
  ProcessRanks options;
  options.bootstrap_timeout = 80s;
  options.transport = transport;
  return options;
}

}  // namespace seqccl::test::meeting
