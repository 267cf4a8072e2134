// channels.hpp - messages through shared memory: one rank's side of the channels to and from all ranks of the host.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "../armed_queue.hpp"
#include "heap.hpp"
#include "segment.hpp"

SEQCCL_BEGIN
namespace shm {

/// A message that its receiver does not expect so: other size, or another plan.
struct Clash {
  Rank sender = 0, receiver = 0;
  std::uint64_t sent_bytes = 0, expected_bytes = 0;
};

/// A sender puts the message where the receiver has it, and announces it in a slot; small ones go by way of a room (layout.hpp). Knows
/// nothing of failures: who has left or died is not written to any more by whoever calls this.
class Channels {
 public:
  /// Every rank's segment, this rank's among them. `on_clash` throws.
  Channels(Rank rank, std::vector<Segment> segments, std::function<void(const Clash&)> on_clash);

  [[nodiscard]] int num_ranks() const noexcept { return static_cast<int>(segments_.size()); }
  [[nodiscard]] const std::vector<Segment>& segments() const noexcept { return segments_; }
  [[nodiscard]] Control& control(Rank rank) const noexcept { return segments_[static_cast<std::size_t>(rank)].control(); }
  [[nodiscard]] Control& own() const noexcept { return control(rank_); }

  [[nodiscard]] std::byte* arena(std::size_t num_bytes) { return segment(rank_).arena(num_bytes); }
  [[nodiscard]] Buffer allocate(std::size_t num_bytes) { return heap_->allocate(num_bytes); }
  [[nodiscard]] bool is_receivable(const std::byte* data, std::size_t num_bytes) const noexcept {
    return heap_->offset_of(data, num_bytes) >= 0;
  }
  /// Of memory in this rank's arena or from allocate(); -1 if it lies elsewhere.
  [[nodiscard]] std::int64_t offset_of(const std::byte* data, std::size_t num_bytes) const noexcept;

  /// As Transport's. A large receive must lie where offset_of() knows it.
  [[nodiscard]] std::uint64_t arm(const Message& receive);
  [[nodiscard]] bool try_send(const Message& send);
  [[nodiscard]] bool arrived(Rank peer, Lane lane, std::uint64_t ticket);

  /// Wakes `rank` if it sleeps, or is about to.
  void ring(Rank rank) noexcept;
  void ring_all() noexcept;
  /// Wakes this rank's own threads.
  void wake() noexcept;
  /// Whoever publishes something from here on rings. Returns what sleep() takes, after one more look around.
  [[nodiscard]] std::uint32_t announce_sleep() noexcept;
  /// False if nobody rang all the time.
  bool sleep(std::uint32_t announced, std::chrono::nanoseconds longest) noexcept;

  [[nodiscard]] std::uint64_t received_bytes(Rank peer) const noexcept { return counts_[static_cast<std::size_t>(peer)].bytes.load(); }
  [[nodiscard]] std::uint64_t received_messages(Rank peer) const noexcept {
    return counts_[static_cast<std::size_t>(peer)].messages.load();
  }

 private:
  /// This rank's side of the messages from one peer on one lane. Numbers count messages from 0.
  struct Incoming {
    Channel* channel = nullptr;
    ArmedQueue armed;           // from number `taken` on
    std::uint64_t taken = 0;    // have come and are where they belong
    std::uint64_t granted = 0;  // credits published
    bool is_crowded = false;    // more are armed than there are slots
  };
  /// And of those to one peer.
  struct Outgoing {
    Channel* channel = nullptr;
    std::uint64_t sent = 0;
    std::uint64_t seen_taken = 0;  // by the receiver, when this rank last looked
  };
  struct Counts {
    std::atomic<std::uint64_t> bytes{0}, messages{0};
  };

  static std::shared_ptr<Heap> heap_of(const Segment& own);
  [[nodiscard]] Segment& segment(Rank rank) noexcept { return segments_[static_cast<std::size_t>(rank)]; }
  [[nodiscard]] std::size_t index(Rank peer, int lane) const noexcept {
    return static_cast<std::size_t>(peer) * num_lanes + static_cast<std::size_t>(lane);
  }
  [[nodiscard]] Incoming& incoming(Rank peer, int lane) noexcept { return incoming_[index(peer, lane)]; }
  [[nodiscard]] Outgoing& outgoing(Rank peer, int lane) noexcept { return outgoing_[index(peer, lane)]; }
  bool put_eager(const Message& send, Outgoing& to);
  bool put_direct(const Message& send, Outgoing& to);
  void offer(const Message& send, Slot& slot, Outgoing& to);
  void announce(Slot& slot, Rank peer, Outgoing& to);
  void grant(Rank peer, Incoming& from);
  void take(Rank peer, int lane, Incoming& from);
  void relieve();

  Rank rank_;
  std::vector<Segment> segments_;
  std::function<void(const Clash&)> on_clash_;
  std::shared_ptr<Heap> heap_;  // with the buffers
  std::vector<Incoming> incoming_;
  std::vector<Outgoing> outgoing_;
  std::vector<std::pair<Rank, int>> crowded_;  // channels to this rank with is_crowded
  std::vector<Counts> counts_;
};

}  // namespace shm
SEQCCL_END
