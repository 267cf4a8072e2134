// communicators.cpp - how communicators begin and end.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "cuda/nccl/world.hpp"

using namespace seqccl::nccl;
using Stage = Comm::Stage;

namespace standin_nccl {

World& world() {
  static auto* const the_world = new World;
  return *the_world;
}

Result World::violate(const std::string& rule, Result result) {
  violations += rule + "\n";
  return result;
}

namespace {

int random_polls() { return world().most_polls == 0 ? 0 : static_cast<int>(world().random() % (world().most_polls + 1)); }

Comm* known(const Comm* comm) {
  const auto found = world().comms.find(comm);
  return found == world().comms.end() ? nullptr : found->second.get();
}

Comm* new_comm(std::shared_ptr<Clique> clique, int rank, const Config* config) {
  auto comm = std::make_unique<Comm>();
  comm->clique = std::move(clique);
  comm->rank = rank;
  comm->device = standin::current_device();
  comm->is_blocking = config == nullptr || config->blocking != 0;
  comm->polls_left = random_polls();
  Comm* made = comm.get();
  world().comms[made] = std::move(comm);
  return made;
}

/// Both a rank and a device are in a clique once ("Creating a Communicator": the same device more than once is not supported).
Result join(Clique& clique, Comm* comm) {
  for (const Comm* other : clique.members)
    if (other != nullptr && other->device == comm->device)
      return world().violate(fmt::format("ranks {} and {} of a communicator are on the same device", other->rank, comm->rank));
  if (clique.members[static_cast<std::size_t>(comm->rank)] != nullptr)
    return world().violate(fmt::format("rank {} has come twice with one id", comm->rank));
  clique.members[static_cast<std::size_t>(comm->rank)] = comm;
  if (!world().never_comes || !world().never_comes(comm->rank)) ++clique.num_members;
  standin::runtime().news.notify_all();
  return success;
}

/// A blocking communicator's call returns when it is done ("Fault Tolerance": a non-blocking one's returns at once, with in progress).
Result settle(Comm* comm) {
  if (!comm->is_blocking) return comm->progress();
  for (;;) {
    const Result result = comm->progress();
    if (result != in_progress) return result;
    standin::runtime().news.wait_for(standin::runtime().mutex, std::chrono::milliseconds(1));
  }
}

template <class Answer>
Result ask(const Comm* handle, Answer answer) {
  const std::lock_guard lock(standin::runtime().mutex);
  const Comm* comm = known(handle);
  if (comm == nullptr || !comm->is_usable()) return world().violate("a question to a communicator that is not ready");
  answer(*comm);
  return success;
}

}  // namespace
}  // namespace standin_nccl

using standin_nccl::Clique;
using standin_nccl::known;
using standin_nccl::world;

Result Comm::progress() {
  if (stage == Stage::aborted || stage == Stage::destroyed) return invalid_usage;
  if (error != success) return error;
  const bool waits = stage == Stage::joining || stage == Stage::launching || stage == Stage::finalizing || split_target != nullptr;
  if (!waits) return success;
  if (stage == Stage::joining && !clique->is_full()) return in_progress;
  if (stage == Stage::launching && world().never_launches && world().never_launches(rank, num_groups)) return in_progress;
  if (stage == Stage::finalizing && num_running > 0) {
    standin::runtime().run_a_little();  // it waits for the device, which goes on meanwhile
    return in_progress;
  }
  if (split_target != nullptr) {
    if (!split_child->clique->is_full()) return in_progress;
    *split_target = split_child;
    split_target = nullptr;
    return success;
  }
  if (polls_left-- > 0) return in_progress;
  if (stage == Stage::launching) {
    for (const auto& launch : launches) launch();
    launches.clear();
    if (world().async_error && world().async_error(rank, num_groups - 1) != success) error = world().async_error(rank, num_groups - 1);
  }
  stage = stage == Stage::finalizing ? Stage::finalized : Stage::ready;
  return error;
}

extern "C" {
standin_nccl::World* standin_nccl_world() { return &world(); }

Result ncclGetVersion(int* version) {
  *version = 22809;
  return success;
}
const char* ncclGetErrorString(Result result) {
  constexpr const char* texts[] = {"no error",
                                   "unhandled cuda error",
                                   "unhandled system error",
                                   "internal error",
                                   "invalid argument",
                                   "invalid usage",
                                   "remote process exited or there was a network error",
                                   "in progress"};
  return texts[result];
}
const char* ncclGetLastError(Comm*) { return "the stand-in's last word"; }

Result ncclGetUniqueId(UniqueId* id) {
  const std::lock_guard lock(standin::runtime().mutex);
  *id = {};
  fmt::format_to_n(id->bytes, sizeof id->bytes - 1, "stand-in {}", ++world().num_ids);
  world().cliques[id->bytes] = std::make_shared<Clique>();
  return success;
}

Result ncclCommInitRankConfig(Comm** comm, int num_ranks, UniqueId id, int rank, Config* config) {
  const std::lock_guard lock(standin::runtime().mutex);
  *comm = nullptr;
  id.bytes[sizeof id.bytes - 1] = 0;
  const auto found = world().cliques.find(id.bytes);
  if (found == world().cliques.end()) return world().violate("an id that ncclGetUniqueId has not given", invalid_argument);
  if (num_ranks < 1 || rank < 0 || rank >= num_ranks)
    return world().violate(fmt::format("rank {} of {}", rank, num_ranks), invalid_argument);
  if (config != nullptr && (config->magic != 0xcafebeef || config->size > 4096))
    return world().violate("a configuration that was not initialised", invalid_argument);
  Clique& clique = *found->second;
  if (clique.num_ranks == 0) {
    clique.num_ranks = num_ranks;
    clique.members.resize(static_cast<std::size_t>(num_ranks));
  }
  if (clique.num_ranks != num_ranks) return world().violate("ranks of one id disagree about their number", invalid_argument);
  if (config != nullptr) std::memcpy(&world().last_config, config, std::min(config->size, sizeof world().last_config));
  Comm* made = standin_nccl::new_comm(found->second, rank, config);
  if (const Result result = standin_nccl::join(clique, made)) return result;
  *comm = made;
  return standin_nccl::settle(made);
}

/// "ncclCommSplit": called by all ranks of the parent, with nothing of it outstanding.
Result ncclCommSplit(Comm* handle, int color, int key, Comm** child, Config* config) {
  const std::lock_guard lock(standin::runtime().mutex);
  *child = nullptr;
  Comm* parent = known(handle);
  if (parent == nullptr || !parent->is_usable()) return world().violate("ncclCommSplit of a communicator that is not ready");
  if (parent->num_running > 0) return world().violate("ncclCommSplit with operations of the communicator outstanding");
  if (color != 0 || key != parent->rank)
    return world().violate("the stand-in splits into one part, in the order of ranks", invalid_argument);
  auto& clique = parent->clique->splits[parent->num_splits++];
  if (!clique) {
    clique = std::make_shared<Clique>();
    clique->num_ranks = parent->clique->num_ranks;
    clique->members.resize(parent->clique->members.size());
  }
  ++world().num_splits;
  parent->split_child = standin_nccl::new_comm(clique, parent->rank, config);
  parent->split_child->device = parent->device;
  if (config == nullptr || config->blocking == INT_MIN) parent->split_child->is_blocking = parent->is_blocking;
  if (const Result result = standin_nccl::join(*clique, parent->split_child)) return result;
  parent->split_target = child;
  return standin_nccl::settle(parent);
}

Result ncclCommGetAsyncError(Comm* handle, Result* error) {
  const std::lock_guard lock(standin::runtime().mutex);
  Comm* comm = known(handle);
  if (comm == nullptr || comm->stage == Stage::aborted || comm->stage == Stage::destroyed)
    return world().violate("ncclCommGetAsyncError after the communicator's end");
  *error = comm->progress();
  return success;
}

Result ncclCommFinalize(Comm* handle) {
  const std::lock_guard lock(standin::runtime().mutex);
  Comm* comm = known(handle);
  if (comm == nullptr || !comm->is_usable()) return world().violate("ncclCommFinalize of a communicator that is not ready");
  comm->stage = Stage::finalizing;
  return standin_nccl::settle(comm);
}
/// "ncclCommDestroy": behind ncclCommFinalize, or with nothing outstanding; not of a communicator with an error, which is aborted.
Result ncclCommDestroy(Comm* handle) {
  const std::lock_guard lock(standin::runtime().mutex);
  Comm* comm = known(handle);
  if (comm == nullptr || comm->stage == Stage::destroyed || comm->stage == Stage::aborted)
    return world().violate("ncclCommDestroy of a communicator that has ended");
  if (comm->num_running > 0 || comm->stage == Stage::launching) return world().violate("ncclCommDestroy with operations outstanding");
  comm->stage = Stage::destroyed;
  ++world().num_destroyed;
  return success;
}
/// Ends its groups on the device, wherever they are; peers' go on waiting.
Result ncclCommAbort(Comm* handle) {
  const std::lock_guard lock(standin::runtime().mutex);
  Comm* comm = known(handle);
  if (comm == nullptr || comm->stage == Stage::destroyed || comm->stage == Stage::aborted)
    return world().violate("ncclCommAbort of a communicator that has ended");
  comm->stage = Stage::aborted;
  comm->launches.clear();
  ++world().num_aborts;
  standin::runtime().news.notify_all();
  return success;
}

Result ncclCommCount(const Comm* comm, int* count) {
  return standin_nccl::ask(comm, [&](const Comm& ready) { *count = ready.clique->num_ranks; });
}
Result ncclCommUserRank(const Comm* comm, int* rank) {
  return standin_nccl::ask(comm, [&](const Comm& ready) { *rank = ready.rank; });
}
Result ncclCommCuDevice(const Comm* comm, int* device) {
  return standin_nccl::ask(comm, [&](const Comm& ready) { *device = ready.device; });
}
}
