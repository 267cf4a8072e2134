// shrink_support.hpp - ranks that fail, shrink and go on, and what each of them says in the end.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <numeric>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "seqccl/seqccl.hpp"
#include "support/alarm.hpp"
#include "support/tensor.hpp"

namespace seqccl::test {

using namespace std::chrono_literals;

inline constexpr std::int64_t num_tokens = 96, num_heads = 4, head_dim = 16;
inline constexpr int max_ranks = 8;

/// One forward pass of ring attention, each rank its rows of `out` (the whole sequence's).
inline void attend(Communicator& comm, float* out, Method method = Method::ring) {
  AttentionSpec spec;
  spec.q_heads = num_heads;
  spec.kv_heads = 2;
  spec.head_dim = head_dim;
  spec.method = method;
  spec.partition = Partition::zigzag(num_tokens, comm.size());
  spec.mask = Mask::causal();
  const HostTensor q = random_tensor(f32, {1, num_tokens, num_heads, head_dim}, 1), k = random_tensor(f32, {1, num_tokens, 2, head_dim}, 2),
                   v = random_tensor(f32, {1, num_tokens, 2, head_dim}, 3);
  const std::int64_t T = spec.partition.tokens_on(comm.rank());
  HostTensor my_q(f32, {1, T, num_heads, head_dim}), my_k(f32, {1, T, 2, head_dim}), my_v(f32, {1, T, 2, head_dim}),
      my_out(f32, {1, T, num_heads, head_dim}), lse(f32, {1, num_heads, T});
  spec.partition.shard(q.view(), comm.rank(), my_q.view());
  spec.partition.shard(k.view(), comm.rank(), my_k.view());
  spec.partition.shard(v.view(), comm.rank(), my_v.view());
  Attention attention(comm, spec);
  attention.forward(std::as_const(my_q).view(), std::as_const(my_k).view(), std::as_const(my_v).view(), my_out.view(), lse.view());
  if (out == nullptr) return;
  spec.partition.unshard(std::as_const(my_out).view(), comm.rank(),
                         view(static_cast<void*>(out), f32, {1, num_tokens, num_heads, head_dim}));
}
inline std::vector<float> attention_of(int num_ranks) {
  std::vector<float> out(static_cast<std::size_t>(num_tokens * num_heads * head_dim));
  run_ranks(num_ranks, [&](Communicator& comm) { attend(comm, out.data()); });
  return out;
}

/// What a rank says, in memory that all see. By the rank that it was at first.
struct Told {
  std::atomic<pid_t> process{0};
  bool is_finished = false, is_left_out = false;
  int rank = -1, size = 0, num_shrinks = 0;
  std::array<Rank, max_ranks> members{};  // that it goes on with, as they were numbered at first
  double longest_seconds = 0;             // of a shrink
  std::array<char, 400> text{};           // of the error that it ended with

  [[nodiscard]] std::vector<Rank> list() const { return {members.begin(), members.begin() + size}; }
};
struct Outcome {
  std::array<Told, max_ranks> told;
  std::atomic<int> num_done{0}, num_cards{0};
  std::array<std::array<char, 2000>, max_ranks> cards{};  // to meet by, where hosts are played
  std::array<float, static_cast<std::size_t>(num_tokens* num_heads* head_dim)> out;
};
class SharedOutcome {
 public:
  SharedOutcome() : memory_(::mmap(nullptr, sizeof(Outcome), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)) {
    if (memory_ == MAP_FAILED) throw std::bad_alloc();
    new (memory_) Outcome();
  }
  ~SharedOutcome() { ::munmap(memory_, sizeof(Outcome)); }
  SharedOutcome(const SharedOutcome&) = delete;
  SharedOutcome& operator=(const SharedOutcome&) = delete;
  Outcome& operator*() { return *static_cast<Outcome*>(memory_); }
  Outcome* operator->() { return static_cast<Outcome*>(memory_); }

 private:
  void* memory_;
};

/// What happens to the ranks, by the rank that each was at first. All may be empty.
struct Story {
  int num_ranks = 4, num_left = 3;
  std::function<void(Rank me, int size, int round)> in_round{};  // before round 0, 1, ... of a communicator of `size` ranks
  std::function<void(Rank me, int num_shrinks)> before_shrink{};
  std::function<void(Rank me)> at_the_end{};   // when the numbers are there; all go on afterwards
  std::function<void(Rank me)> after_error{};  // that it ends with
  std::chrono::nanoseconds timeout = 30s, shrink_timeout = 20s;
  ProcessTransport transport = ProcessTransport::shm;
  int num_hosts = 0;  // that ranks play, by turns: then the transport is the automatic one
};

/// A rank's life: rounds until the group fails; shrinks; and again, until as many are left as shall be.
inline void live(Communicator& comm, const Story& story, Outcome& outcome) {
  const Rank me = comm.rank();
  Told& told = outcome.told[static_cast<std::size_t>(me)];
  told.process = ::getpid();
  std::vector<Rank> members(static_cast<std::size_t>(comm.size()));
  std::iota(members.begin(), members.end(), 0);
  const auto shrink = [&] {
    if (story.before_shrink) story.before_shrink(me, told.num_shrinks);
    const auto begin = SteadyClock::now();
    comm = comm.shrink({.timeout = story.shrink_timeout});
    told.longest_seconds = std::max(told.longest_seconds, std::chrono::duration<double>(SteadyClock::now() - begin).count());
    ++told.num_shrinks;
    std::vector<Rank> left;
    for (const Rank former : comm.former_ranks()) left.push_back(members[static_cast<std::size_t>(former)]);
    members = left;
  };
  try {
    while (told.num_shrinks == 0 || comm.size() > story.num_left) {
      try {
        for (int round = 0; round < 100'000; ++round) {
          if (story.in_round) story.in_round(me, comm.size(), round);
          attend(comm, nullptr);
        }
        throw std::runtime_error("nothing has failed");
      } catch (const Error& error) {
        if (error.kind() == ErrorKind::argument) throw;
        shrink();
      }
    }
    attend(comm, outcome.out.data());
    if (story.at_the_end) story.at_the_end(me);
    for (int round = 0; round < 5; ++round) attend(comm, outcome.out.data());
    told.is_finished = true;
  } catch (const std::exception& error) {
    std::strncpy(told.text.data(), error.what(), told.text.size() - 1);
    const auto* const ours = dynamic_cast<const Error*>(&error);
    told.is_left_out = ours != nullptr && ours->kind() == ErrorKind::stalled && std::strstr(error.what(), "left out") != nullptr;
    if (story.after_error) story.after_error(me);
  }
  told.rank = comm.rank();
  told.size = comm.size();
  std::copy(members.begin(), members.end(), told.members.begin());
  ++outcome.num_done;
}

/// Kills or stops this process after a while, wherever it is then.
inline void after(std::chrono::nanoseconds time, int signal) {
  std::thread([=] {
    std::this_thread::sleep_for(time);
    ::kill(::getpid(), signal);
  }).detach();
}

struct Belongings {
  std::size_t num_descriptors = 0, num_memory_files = 0;
  bool operator==(const Belongings&) const = default;
  static Belongings now() {
    Belongings all;
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) ++all.num_descriptors;
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);)
      if (line.find("memfd:") != std::string::npos) ++all.num_memory_files;
    return all;
  }
};
inline std::ostream& operator<<(std::ostream& out, const Belongings& it) {
  return out << it.num_descriptors << " descriptors, " << it.num_memory_files << " mappings";
}

inline std::vector<Rank> all_but(int num_ranks, const std::set<Rank>& missing) {
  std::vector<Rank> ranks;
  for (Rank rank = 0; rank < num_ranks; ++rank)
    if (missing.count(rank) == 0) ranks.push_back(rank);
  return ranks;
}

/// Survivors have finished, agree on who they are, and have the numbers of a communicator that was as small from the start.
inline void expect_survived(Outcome& outcome, int num_ranks, const std::set<Rank>& victims) {
  const std::vector<Rank> survivors = all_but(num_ranks, victims);
  for (std::size_t i = 0; i < survivors.size(); ++i) {
    const Told& told = outcome.told[static_cast<std::size_t>(survivors[i])];
    EXPECT_TRUE(told.is_finished) << "rank " << survivors[i] << ": " << told.text.data();
    EXPECT_EQ(told.list(), survivors) << "rank " << survivors[i];
    EXPECT_EQ(told.rank, static_cast<Rank>(i)) << "rank " << survivors[i];
  }
  const std::vector<float> fresh = attention_of(static_cast<int>(survivors.size()));
  EXPECT_EQ(std::memcmp(fresh.data(), outcome.out.data(), fresh.size() * sizeof(float)), 0) << "the numbers differ";
}

/// A communicator of the same ranks, on hosts of which each says its own name.
inline Communicator on_played_hosts(Rank rank, int num_ranks, int num_hosts, Outcome& outcome, const ProcessRanks& options) {
  const AllGather all_gather = [&](std::string_view mine) {
    std::copy(mine.begin(), mine.end(), outcome.cards.at(static_cast<std::size_t>(rank)).begin());
    for (++outcome.num_cards; outcome.num_cards < num_ranks;) std::this_thread::sleep_for(1ms);
    std::vector<std::string> all;
    for (Rank peer = 0; peer < num_ranks; ++peer) all.emplace_back(outcome.cards[static_cast<std::size_t>(peer)].data());
    return all;
  };
  ProcessRanks chosen = options;
  chosen.transport = ProcessTransport::automatic;
  chosen.host = "host" + std::to_string(rank % num_hosts);
  return Communicator::from_callback(rank, num_ranks, all_gather, chosen);
}

/// Ranks are processes. Victims that are killed make run_processes throw; nothing must be left behind.
inline void run_story(const Story& story, Outcome& outcome, bool somebody_ends) {
  const Alarm alarm(120);
  const Belongings before = Belongings::now();
  const ProcessRanks options{.timeout = story.timeout, .num_threads = 1, .transport = story.transport};
  const auto body = [&](Communicator& comm) {
    if (story.num_hosts == 0) return live(comm, story, outcome);
    Communicator played = on_played_hosts(comm.rank(), comm.size(), story.num_hosts, outcome, options);
    live(played, story, outcome);
  };
  const auto run = [&] { run_processes(story.num_ranks, body, options); };
  if (somebody_ends)
    EXPECT_THROW(run(), Error);
  else
    EXPECT_NO_THROW(run());
  EXPECT_EQ(Belongings::now(), before);
}

}  // namespace seqccl::test
