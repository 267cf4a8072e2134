// world.hpp - a libnccl without devices, stricter than NCCL: what its calls keep, what tests ask of it and do to it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "../lib/transport/cuda/nccl_library.hpp"
#include "cuda/runtime/runtime.hpp"

/// The library is a shared object that the real loader finds; it moves bytes between the ranks that are threads of one process, on the
/// stand-in for the CUDA runtime. Everything happens under that runtime's lock.
///
///     group of a rank  ->  a task of its stream: posts its sends and receives once the stream has come to it, ends when all have met
///
/// What NCCL's manual forbids is a violation: it is noted with the rule, and the call returns an error where NCCL might do anything.
namespace standin_nccl {

using seqccl::nccl::Comm;
using seqccl::nccl::Config;
using seqccl::nccl::DataType;
using seqccl::nccl::Result;
using seqccl::nccl::UniqueId;
using standin::u64;

/// Ranks of one unique id, or of one split.
struct Clique {
  int num_ranks = 0;
  std::vector<Comm*> members;  // by rank, null: not come yet
  int num_members = 0;
  std::map<u64, std::shared_ptr<Clique>> splits;  // by how many the parent had before
  [[nodiscard]] bool is_full() const { return num_members == num_ranks; }
  /// A message that a stream has come to.
  struct Post {
    u64 data = 0, num_bytes = 0;
    DataType type{};
    bool has_met = false;
  };
  struct Meeting {
    std::deque<std::shared_ptr<Post>> sends, receives;
  };
  std::map<std::pair<int, int>, Meeting> meetings;  // from, to
};

struct Message {
  bool is_send = false;
  int peer = 0;
  u64 data = 0, num_bytes = 0;
  DataType type{};
};

}  // namespace standin_nccl

struct seqccl::nccl::Comm {
  std::shared_ptr<standin_nccl::Clique> clique;
  int rank = 0, device = 0;
  bool is_blocking = true;
  enum class Stage { joining, ready, launching, finalizing, finalized, aborted, destroyed } stage = Stage::joining;
  Result error = success;  // asynchronous
  int polls_left = 0;
  std::uint64_t num_groups = 0, num_splits = 0, num_running = 0;
  std::vector<std::function<void()>> launches;  // of groups that have ended but are not enqueued yet
  Comm* split_child = nullptr;                  // while a split is under way
  Comm** split_target = nullptr;
  bool is_executing = false;  // one of its groups has begun on the device

  [[nodiscard]] bool is_usable() const { return stage == Stage::ready; }
  /// Comes further if it can; what ncclCommGetAsyncError says.
  Result progress();
};

namespace standin_nccl {

/// What a test sees and does.
struct World {
  std::string violations;      // a line each
  int most_polls = 0;          // how often, at most, a communicator that is ready says that it is not
  bool one_at_a_time = false;  // a device runs one group at a time, in the order of launches
  // By rank, and by how many groups the communicator had launched before.
  std::function<Result(int, u64)> group_result;  // what ncclGroupEnd returns in place of launching
  std::function<Result(int, u64)> async_error;   // what becomes of the communicator once the group is launched
  std::function<bool(int, u64)> hangs;           // the group never ends
  std::function<bool(int, u64)> never_launches;  // the communicator stays in progress
  std::function<bool(int)> never_comes;          // to the others' ncclCommInitRankConfig
  std::function<int(int, u64, int)> other_peer;  // a mutant: of a message
  bool no_groups = false;                        // a mutant: every message is launched by itself

  u64 num_groups = 0, num_messages = 0, num_splits = 0, num_aborts = 0, num_destroyed = 0;
  Config last_config;

  std::map<std::string, std::shared_ptr<Clique>> cliques;  // by unique id
  std::map<const Comm*, std::unique_ptr<Comm>> comms;      // those that were destroyed too, so that their use is noticed
  std::map<int, std::deque<u64>> launched;                 // one_at_a_time, by device
  u64 num_ids = 0, num_launches = 0;
  std::mt19937_64 random{1};

  /// Forgets all; `polls` is most_polls.
  void reset(u64 seed, int polls) {
    const std::lock_guard lock(standin::runtime().mutex);
    *this = World{};
    random.seed(seed);
    most_polls = polls;
  }
  Result violate(const std::string& rule, Result result = seqccl::nccl::invalid_usage);
};

World& world();

}  // namespace standin_nccl
