// group.hpp - what the thread ranks of one group share: a channel per ordered pair and lane, and the first failure.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "doorbell.hpp"
#include "seqccl/transport.hpp"

SEQCCL_BEGIN

/// Messages from one rank to another on one lane. Credits and arrivals only grow. The receiver writes `credits`, the sender
/// everything else; the mutex guards the ring, which grows under it.
struct alignas(64) Channel {
  struct Armed {
    std::byte* data = nullptr;
    std::size_t num_bytes = 0;
    std::uint64_t flag = 0;
  };
  std::atomic<std::uint64_t> credits{0};   // receives armed
  std::atomic<std::uint64_t> taken{0};     // credits used up
  std::atomic<std::uint64_t> arrivals{0};  // messages complete in the receiver's memory
  std::atomic<bool> copying{false};        // the sender is writing into the receiver's memory
  std::atomic<std::uint64_t> bytes{0};     // of all arrivals
  std::mutex mutex;
  std::vector<Armed> ring;  // credit i is in ring[i % size]
};

/// What the others may see of a rank.
struct Seat {
  RankStatus status;
  Doorbell bell;
  std::mutex text_mutex;
  std::string operation_text;
  std::atomic<bool> has_come{false};  // to shrink the group
};

class ThreadGroup {
 public:
  explicit ThreadGroup(int num_ranks);

  [[nodiscard]] int num_ranks() const noexcept { return num_ranks_; }
  [[nodiscard]] Seat& seat(Rank rank) noexcept { return seats_[rank]; }
  [[nodiscard]] Channel& channel(Rank from, Rank to, int lane) noexcept {
    return channels_[(static_cast<std::size_t>(from) * num_ranks_ + to) * num_lanes + lane];
  }

  [[nodiscard]] bool failed() const noexcept { return failed_.load(std::memory_order_seq_cst); }
  /// The first failure wins; wakes everyone.
  void fail(const Error& error) noexcept;
  [[noreturn]] void throw_failure();
  void ring_all() noexcept;
  /// Returns when no sender writes into `rank`'s memory. Call after failed() or the rank's `left` is true: no new copy
  /// starts then, because a sender raises `copying` before it looks at the two.
  void quiesce(Rank rank) noexcept;

  /// The group of those who are left, once that is decided.
  struct Successor {
    std::vector<Rank> former_ranks;
    std::shared_ptr<ThreadGroup> group;
  };
  [[nodiscard]] std::optional<Successor> successor();
  /// The first call decides.
  void succeed(const std::vector<Rank>& members);

 private:
  int num_ranks_;
  std::vector<Seat> seats_;
  std::vector<Channel> channels_;
  std::atomic<bool> failed_{false};
  std::mutex error_mutex_;
  std::optional<Error> error_;
  std::mutex successor_mutex_;
  std::optional<Successor> successor_;
};

SEQCCL_END
