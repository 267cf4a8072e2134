// control_plane.hpp - notes between ranks over plain TCP, served by a thread of its own while the rank computes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
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
  card,       // of the memory that ranks of one host share
  statement,  // of the vote on who goes on
  confirmed,  // that one, by its number, has been delivered to all
  decided,    // who goes on; the last note of this group: what follows is of the next
};

enum class Ending {
  ended,        // the peer has closed the connection, or its system has when its process ended
  unreachable,  // nobody answers, or another host says that there is no such connection: the peer may live, or have said something more
  unreadable,   // this rank has closed it, as it cannot follow the peer any more
};

/// A connection to another rank, and what is still to be read from it and written to it.
struct Line {
  Descriptor connection;
  std::string in, out;
  bool is_of_before = false;  // until `decided`, what comes is of the group that this one was shrunk from
  bool is_local = false;      // nothing lies between that could reset it
  std::optional<Ending> ended{};
};

/// Kind (4 bytes) | bytes (4) | text.
[[nodiscard]] std::string note_bytes(NoteKind kind, std::string_view text);

/// A connection that ends, or says what no rank says, is closed and reported once.
class ControlPlane {
 public:
  /// Called on the thread.
  struct Handlers {
    std::function<void(Rank, NoteKind, std::string_view)> on_note;
    std::function<void(Rank, Ending)> on_end;
    std::function<void(std::uint64_t)> on_delivered;
    std::function<void()> on_readable;
  };
  /// `lines` by rank; one that is not open is this rank's own.
  explicit ControlPlane(std::vector<Line> lines);
  ~ControlPlane() { stop(std::chrono::milliseconds(0)); }
  ControlPlane(const ControlPlane&) = delete;
  ControlPlane& operator=(const ControlPlane&) = delete;

  /// Begins the thread. @throws Error(local) if there is none to be had
  void start(Handlers handlers);
  /// Queues a note; any thread. False without memory for it: then it is lost. After `decided` nothing more is said to that rank.
  bool post(Rank peer, NoteKind kind, std::string_view text) noexcept;
  bool post_to_all(NoteKind kind, std::string_view text) noexcept;
  /// Calls on_delivered(number) once the systems of all others have all that was posted to them; the last call counts.
  void tell_when_delivered(std::uint64_t number) noexcept;
  /// Calls on_readable() once, as soon as `descriptor` can be read, for a thread that sleeps elsewhere.
  void watch(int descriptor) noexcept;
  /// Takes the lines to these ranks away, for the next group; the others stay. Waits for the thread, which must run.
  [[nodiscard]] std::vector<Line> release(const std::vector<Rank>& ranks);
  /// Sends what is queued for at most `patience`, joins the thread and closes all connections.
  void stop(std::chrono::milliseconds patience) noexcept;
  /// In a forked child the thread does not exist.
  void forget_thread() noexcept {
    if (thread_.joinable()) thread_.detach();
  }

 private:
  struct Peer {
    Line line;                // line.out: guarded by mutex_
    bool is_over = false;     // it has said `decided`: what follows is not read here
    bool has_parted = false;  // this rank has said so; guarded by mutex_
    int error = 0;            // the first of the connection
  };
  void serve();
  bool send(Peer& peer);
  void release_asked();
  void read(Rank rank);
  [[nodiscard]] bool take_notes(Rank rank);
  [[nodiscard]] static Ending ending_of(const Peer& peer) noexcept;
  void end(Rank rank, Ending how);

  std::vector<Peer> peers_;
  Handlers handlers_;
  Event wake_;
  std::mutex mutex_;  // of all up to the next blank line
  bool stopping_ = false;
  std::optional<std::uint64_t> undelivered_;
  std::vector<Rank> asked_;
  std::vector<Line> released_;
  SteadyClock::time_point stop_at_{};

  std::condition_variable has_released_;
  std::atomic<int> watched_{-1};
  std::thread thread_;
};

}  // namespace ucx
SEQCCL_END
