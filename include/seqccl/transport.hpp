// transport.hpp - moving bytes between ranks: all that a host transport has to know.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "seqccl/buffer.hpp"
#include "seqccl/error.hpp"
#include "seqccl/flight_recorder.hpp"
#include "seqccl/schedule.hpp"

SEQCCL_BEGIN

using SteadyClock = std::chrono::steady_clock;

/// One message. The i-th send from A to B on a lane meets B's i-th armed receive from A on that lane.
struct Message {
  Rank peer = 0;
  Lane lane = Lane::comm;
  std::byte* data = nullptr;
  std::size_t num_bytes = 0;
  std::uint64_t flag = 0;  // plan fingerprint and run: sender and receiver must agree
};

/// How a rank waits: `spins` polls, then `yields` polls with a yield between them, then it blocks until it is woken. A plan that runs
/// on one thread alone polls `inline_spins` times more: nobody of this rank could use the core meanwhile.
struct WaitPolicy {
  int spins = 20;
  int yields = 200;
  int inline_spins = 0;
  /// Ranks on the host against the cores this process may use: spin long when every thread of a rank has a core, else yield soon;
  /// spin long in inline plans when every rank has a core.
  [[nodiscard]] static WaitPolicy for_host(int ranks_on_host);
  [[nodiscard]] std::string describe() const;
};

/// What a rank is doing, for whoever waits for it. Written by its own threads only, read by all.
struct RankStatus {
  std::atomic<std::uint64_t> operation{0};     // operations begun
  std::atomic<std::uint64_t> finished{0};      // operations ended
  std::atomic<std::int64_t> progress_ns{0};    // SteadyClock time of the last step begun or ended, or tile finished
  std::atomic<std::int32_t> compute_step{-1};  // index in Schedule::steps, -1: not computing
  std::atomic<std::int32_t> waiting_for{-1};   // peer that the oldest unfinished message is with, -1: not waiting
  std::atomic<std::int32_t> step{-1};          // index in Schedule::steps of the last step begun, -1: none yet
  std::atomic<std::uint64_t> plan{0};          // Schedule::fingerprint of the last operation begun
  std::atomic<std::uint64_t> earlier_plan{0};  // of the one before
  std::atomic<std::int64_t> looked_ns{0};      // SteadyClock time at which it last looked about in a long wait: it is not stopped
  alignas(64) std::atomic<bool> left{false};   // destroyed its communicator; polled by those who wait, so it has a line of its own
};

class Transport;
class Executor;

/// What Transport::shrink gives.
struct ShrunkTransport {
  std::unique_ptr<Transport> transport;
  std::vector<Rank> former_ranks;  // by rank: which it was before, ascending
};

/// Transport: one rank's end
/// =========================
///
/// A put needs a credit. `arm` gives the sender leave to write into the receiver's memory and returns a ticket; `try_send`
/// writes and announces the arrival if the credit is there; `arrived` tells. Per ordered pair and lane the counters only
/// grow, nothing is ever reset, and the credit carries the address: no round trip, nothing allocated in the steady state.
///
///     receiver   arm ─── credit (address, bytes, flag) ──▶ try_send ─ one copy ─ arrival ──▶ arrived        sender
///
/// Small messages may go without a credit, by way of a buffer between the two: then try_send is true before the receive is armed, and a
/// mismatch is noticed by the receiver.
///
/// Calls come from one thread of the rank at a time, except wake() and abort(). A flag or size that differs throws
/// Error(mismatched) at the one who notices and fails the group.
class Transport {
 public:
  virtual ~Transport() = default;
  [[nodiscard]] virtual Rank rank() const noexcept = 0;
  [[nodiscard]] virtual int num_ranks() const noexcept = 0;
  /// "threads", "shm", ...: for reports.
  [[nodiscard]] virtual const char* name() const noexcept { return "other"; }
  /// By what bytes to and from `peer` travel, each word once, ascending, for reports: of ucx the transports of the lanes that UCX has
  /// chosen, "cma" "posix" or "rc_mlx5", settled when messages have gone both ways. Empty if the backend does not say.
  [[nodiscard]] virtual std::vector<std::string> paths(Rank /*peer*/) const { return {}; }

  /// Memory that peers may write into, at least `num_bytes` and 64-byte aligned; contents are lost when it grows. It belongs to the
  /// transport, and is given back after the last peer can write. @throws std::bad_alloc
  [[nodiscard]] virtual std::byte* arena(std::size_t num_bytes) = 0;
  /// Memory of the caller's that peers may write into as they may into the arena, until it is freed. @throws std::bad_alloc
  [[nodiscard]] virtual Buffer allocate(std::size_t num_bytes) { return Buffer(num_bytes); }
  /// True if `num_bytes` at `data` lie in memory from allocate() that peers can reach.
  [[nodiscard]] virtual bool is_receivable(const std::byte* /*data*/, std::size_t /*num_bytes*/) const noexcept { return false; }
  /// Messages of at most this size are copied to their place by the receiver itself, so that may be any memory.
  [[nodiscard]] virtual std::size_t eager_bytes() const noexcept { return 0; }
  /// Grants one credit for `receive`, whose memory must lie in the arena or be receivable unless the message is small or the transport is
  /// of threads, and must stay untouched until arrived(). Returns the ticket to ask with.
  [[nodiscard]] virtual std::uint64_t arm(const Message& receive) = 0;
  /// True once the bytes are handed over and `send.data` may change; false while there is no credit.
  [[nodiscard]] virtual bool try_send(const Message& send) = 0;
  [[nodiscard]] virtual bool arrived(Rank peer, Lane lane, std::uint64_t ticket) = 0;

  /// Throws what ended the group: a rank that died, left, stalled, mismatched or aborted.
  virtual void check() = 0;
  /// Called between polls, `attempt` counting from 0: spins, yields or blocks (at most until `deadline`).
  virtual void idle(int attempt, SteadyClock::time_point deadline) = 0;
  /// WaitPolicy::inline_spins: how far below 0 the attempts of a rank that has only this one thread begin; they spin.
  [[nodiscard]] virtual int inline_spins() const noexcept { return 0; }
  /// Wakes this rank's own threads out of idle().
  virtual void wake() noexcept = 0;
  /// Ends the group for all ranks: every wait throws `error`. The first call wins. Any thread.
  virtual void abort(const Error& error) noexcept = 0;
  /// Ends the group if it has not failed, and makes a new one of the ranks that call this within `timeout` and have not ended or left: the
  /// same ranks for all who get one. This end stays as it is, failed. @throws Error(stalled) if the others have gone on without this rank;
  /// Error(argument) if the transport cannot, or this rank has done it before; Error(local) if the system has no memory or no descriptor
  [[nodiscard]] virtual ShrunkTransport shrink(std::chrono::nanoseconds timeout);
  /// What rank `rank` is doing; over a network, what it has said last.
  [[nodiscard]] virtual RankStatus& status(Rank rank) noexcept = 0;
  /// When status() was true: the end of time where all ranks share it, the beginning of time if a rank has never said anything.
  [[nodiscard]] virtual SteadyClock::time_point status_time(Rank /*rank*/) const noexcept { return SteadyClock::time_point::max(); }
  /// Asks for the status of `rank`, without waiting; nothing where it is shared.
  virtual void ask_for_status(Rank /*rank*/) noexcept {}
  /// A text that describes this rank's current operation, for comparison on a mismatch.
  virtual void describe_operation(std::string_view text) = 0;
  /// A step of the current operation has begun, on whichever thread runs it. Does nothing, except where faults are asked for.
  virtual void begin_step(const Schedule& /*schedule*/, std::uint32_t /*step*/) {}

  /// Bytes received from each rank since the start, counted where they arrive.
  [[nodiscard]] virtual std::vector<std::uint64_t> received_bytes() const = 0;
  [[nodiscard]] virtual std::vector<std::uint64_t> received_messages() const = 0;

  /// Who runs this rank's plans where their tensors are not in host memory; nullptr: run_host does. Then nobody arms or sends.
  [[nodiscard]] virtual Executor* executor() noexcept { return nullptr; }

  /// What this rank did last.
  [[nodiscard]] FlightRecorder& flight_recorder() noexcept { return flight_recorder_; }

 private:
  FlightRecorder flight_recorder_;
};

/// Ranks that are not in the operation that the most are in, ascending: the culprits of a mismatch that `a` and `b` have come upon (Error).
/// Gives ranks that have not come so far a moment to do so.
[[nodiscard]] std::vector<Rank> odd_ranks(Transport& transport, Rank a, Rank b);

/// Waits until `done()` is true, in the transport's manner. Every wait in the library is this one.
/// Returns false if `deadline` passes first. @throws what Transport::check throws
template <class Done>
bool wait_until(Transport& transport, SteadyClock::time_point deadline, Done&& done, bool is_inline = false) {
  for (int attempt = is_inline ? -transport.inline_spins() : 0;; ++attempt) {
    if (done()) return true;
    transport.check();
    if (attempt > 64 && SteadyClock::now() >= deadline) return false;
    transport.idle(attempt, deadline);
  }
}

SEQCCL_END
