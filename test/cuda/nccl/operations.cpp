// operations.cpp - groups of sends and receives: checked, launched on their stream, matched on the device.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "cuda/nccl/world.hpp"

using namespace seqccl::nccl;
using Stage = Comm::Stage;

namespace standin_nccl {
namespace {

/// A group of one communicator as the device runs it.
struct GroupKernel {
  Comm* comm;
  std::vector<Message> messages;
  u64 number, ticket;
  bool is_counted;  // not in a graph, which may run any number of times
  bool has_begun = false;
  std::vector<std::shared_ptr<Clique::Post>> posts{};

  cudaError_t operator()() {
    if (comm->stage == Stage::aborted) return end();
    if (world().hangs && world().hangs(comm->rank, number)) return cudaErrorNotReady;
    if (!has_begun) {
      if (is_counted && world().one_at_a_time && world().launched[comm->device].front() != ticket) return cudaErrorNotReady;
      begin();
    }
    for (const Message& message : messages) match(message);
    const bool all_met = std::all_of(posts.begin(), posts.end(), [](const auto& post) { return post->has_met; });
    return all_met ? end() : cudaErrorNotReady;
  }

 private:
  Clique::Meeting& meeting(const Message& message) const {
    return comm->clique->meetings[message.is_send ? std::pair(comm->rank, message.peer) : std::pair(message.peer, comm->rank)];
  }
  /// Operations of one communicator are ordered on the device too: by one stream, or by events.
  void begin() {
    if (comm->is_executing) world().violate(fmt::format("rank {}: two groups of a communicator run at once, on two streams", comm->rank));
    comm->is_executing = has_begun = true;
    for (const Message& message : messages) {
      posts.push_back(std::make_shared<Clique::Post>(Clique::Post{message.data, message.num_bytes, message.type}));
      (message.is_send ? meeting(message).sends : meeting(message).receives).push_back(posts.back());
    }
  }
  /// "Point-to-point": the counts and types of a send and its receive must be the same.
  void match(const Message& message) const {
    Clique::Meeting& both = meeting(message);
    while (!both.sends.empty() && !both.receives.empty()) {
      Clique::Post &send = *both.sends.front(), &receive = *both.receives.front();
      if (send.num_bytes != receive.num_bytes || send.type != receive.type)
        world().violate(fmt::format("a send of {} bytes meets a receive of {} between ranks {} and {}", send.num_bytes, receive.num_bytes,
                                    comm->rank, message.peer));
      else if (send.num_bytes > 0)
        standin::runtime().memory->copy(receive.data, send.data, send.num_bytes);
      send.has_met = receive.has_met = true;
      both.sends.pop_front();
      both.receives.pop_front();
    }
  }
  cudaError_t end() {
    if (is_counted) --comm->num_running;
    if (has_begun) comm->is_executing = false;
    if (is_counted && world().one_at_a_time) {
      auto& order = world().launched[comm->device];
      order.erase(std::find(order.begin(), order.end(), ticket));
    }
    for (const Message& message : messages)  // of one that was aborted
      for (auto* queue : {&meeting(message).sends, &meeting(message).receives})
        for (const auto& post : posts) queue->erase(std::remove(queue->begin(), queue->end(), post), queue->end());
    return cudaSuccess;
  }
};

struct Part {
  Comm* comm;
  cudaStream_t stream;
  std::vector<Message> messages;
};
/// Of the calling thread.
struct Open {
  int depth = 0;
  std::vector<Part> parts;
  Result refused = success;
};
thread_local Open open;

int random_polls() { return world().most_polls == 0 ? 0 : static_cast<int>(world().random() % (world().most_polls + 1)); }

Result launch(Part part) {
  Comm* comm = part.comm;
  const u64 number = comm->num_groups++;
  if (world().group_result && world().group_result(comm->rank, number) != success) return world().group_result(comm->rank, number);
  ++world().num_groups;
  const u64 ticket = ++world().num_launches;
  comm->launches.push_back([comm, stream = part.stream, messages = std::move(part.messages), number, ticket] {
    standin::Runtime& r = standin::runtime();
    const bool is_counted = !r.stream(stream)->capture;
    if (is_counted) ++comm->num_running;
    if (is_counted && world().one_at_a_time) world().launched[comm->device].push_back(ticket);
    r.enqueue(*r.stream(stream), "group of messages", GroupKernel{comm, messages, number, ticket, is_counted});
  });
  comm->stage = Stage::launching;
  comm->polls_left = random_polls();
  Result result = comm->progress();
  while (comm->is_blocking && result == in_progress) result = comm->progress();
  return result;
}

/// Self-sends must meet within their group ("Point-to-point": a send to oneself blocks for ever otherwise).
bool meets_itself(const Part& part) {
  int unmet = 0;
  for (const Message& message : part.messages)
    if (message.peer == part.comm->rank) unmet += message.is_send ? 1 : -1;
  return unmet == 0;
}

Result close() {
  std::vector<Part> parts = std::move(open.parts);
  open.parts.clear();
  const Result refused = std::exchange(open.refused, success);
  if (refused != success) return refused;
  Result all = success;
  for (Part& part : parts) {
    if (!meets_itself(part))
      return world().violate(fmt::format("rank {}: a send to itself without a receive in its group", part.comm->rank));
    const Result result = launch(std::move(part));
    if (result != success && all != in_progress) all = result;
  }
  return all;
}

Result refuse(const std::string& rule, Result result = invalid_usage) {
  world().violate(rule, result);
  if (open.depth > 0) open.refused = result;
  return result;
}

Result add(bool is_send, const void* data, std::size_t count, DataType type, int peer, Comm* handle, void* stream_handle) {
  const std::lock_guard lock(standin::runtime().mutex);
  const auto found = world().comms.find(handle);
  if (found == world().comms.end()) return refuse("a communicator that does not exist", invalid_argument);
  Comm* comm = found->second.get();
  if (comm->stage == Stage::aborted || comm->stage == Stage::destroyed || comm->stage == Stage::finalized)
    return refuse(fmt::format("rank {}: a message on a communicator that has ended", comm->rank));
  if (!comm->is_usable())  // "Fault Tolerance": no call but ncclCommGetAsyncError and ncclCommAbort while it is in progress
    return refuse(fmt::format("rank {}: a message on a communicator that is in progress", comm->rank));
  if (peer < 0 || peer >= comm->clique->num_ranks) return refuse(fmt::format("peer {}", peer), invalid_argument);
  const auto stream_of = static_cast<cudaStream_t>(stream_handle);
  const standin::Stream* stream = standin::runtime().stream(stream_of);
  if (stream == nullptr || stream->device != comm->device || standin::current_device() != comm->device)
    return refuse(fmt::format("rank {}: a message on a stream of another device than its communicator's", comm->rank), invalid_argument);
  const auto address = reinterpret_cast<u64>(data);
  try {
    if (count > 0) (void)standin::runtime().memory->range(address, count, "message");
  } catch (const std::exception&) {
    return refuse(fmt::format("rank {}: a message outside of device memory", comm->rank), invalid_argument);
  }
  if (world().other_peer) peer = world().other_peer(comm->rank, comm->num_groups, peer);
  ++world().num_messages;
  const bool is_alone = open.depth == 0 || world().no_groups;
  if (is_alone && open.depth > 0) {  // the mutant
    const Result result = launch({comm, stream_of, {{is_send, peer, address, count, type}}});
    while (result == in_progress && comm->progress() == in_progress) {
    }
    return result == in_progress ? success : result;
  }
  auto part = std::find_if(open.parts.begin(), open.parts.end(), [&](const Part& other) { return other.comm == comm; });
  if (part == open.parts.end()) part = open.parts.insert(part, {comm, stream_of, {}});
  if (part->stream != stream_of) return refuse(fmt::format("rank {}: the stand-in wants one stream for a group", comm->rank));
  part->messages.push_back({is_send, peer, address, count, type});
  if (is_alone) return close();
  // "Fault Tolerance": any call of a non-blocking communicator may say so, and has been taken all the same.
  return comm->is_blocking || random_polls() == 0 ? success : in_progress;
}

}  // namespace
}  // namespace standin_nccl

extern "C" {
Result ncclGroupStart() {
  ++standin_nccl::open.depth;
  return success;
}
Result ncclGroupEnd() {
  const std::lock_guard lock(standin::runtime().mutex);
  if (standin_nccl::open.depth == 0) return standin_nccl::world().violate("ncclGroupEnd without ncclGroupStart");
  return --standin_nccl::open.depth > 0 ? success : standin_nccl::close();
}
Result ncclSend(const void* data, std::size_t count, DataType type, int peer, Comm* comm, void* stream) {
  return standin_nccl::add(true, data, count, type, peer, comm, stream);
}
Result ncclRecv(void* data, std::size_t count, DataType type, int peer, Comm* comm, void* stream) {
  return standin_nccl::add(false, data, count, type, peer, comm, stream);
}
}
