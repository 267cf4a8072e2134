// transport.cpp - one rank's end of a group of thread ranks: a message is one copy into the receiver's memory.
// SPDX-License-Identifier: Apache-2.0
#include "transport.hpp"

#include <algorithm>
#include <cstring>
#include <thread>
#include <utility>

#include "../mismatch.hpp"
#include "../relax.hpp"
#include "../vote.hpp"
#include "group.hpp"
#include "seqccl/communicator.hpp"

SEQCCL_BEGIN
namespace {

/// In the group itself, which lives as long as one of its ranks.
class ThreadBallot {
 public:
  ThreadBallot(ThreadGroup& group, Rank rank) : group_(group), rank_(rank) {}
  void come() { group_.seat(rank_).has_come.store(true, std::memory_order_seq_cst); }
  void look() {}
  [[nodiscard]] bool has_come(Rank rank) { return group_.seat(rank).has_come.load(std::memory_order_seq_cst); }
  [[nodiscard]] bool is_gone(Rank rank) { return group_.seat(rank).status.left.load(std::memory_order_seq_cst); }
  void propose(const std::vector<Rank>& members) { group_.succeed(members); }
  [[nodiscard]] std::optional<std::vector<Rank>> decision() {
    auto successor = group_.successor();
    if (!successor) return std::nullopt;
    return std::move(successor->former_ranks);
  }

 private:
  ThreadGroup& group_;
  Rank rank_;
};

class ThreadTransport final : public Transport {
 public:
  ThreadTransport(std::shared_ptr<ThreadGroup> group, Rank rank, const WaitPolicy& policy)
      : group_(std::move(group)), rank_(rank), policy_(policy) {}

  ~ThreadTransport() override {
    group_->seat(rank_).status.left.store(true, std::memory_order_seq_cst);
    group_->ring_all();
    group_->quiesce(rank_);
  }

  Rank rank() const noexcept override { return rank_; }
  int num_ranks() const noexcept override { return group_->num_ranks(); }
  const char* name() const noexcept override { return "threads"; }
  std::vector<std::string> paths(Rank /*peer*/) const override { return {"own memory"}; }

  std::byte* arena(std::size_t num_bytes) override {
    if (arena_.num_bytes() < num_bytes) {
      arena_ = Buffer();  // the old one first: both together may not fit
      arena_ = Buffer(num_bytes);
    }
    return arena_.data();
  }

  std::uint64_t arm(const Message& receive) override {
    Channel& channel = group_->channel(receive.peer, rank_, static_cast<int>(receive.lane));
    std::uint64_t ticket = 0;
    {
      const std::lock_guard lock(channel.mutex);
      const std::uint64_t credits = channel.credits.load(std::memory_order_relaxed);
      const std::uint64_t taken = channel.taken.load(std::memory_order_relaxed);
      if (credits - taken == channel.ring.size()) grow(channel, taken, credits);
      channel.ring[credits % channel.ring.size()] = {receive.data, receive.num_bytes, receive.flag};
      ticket = credits + 1;
      channel.credits.store(ticket, std::memory_order_release);
    }
    group_->seat(receive.peer).bell.ring();
    return ticket;
  }

  bool try_send(const Message& send) override {
    Channel& channel = group_->channel(rank_, send.peer, static_cast<int>(send.lane));
    const std::uint64_t taken = channel.taken.load(std::memory_order_relaxed);
    if (channel.credits.load(std::memory_order_acquire) == taken) return false;

    // First say that we write, then look whether we may: the other side does the two in the opposite order (quiesce).
    channel.copying.store(true, std::memory_order_seq_cst);
    Seat& receiver = group_->seat(send.peer);
    if (group_->failed() || receiver.status.left.load(std::memory_order_seq_cst)) {
      channel.copying.store(false, std::memory_order_release);
      check();
      return false;
    }
    Channel::Armed armed;
    {
      const std::lock_guard lock(channel.mutex);
      armed = channel.ring[taken % channel.ring.size()];
      channel.taken.store(taken + 1, std::memory_order_relaxed);
    }
    if (armed.num_bytes != send.num_bytes || armed.flag != send.flag) {
      channel.copying.store(false, std::memory_order_release);
      group_->fail(mismatch_error(*this, side(rank_, send.num_bytes), side(send.peer, armed.num_bytes)));
      check();
    }
    if (send.num_bytes != 0) std::memcpy(armed.data, send.data, send.num_bytes);
    channel.bytes.fetch_add(send.num_bytes, std::memory_order_relaxed);
    channel.arrivals.fetch_add(1, std::memory_order_release);
    channel.copying.store(false, std::memory_order_release);
    receiver.bell.ring();
    return true;
  }

  bool arrived(Rank peer, Lane lane, std::uint64_t ticket) override {
    return group_->channel(peer, rank_, static_cast<int>(lane)).arrivals.load(std::memory_order_acquire) >= ticket;
  }

  void check() override {
    if (!group_->failed()) return;
    group_->quiesce(rank_);  // whoever sees the error may free the memory
    group_->throw_failure();
  }

  int inline_spins() const noexcept override { return policy_.inline_spins; }

  void idle(int attempt, SteadyClock::time_point deadline) override {
    // The epoch that this thread read at the end of its last idle(), that is before its last poll. Per thread, because two
    // threads of a rank wait side by side; attempt 0 begins a new wait, so nothing is kept between waits.
    thread_local std::uint64_t seen = 0;
    thread_local const Doorbell* seen_bell = nullptr;

    Doorbell& bell = group_->seat(rank_).bell;
    if (attempt == 0 || attempt < policy_.spins) {
      spin(attempt);
    } else if (attempt - policy_.spins < policy_.yields || seen_bell != &bell) {
      std::this_thread::yield();
    } else {
      bell.sleep(seen, deadline);
    }
    seen = bell.epoch();
    seen_bell = &bell;
  }

  void wake() noexcept override { group_->seat(rank_).bell.ring(); }
  void abort(const Error& error) noexcept override { group_->fail(error); }

  ShrunkTransport shrink(std::chrono::nanoseconds timeout) override {
    group_->fail(shrinks(rank_, num_ranks()));
    group_->quiesce(rank_);
    ThreadBallot votes(*group_, rank_);
    std::vector<Rank> members = vote(rank_, num_ranks(), timeout, votes);
    auto next = group_->successor()->group;
    const auto rank = static_cast<Rank>(std::lower_bound(members.begin(), members.end(), rank_) - members.begin());
    try {
      return {std::make_unique<ThreadTransport>(next, rank, policy_), std::move(members)};
    } catch (...) {  // the others have this rank among them
      next->seat(rank).status.left.store(true, std::memory_order_seq_cst);
      next->ring_all();
      throw;
    }
  }

  RankStatus& status(Rank rank) noexcept override { return group_->seat(rank).status; }

  void describe_operation(std::string_view text) override {
    Seat& seat = group_->seat(rank_);
    const std::lock_guard lock(seat.text_mutex);
    seat.operation_text = text;
  }

  std::vector<std::uint64_t> received_bytes() const override { return sum_over_lanes(&Channel::bytes); }
  std::vector<std::uint64_t> received_messages() const override { return sum_over_lanes(&Channel::arrivals); }

 private:
  static void grow(Channel& channel, std::uint64_t taken, std::uint64_t credits) {
    std::vector<Channel::Armed> ring(channel.ring.empty() ? 4 : 2 * channel.ring.size());
    for (std::uint64_t i = taken; i < credits; ++i) ring[i % ring.size()] = channel.ring[i % channel.ring.size()];
    channel.ring = std::move(ring);
  }

  std::string operation_text(Rank rank) const {
    Seat& seat = group_->seat(rank);
    const std::lock_guard lock(seat.text_mutex);
    return seat.operation_text;
  }

  [[nodiscard]] MismatchSide side(Rank rank, std::uint64_t num_bytes) const {
    const RankStatus& status = group_->seat(rank).status;
    return {rank, num_bytes, status.operation.load(), status.step.load(), operation_text(rank)};
  }

  std::vector<std::uint64_t> sum_over_lanes(std::atomic<std::uint64_t> Channel::*counter) const {
    std::vector<std::uint64_t> sums(num_ranks());
    for (Rank from = 0; from < num_ranks(); ++from) {
      for (int lane = 0; lane < num_lanes; ++lane)
        sums[from] += (group_->channel(from, rank_, lane).*counter).load(std::memory_order_relaxed);
    }
    return sums;
  }

  // Shared, because ranks come and go in any order: whoever still lives may look at the channels and the status of one that
  // left. This is the library's only shared_ptr.
  std::shared_ptr<ThreadGroup> group_;
  Rank rank_;
  WaitPolicy policy_;
  Buffer arena_;
};

}  // namespace

std::vector<std::unique_ptr<Transport>> thread_transports(int num_ranks, const WaitPolicy& policy) {
  const auto group = std::make_shared<ThreadGroup>(num_ranks);
  std::vector<std::unique_ptr<Transport>> ends;
  ends.reserve(num_ranks);
  for (Rank rank = 0; rank < num_ranks; ++rank) ends.push_back(std::make_unique<ThreadTransport>(group, rank, policy));
  return ends;
}

SEQCCL_END
