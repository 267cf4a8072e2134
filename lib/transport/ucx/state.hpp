// state.hpp - everything of one rank, which its threads and its control thread share; and how it fails.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "library.hpp"

#if SEQCCL_HAS_UCX

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <vector>

#include "../mismatch.hpp"
#include "bell.hpp"
#include "control_plane.hpp"
#include "data_plane.hpp"
#include "election.hpp"
#include "neighbours.hpp"

SEQCCL_BEGIN
namespace ucx {

/// A rank that leaves and one that hears so wait this long for what is on its way between them.
inline constexpr auto farewell_patience = std::chrono::milliseconds(800);

/// Of everything that both ends of a message must agree on.
[[nodiscard]] std::uint64_t layout_word() noexcept;

/// The arena: UCX reads and writes any memory.
class Arena {
 public:
  std::byte* at_least(std::size_t num_bytes) {
    if (num_bytes > num_bytes_) {
      data_.reset();
      num_bytes_ = 0;
      data_.reset(static_cast<std::byte*>(::operator new(num_bytes, alignment)));
      num_bytes_ = num_bytes;
    }
    return data_.get();
  }
  [[nodiscard]] bool contains(const std::byte* data, std::size_t num_bytes) const noexcept {
    const auto begin = reinterpret_cast<std::uintptr_t>(data_.get()), at = reinterpret_cast<std::uintptr_t>(data);
    return at >= begin && at - begin <= num_bytes_ && num_bytes <= num_bytes_ - (at - begin);
  }
  void leak() { keep_for_good(data_.release()); }

 private:
  static constexpr std::align_val_t alignment{4096};
  struct Free {
    void operator()(std::byte* memory) const noexcept { ::operator delete(memory, alignment); }
  };
  std::unique_ptr<std::byte, Free> data_;
  std::size_t num_bytes_ = 0;
};

/// A forked child drops it without touching it.
struct State {
  /// `lines` by rank; they are taken only if all else could be had. `sharing`: the ranks, this one among them, that send each other
  /// messages through shared memory; if there are none, all go over UCX.
  State(Rank own_rank, std::vector<Line>& lines, std::vector<Rank> sharing, const WaitPolicy& wait);

  /// The first cause is kept here and sent to all.
  void abort(const Error& error) noexcept;
  /// The same, where the others know already. True if this was the first cause.
  bool fail(const Error& error) noexcept;
  [[noreturn]] void throw_failure();
  /// The same for a message that its receiver does not expect so.
  [[noreturn]] void fail_for(const shm::Clash& clash);
  /// Wakes this rank's threads.
  void ring() noexcept;
  /// What a rank is doing, as far as this rank knows.
  [[nodiscard]] MismatchSide side(Rank of, std::uint64_t num_bytes);
  /// With the mutex held, after every call to the election: if `has_changed`, its statement goes to all.
  void spread(bool has_changed) noexcept;

  Rank rank;
  int num_ranks;
  Transport* end = nullptr;  // what callers hold
  WaitPolicy policy;
  pid_t process = ::getpid();
  Arena arena;  // unless there are neighbours: theirs is then the one
  Bell bell;
  std::vector<Rank> sharing;
  std::vector<RankStatus> statuses;
  std::vector<std::atomic<std::int64_t>> status_ns;  // SteadyClock time at which a peer's status came; 0: none has

  std::mutex mutex;  // of all up to the next blank line
  std::condition_variable changed;
  std::vector<std::string> descriptions, addresses, cards;
  std::vector<int> num_answers;
  std::vector<bool> is_connected, has_said_farewell, has_ended;
  std::optional<Error> failure;
  Election election;
  SteadyClock::time_point last_heard{};  // something of the vote

  std::atomic<bool> has_failed{false};
  std::atomic<bool> is_ready{false};             // the data plane is connected
  std::atomic<std::int64_t> last_ask_ns{0};      // for statuses
  std::unique_ptr<Neighbours> neighbours;        // once they have met
  std::atomic<const Neighbours*> near{nullptr};  // the same, for the control thread
  DataPlane data;
  ControlPlane control;  // its thread ends before what it uses
};

// On the control thread.
void take_note(State& state, Rank peer, NoteKind kind, std::string_view text);
void connection_ended(State& state, Rank peer, Ending how);
void delivered(State& state, std::uint64_t statement);

/// Connects to the worker of every rank; nobody goes on before all have got there.
void join(State& state, SteadyClock::time_point deadline);
/// Waits until what this rank has sent has come, as it goes with its process; for a short time only.
void leave(State& state) noexcept;

/// Who goes on without those that have ended: their lines, for the next group, by new rank.
struct Survivors {
  Rank rank = 0;  // of this one among them
  std::vector<Rank> former_ranks;
  std::vector<Line> lines;
  std::vector<Rank> sharing;
  SteadyClock::time_point deadline;  // until when they should have joined
};
/// @throws what Transport::shrink throws
[[nodiscard]] Survivors shrink(State& state, std::chrono::nanoseconds timeout);

}  // namespace ucx
SEQCCL_END

#endif
