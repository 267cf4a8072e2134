// transport.cpp - one rank's end: its channels, how it waits, and how the group fails.
// SPDX-License-Identifier: Apache-2.0
#include "transport.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <thread>

#include "../mismatch.hpp"
#include "../relax.hpp"
#include "../vote.hpp"
#include "channels.hpp"
#include "connect.hpp"
#include "mailbox.hpp"
#include "shrink.hpp"

SEQCCL_BEGIN
namespace {

using shm::Control, shm::Failure;
using namespace std::chrono_literals;

constexpr auto look_interval = 20ms;  // between two looks whether a peer's process has ended

class ShmTransport final : public Transport {
 public:
  ShmTransport(Rank rank, shm::Meeting meeting, const WaitPolicy& policy)
      : rank_(rank),
        num_ranks_(static_cast<int>(meeting.segments.size())),
        channels_(rank, std::move(meeting.segments), [this](const shm::Clash& clash) { fail_for(clash); }),
        liveness_(std::move(meeting.liveness)),
        policy_(policy) {}

  ~ShmTransport() override {
    if (::getpid() != process_) return;  // a copy in a forked child: the rank lives on in its own process
    channels_.own().status.left.store(true, std::memory_order_seq_cst);
    channels_.ring_all();
  }

  Rank rank() const noexcept override { return rank_; }
  int num_ranks() const noexcept override { return num_ranks_; }
  const char* name() const noexcept override { return "shm"; }
  std::vector<std::string> paths(Rank /*peer*/) const override { return {"shared memory"}; }
  std::byte* arena(std::size_t num_bytes) override { return channels_.arena(num_bytes); }
  Buffer allocate(std::size_t num_bytes) override { return channels_.allocate(num_bytes); }
  bool is_receivable(const std::byte* data, std::size_t num_bytes) const noexcept override {
    return channels_.is_receivable(data, num_bytes);
  }

  std::size_t eager_bytes() const noexcept override { return shm::eager_bytes; }

  std::uint64_t arm(const Message& receive) override {
    if (receive.num_bytes > shm::eager_bytes && channels_.offset_of(receive.data, receive.num_bytes) < 0)
      throw Error(ErrorKind::internal,
                  fmt::format("shm: rank {}: a receive of {} bytes is armed outside the memory of peers", rank_, receive.num_bytes));
    return channels_.arm(receive);
  }
  bool try_send(const Message& send) override {
    if (failed()) check();
    if (channels_.control(send.peer).status.left.load(std::memory_order_acquire)) return false;
    return channels_.try_send(send);
  }
  bool arrived(Rank peer, Lane lane, std::uint64_t ticket) override { return channels_.arrived(peer, lane, ticket); }

  void check() override {
    if (failed()) throw_failure();
  }

  int inline_spins() const noexcept override { return policy_.inline_spins; }

  void idle(int attempt, SteadyClock::time_point deadline) override {
    // Per thread, because two threads of a rank wait side by side; attempt 0 begins a new wait.
    struct Sleep {
      const ShmTransport* announced_at = nullptr;
      std::uint32_t seen = 0;
    };
    thread_local Sleep sleep;
    if (attempt == 0) sleep.announced_at = nullptr;
    if (attempt < policy_.spins) return spin(attempt);
    if (attempt - policy_.spins < policy_.yields) {
      std::this_thread::yield();
      if (attempt % 64 == 0) look_for_the_dead();
      return;
    }
    if (sleep.announced_at != this) {
      // Announced first, then polled once more, then asleep: who publishes meanwhile either is seen or rings the bell.
      sleep = {this, channels_.announce_sleep()};
      return;
    }
    sleep.announced_at = nullptr;
    const auto left = std::min<std::chrono::nanoseconds>(deadline - SteadyClock::now(), look_interval);
    if (left > 0ns) (void)channels_.sleep(sleep.seen, left);
    look_for_the_dead();
  }

  void wake() noexcept override { channels_.wake(); }

  // The first call wins; the record lies in rank 0's segment, which stays mapped when rank 0 has died.
  void abort(const Error& error) noexcept override {
    if (::getpid() != process_) return;
    Failure& failure = channels_.control(0).failure;
    const std::optional<Error> named = why_it_gave_up(error);
    std::uint32_t none = Failure::none;
    if (!failure.state.compare_exchange_strong(none, Failure::being_written)) return;
    shm::write(failure, rank_, named ? *named : error);
    channels_.ring_all();
  }

  ShrunkTransport shrink(std::chrono::nanoseconds timeout) override {
    if (::getpid() != process_)
      throw Error(ErrorKind::argument, fmt::format("Communicator::shrink: this process is a copy of rank {}'s, and no rank", rank_));
    abort(shrinks(rank_, num_ranks_));
    shm::Survivors survivors = shm::shrink(rank_, channels_.segments(), liveness_, timeout);
    const auto& former = survivors.former_ranks;
    const auto rank = static_cast<Rank>(std::lower_bound(former.begin(), former.end(), rank_) - former.begin());
    return {std::make_unique<ShmTransport>(rank, std::move(survivors.meeting), policy_), std::move(survivors.former_ranks)};
  }
  RankStatus& status(Rank rank) noexcept override { return channels_.control(rank).status; }

  void describe_operation(std::string_view text) override {
    if (text == own_text_) return;
    own_text_ = text;
    Control& mine = channels_.own();
    mine.text_version.fetch_add(1, std::memory_order_acq_rel);
    const std::size_t num_chars = std::min(text.size(), sizeof(mine.text));
    std::memcpy(mine.text, text.data(), num_chars);
    mine.text_chars.store(static_cast<std::uint32_t>(num_chars), std::memory_order_relaxed);
    mine.text_version.fetch_add(1, std::memory_order_release);
  }

  std::vector<std::uint64_t> received_bytes() const override { return counted(&shm::Channels::received_bytes); }
  std::vector<std::uint64_t> received_messages() const override { return counted(&shm::Channels::received_messages); }

 private:
  /// A rank that gave up while others still met it has left, and says in its own segment because of whom.
  [[nodiscard]] std::optional<Error> why_it_gave_up(const Error& error) noexcept {
    try {
      for (const Rank culprit : error.culprits()) {
        if (error.kind() != ErrorKind::dead || culprit <= 0 || culprit >= num_ranks_) continue;
        const Failure& own = channels_.control(culprit).failure;
        if (own.state.load(std::memory_order_acquire) == Failure::written) return shm::read(own);
      }
    } catch (...) {  // no memory for its words: this rank's own are as true
    }
    return std::nullopt;
  }
  [[nodiscard]] bool failed() noexcept { return channels_.control(0).failure.state.load(std::memory_order_seq_cst) != Failure::none; }
  void fail_for(const shm::Clash& clash) {
    abort(mismatch_error(*this, side(clash.sender, clash.sent_bytes), side(clash.receiver, clash.expected_bytes)));
    throw_failure();
  }
  [[noreturn]] void throw_failure() {
    Failure& failure = channels_.control(0).failure;
    const auto deadline = SteadyClock::now() + 1s;  // longer than it takes to write some text: then the writer has died over it
    while (failure.state.load(std::memory_order_acquire) != Failure::written) {
      if (SteadyClock::now() > deadline) {
        const Rank writer = failure.writer.load();
        throw Error(ErrorKind::dead,
                    fmt::format("rank {} of {}: the group failed, and {} ended before it said why", rank_, num_ranks_,
                                writer < 0 ? "a rank" : fmt::format("rank {}", writer)),
                    writer < 0 ? std::vector<Rank>{} : std::vector<Rank>{writer});
      }
      std::this_thread::yield();
    }
    throw shm::read(failure);
  }

  /// At most every look_interval: fails the group if a peer's process has ended without leaving.
  void look_for_the_dead() {
    const std::unique_lock lock(looking_, std::try_to_lock);  // one of the rank's threads is enough
    const auto now = SteadyClock::now();
    if (!lock || now - last_look_ < look_interval) return;
    last_look_ = now;
    std::vector<Rank> dead;
    for (const Rank peer : liveness_.ended()) {
      if (channels_.control(peer).status.left.load(std::memory_order_acquire))
        liveness_.forget(peer);
      else
        dead.push_back(peer);
    }
    if (dead.empty() || failed()) return;
    const MismatchSide last = side(dead.front(), 0);
    const auto text =
        fmt::format("rank {} of {}: the process of rank {} has ended without leaving its communicator, {} {}", rank_, num_ranks_,
                    dead.front(), channels_.control(dead.front()).status.finished.load() == last.operation ? "after" : "in", where(last));
    abort(Error(ErrorKind::dead, text, std::move(dead)));
  }

  [[nodiscard]] MismatchSide side(Rank rank, std::uint64_t num_bytes) {
    Control& who = channels_.control(rank);
    MismatchSide result{rank, num_bytes, who.status.operation.load(), who.status.step.load(), {}};
    for (int attempt = 0; attempt < 100; ++attempt) {
      const std::uint32_t version = who.text_version.load(std::memory_order_acquire);
      std::string text(who.text, std::min<std::size_t>(who.text_chars.load(std::memory_order_relaxed), sizeof(who.text)));
      if (version % 2 == 0 && who.text_version.fetch_add(0, std::memory_order_acq_rel) == version) {
        result.text = std::move(text);
        break;
      }
      std::this_thread::yield();
    }
    return result;
  }

  std::vector<std::uint64_t> counted(std::uint64_t (shm::Channels::*count)(Rank) const noexcept) const {
    std::vector<std::uint64_t> result;
    for (Rank peer = 0; peer < num_ranks_; ++peer) result.push_back((channels_.*count)(peer));
    return result;
  }

  Rank rank_;
  int num_ranks_;
  shm::Channels channels_;
  shm::Liveness liveness_;
  WaitPolicy policy_;
  pid_t process_ = ::getpid();
  std::string own_text_;
  std::mutex looking_;
  SteadyClock::time_point last_look_{};
};

}  // namespace

std::unique_ptr<Transport> shm_transport(Rank rank, int num_ranks, const AllGather& all_gather, const WaitPolicy& policy,
                                         std::chrono::nanoseconds timeout) {
  return std::make_unique<ShmTransport>(rank, shm::meet(rank, num_ranks, all_gather, timeout), policy);
}

SEQCCL_END
