// control_plane.hpp - notes between ranks over plain TCP, served by a thread of its own while the rank computes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "../descriptor.hpp"
#include "bell.hpp"
#include "seqccl/error.hpp"
#include "seqccl/transport.hpp"

SEQCCL_BEGIN
namespace ucx {

enum class NoteKind : std::uint32_t {
  address = 1,  // of the UCX worker
  connected,    // to the UCX workers of all: whoever leaves earlier cannot be connected to
  failure,      // the group has failed, and why
  leaving,      // this rank leaves; how many messages it has sent to you
  farewell,     // they have all come
  ask,          // what do you do, and in which operation?
  status,
};

/// Kind (4 bytes) | bytes (4) | text. A connection that ends, or says what no rank says, is closed and reported once.
class ControlPlane {
 public:
  /// Called on the thread.
  struct Handlers {
    std::function<void(Rank, NoteKind, std::string_view)> on_note;
    std::function<void(Rank)> on_end;
  };
  /// `connections` by rank; one that is not open is this rank's own.
  explicit ControlPlane(std::vector<Descriptor> connections);
  ~ControlPlane() { stop(std::chrono::milliseconds(0)); }
  ControlPlane(const ControlPlane&) = delete;
  ControlPlane& operator=(const ControlPlane&) = delete;

  /// Begins the thread. @throws Error(local) if there is none to be had
  void start(Handlers handlers);
  /// Queues a note; any thread. Without memory for it the note is lost.
  void post(Rank peer, NoteKind kind, std::string_view text) noexcept;
  void post_to_all(NoteKind kind, std::string_view text) noexcept;
  /// Sends what is queued for at most `patience`, joins the thread and closes all connections.
  void stop(std::chrono::milliseconds patience) noexcept;
  /// In a forked child the thread does not exist.
  void forget_thread() noexcept {
    if (thread_.joinable()) thread_.detach();
  }

 private:
  struct Peer {
    Descriptor connection;
    std::string in, out;  // out: guarded by mutex_
  };
  void serve();
  void read(Rank rank);
  void end(Rank rank);

  std::vector<Peer> peers_;
  Handlers handlers_;
  Event wake_;
  std::mutex mutex_;
  bool stopping_ = false;
  SteadyClock::time_point stop_at_{};
  std::thread thread_;
};

}  // namespace ucx
SEQCCL_END
