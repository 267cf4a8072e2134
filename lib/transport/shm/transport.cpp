// transport.cpp - one rank's end: small messages through slots, large ones straight into the receiver's arena.
// SPDX-License-Identifier: Apache-2.0
#include "transport.hpp"

#include <fmt/format.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstring>
#include <ctime>
#include <mutex>
#include <thread>

#include "../armed_queue.hpp"
#include "../mismatch.hpp"
#include "../relax.hpp"
#include "../vote.hpp"
#include "connect.hpp"
#include "heap.hpp"
#include "shrink.hpp"

SEQCCL_BEGIN
namespace {

using shm::Channel, shm::Control, shm::Failure, shm::Segment;
using namespace std::chrono_literals;

constexpr auto look_interval = 20ms;  // between two looks whether a peer's process has ended

long futex(std::atomic<std::uint32_t>& word, int operation, std::uint32_t value, const timespec* timeout = nullptr) noexcept {
  static_assert(sizeof(word) == sizeof(std::uint32_t));
  return ::syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), operation, value, timeout, nullptr, 0);
}

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

class ShmTransport final : public Transport {
 public:
  ShmTransport(Rank rank, shm::Meeting meeting, const WaitPolicy& policy)
      : rank_(rank),
        num_ranks_(static_cast<int>(meeting.segments.size())),
        segments_(std::move(meeting.segments)),
        heap_(heap_of(segments_[static_cast<std::size_t>(rank)])),
        liveness_(std::move(meeting.liveness)),
        policy_(policy),
        incoming_(static_cast<std::size_t>(num_ranks_) * num_lanes),
        outgoing_(incoming_.size()),
        received_bytes_(static_cast<std::size_t>(num_ranks_)),
        received_messages_(static_cast<std::size_t>(num_ranks_)) {
    for (Rank peer = 0; peer < num_ranks_; ++peer)
      for (int lane = 0; lane < num_lanes; ++lane) {
        incoming(peer, lane).channel = &own().channel(peer, lane);
        outgoing(peer, lane).channel = &segment(peer).channel(rank_, lane);
      }
  }

  ~ShmTransport() override {
    if (::getpid() != process_) return;  // a copy in a forked child: the rank lives on in its own process
    own().control().status.left.store(true, std::memory_order_seq_cst);
    ring_all();
  }

  Rank rank() const noexcept override { return rank_; }
  int num_ranks() const noexcept override { return num_ranks_; }
  const char* name() const noexcept override { return "shm"; }
  std::byte* arena(std::size_t num_bytes) override { return own().arena(num_bytes); }
  Buffer allocate(std::size_t num_bytes) override { return heap_->allocate(num_bytes); }
  bool is_receivable(const std::byte* data, std::size_t num_bytes) const noexcept override {
    return heap_->offset_of(data, num_bytes) >= 0;
  }

  std::size_t eager_bytes() const noexcept override { return shm::eager_bytes; }

  std::uint64_t arm(const Message& receive) override {
    std::int64_t offset = 0;
    if (receive.num_bytes > shm::eager_bytes && (offset = offset_of(receive.data, receive.num_bytes)) < 0)
      throw Error(ErrorKind::internal,
                  fmt::format("shm: rank {}: a receive of {} bytes is armed outside the memory of peers", rank_, receive.num_bytes));
    Incoming& from = incoming(receive.peer, static_cast<int>(receive.lane));
    from.armed.push_back({receive.data, receive.num_bytes, receive.flag, static_cast<std::uint64_t>(offset)});
    grant(receive.peer, from);
    if (from.armed.size() > shm::num_slots && !std::exchange(from.is_crowded, true))
      crowded_.emplace_back(receive.peer, static_cast<int>(receive.lane));
    return from.taken + from.armed.size();
  }

  bool try_send(const Message& send) override {
    if (failed()) check();
    if (control(send.peer).status.left.load(std::memory_order_acquire)) return false;
    Outgoing& to = outgoing(send.peer, static_cast<int>(send.lane));
    const bool eager = send.num_bytes <= shm::eager_bytes;
    if (eager ? put_eager(send, to) : put_direct(send, to)) return true;
    relieve();
    return false;
  }

  bool arrived(Rank peer, Lane lane, std::uint64_t ticket) override {
    Incoming& from = incoming(peer, static_cast<int>(lane));
    if (from.taken < ticket) take(peer, static_cast<int>(lane), from);
    if (from.taken >= ticket) return true;
    relieve();
    return false;
  }

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
    Control& mine = own().control();
    if (attempt < policy_.spins) return spin(attempt);
    if (attempt - policy_.spins < policy_.yields) {
      std::this_thread::yield();
      if (attempt % 64 == 0) look_for_the_dead();
      return;
    }
    if (sleep.announced_at != this) {
      // Announced first, then polled once more, then asleep: who publishes meanwhile either is seen or rings the bell.
      sleep = {this, mine.bell.load(std::memory_order_acquire)};
      mine.sleeping.exchange(1, std::memory_order_seq_cst);
      return;
    }
    sleep.announced_at = nullptr;
    const auto left = std::min<std::chrono::nanoseconds>(deadline - SteadyClock::now(), look_interval);
    if (left > 0ns) {
      const timespec timeout{static_cast<time_t>(left / 1s), static_cast<long>((left % 1s).count())};
      futex(mine.bell, FUTEX_WAIT, sleep.seen, &timeout);
    }
    look_for_the_dead();
  }

  void wake() noexcept override {
    // What this rank's own threads publish for each other is not stored seq_cst: the two exchanges on one word order it.
    if (own().control().sleeping.fetch_or(0, std::memory_order_acq_rel) != 0) ring(rank_);
  }

  // The first call wins; the record lies in rank 0's segment, which stays mapped when rank 0 has died.
  void abort(const Error& error) noexcept override {
    if (::getpid() != process_) return;
    Failure& failure = segments_.front().control().failure;
    std::uint32_t none = Failure::none;
    if (!failure.state.compare_exchange_strong(none, Failure::being_written)) return;
    failure.writer.store(rank_);
    failure.kind = static_cast<std::uint32_t>(error.kind());
    failure.num_culprits = static_cast<std::uint32_t>(std::min(error.culprits().size(), std::size(failure.culprits)));
    std::copy_n(error.culprits().begin(), failure.num_culprits, failure.culprits);
    failure.num_chars = static_cast<std::uint32_t>(std::min(std::strlen(error.what()), sizeof(failure.text)));
    std::memcpy(failure.text, error.what(), failure.num_chars);
    failure.state.store(Failure::written, std::memory_order_seq_cst);
    ring_all();
  }

  ShrunkTransport shrink(std::chrono::nanoseconds timeout) override {
    if (::getpid() != process_)
      throw Error(ErrorKind::argument, fmt::format("Communicator::shrink: this process is a copy of rank {}'s, and no rank", rank_));
    abort(shrinks(rank_, num_ranks_));
    shm::Survivors survivors = shm::shrink(rank_, segments_, liveness_, timeout);
    const auto& former = survivors.former_ranks;
    const auto rank = static_cast<Rank>(std::lower_bound(former.begin(), former.end(), rank_) - former.begin());
    return {std::make_unique<ShmTransport>(rank, std::move(survivors.meeting), policy_), std::move(survivors.former_ranks)};
  }
  RankStatus& status(Rank rank) noexcept override { return control(rank).status; }

  void describe_operation(std::string_view text) override {
    if (text == own_text_) return;
    own_text_ = text;
    Control& mine = own().control();
    mine.text_version.fetch_add(1, std::memory_order_acq_rel);
    const std::size_t num_chars = std::min(text.size(), sizeof(mine.text));
    std::memcpy(mine.text, text.data(), num_chars);
    mine.text_chars.store(static_cast<std::uint32_t>(num_chars), std::memory_order_relaxed);
    mine.text_version.fetch_add(1, std::memory_order_release);
  }

  std::vector<std::uint64_t> received_bytes() const override { return values(received_bytes_); }
  std::vector<std::uint64_t> received_messages() const override { return values(received_messages_); }

 private:
  /// The peers have met this rank already: if it ends here, they see that it has left.
  static std::shared_ptr<shm::Heap> heap_of(Segment& own) {
    try {
      return std::make_shared<shm::Heap>(own);
    } catch (...) {
      own.control().status.left.store(true, std::memory_order_seq_cst);
      throw;
    }
  }
  [[nodiscard]] Segment& segment(Rank rank) noexcept { return segments_[static_cast<std::size_t>(rank)]; }
  [[nodiscard]] Segment& own() noexcept { return segment(rank_); }
  [[nodiscard]] std::int64_t offset_of(const std::byte* data, std::size_t num_bytes) noexcept {
    const std::int64_t in_arena = own().offset_of(data, num_bytes);
    return in_arena >= 0 ? in_arena : heap_->offset_of(data, num_bytes);
  }
  [[nodiscard]] Control& control(Rank rank) noexcept { return segment(rank).control(); }
  [[nodiscard]] std::size_t index(Rank peer, int lane) const noexcept {
    return static_cast<std::size_t>(peer) * num_lanes + static_cast<std::size_t>(lane);
  }
  [[nodiscard]] Incoming& incoming(Rank peer, int lane) noexcept { return incoming_[index(peer, lane)]; }
  [[nodiscard]] Outgoing& outgoing(Rank peer, int lane) noexcept { return outgoing_[index(peer, lane)]; }

  // --- Bells. ---

  // What is published is stored seq_cst, then `sleeping` is loaded; a sleeper stores that, then loads what is published (idle). In the one
  // order of all these either the sleeper sees what came or the ringer sees him.
  void ring(Rank rank) noexcept {
    Control& who = control(rank);
    if (who.sleeping.load(std::memory_order_seq_cst) == 0 || who.sleeping.exchange(0) == 0) return;
    who.bell.fetch_add(1, std::memory_order_acq_rel);
    futex(who.bell, FUTEX_WAKE, INT_MAX);
  }
  void ring_all() noexcept {
    for (Rank rank = 0; rank < num_ranks_; ++rank) ring(rank);
  }

  // --- Sending. ---

  bool put_eager(const Message& send, Outgoing& to) {
    if (to.sent - to.seen_taken >= shm::num_slots) {
      to.seen_taken = to.channel->taken.load(std::memory_order_seq_cst);
      if (to.sent - to.seen_taken >= shm::num_slots) return false;
    }
    shm::Slot& slot = to.channel->slots[to.sent % shm::num_slots];
    slot.flag = send.flag;
    slot.num_bytes = send.num_bytes;
    if (send.num_bytes != 0) {
      std::byte* room = send.num_bytes <= shm::inline_bytes
                            ? slot.bytes
                            : segment(send.peer).room(rank_, static_cast<int>(send.lane), to.sent % shm::num_slots);
      std::memcpy(room, send.data, send.num_bytes);
    }
    announce(slot, send.peer, to);
    return true;
  }

  bool put_direct(const Message& send, Outgoing& to) {
    shm::Slot& slot = to.channel->slots[to.sent % shm::num_slots];
    const shm::Credit& credit = to.channel->credits[to.sent % shm::num_slots];
    if (credit.number.load(std::memory_order_seq_cst) != to.sent + 1) {
      offer(send, slot, to);
      return false;
    }
    if (credit.num_bytes != send.num_bytes || credit.flag != send.flag) {
      fail(mismatch_error(rank_, num_ranks_, side(rank_, send.num_bytes), side(send.peer, credit.num_bytes)));
    }
    slot.flag = send.flag;
    slot.num_bytes = send.num_bytes;
    std::memcpy(segment(send.peer).at(credit.offset, credit.num_bytes), send.data, send.num_bytes);
    announce(slot, send.peer, to);
    return true;
  }

  /// A receiver that expects something small waits for the slot and gives no credit: it sees what is offered, and that it does not fit.
  void offer(const Message& send, shm::Slot& slot, Outgoing& to) {
    if (slot.offer.load(std::memory_order_relaxed) == to.sent + 1) return;
    to.seen_taken = to.channel->taken.load(std::memory_order_seq_cst);
    if (to.sent - to.seen_taken >= shm::num_slots) return;  // the slot still holds an earlier message
    slot.flag = send.flag;
    slot.num_bytes = send.num_bytes;
    slot.offer.store(to.sent + 1, std::memory_order_seq_cst);
    ring(send.peer);
  }

  void announce(shm::Slot& slot, Rank peer, Outgoing& to) {
    slot.arrival.store(++to.sent, std::memory_order_seq_cst);
    ring(peer);
  }

  // --- Receiving. ---

  /// Publishes credits for large receives, as many as there are slots.
  void grant(Rank peer, Incoming& from) {
    bool published = false;
    for (; from.granted < from.taken + from.armed.size() && from.granted < from.taken + shm::num_slots; ++from.granted) {
      const Armed& armed = from.armed[from.granted - from.taken];
      if (armed.num_bytes <= shm::eager_bytes) continue;
      shm::Credit& credit = from.channel->credits[from.granted % shm::num_slots];
      credit.offset = armed.offset;
      credit.num_bytes = armed.num_bytes;
      credit.flag = armed.flag;
      credit.number.store(from.granted + 1, std::memory_order_seq_cst);
      published = true;
    }
    if (published) ring(peer);
  }

  /// Takes in what has come, in order.
  void take(Rank peer, int lane, Incoming& from) {
    const std::uint64_t before = from.taken;
    while (!from.armed.empty()) {
      const shm::Slot& slot = from.channel->slots[from.taken % shm::num_slots];
      const Armed& armed = from.armed.front();
      const bool here = slot.arrival.load(std::memory_order_seq_cst) == from.taken + 1;
      if (!here && slot.offer.load(std::memory_order_seq_cst) != from.taken + 1) break;
      if (slot.num_bytes != armed.num_bytes || slot.flag != armed.flag)
        fail(mismatch_error(rank_, num_ranks_, side(peer, slot.num_bytes), side(rank_, armed.num_bytes)));
      if (!here) break;
      if (armed.num_bytes != 0 && armed.num_bytes <= shm::eager_bytes) {
        const std::byte* room = armed.num_bytes <= shm::inline_bytes ? slot.bytes : own().room(peer, lane, from.taken % shm::num_slots);
        std::memcpy(armed.data, room, armed.num_bytes);
      }
      received_bytes_[static_cast<std::size_t>(peer)].fetch_add(armed.num_bytes, std::memory_order_relaxed);
      received_messages_[static_cast<std::size_t>(peer)].fetch_add(1, std::memory_order_relaxed);
      from.armed.pop_front();
      ++from.taken;
      from.channel->taken.store(from.taken, std::memory_order_seq_cst);
    }
    if (from.taken == before) return;
    ring(peer);  // he may wait for a free slot
    grant(peer, from);
  }

  /// Where more is armed than there are slots, the sender waits until some has been taken in, also while this rank asks for something
  /// else.
  void relieve() {
    std::erase_if(crowded_, [&](const std::pair<Rank, int>& channel) {
      Incoming& from = incoming(channel.first, channel.second);
      take(channel.first, channel.second, from);
      return !(from.is_crowded = from.armed.size() > shm::num_slots);
    });
  }

  // --- Failing. ---

  [[nodiscard]] bool failed() noexcept {
    return segments_.front().control().failure.state.load(std::memory_order_seq_cst) != Failure::none;
  }
  [[noreturn]] void fail(const Error& error) {
    abort(error);
    throw_failure();
  }
  [[noreturn]] void throw_failure() {
    Failure& failure = segments_.front().control().failure;
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
    throw Error(static_cast<ErrorKind>(failure.kind), std::string(failure.text, failure.num_chars),
                std::vector<Rank>(failure.culprits, failure.culprits + failure.num_culprits));
  }

  /// At most every look_interval: fails the group if a peer's process has ended without leaving.
  void look_for_the_dead() {
    const std::unique_lock lock(looking_, std::try_to_lock);  // one of the rank's threads is enough
    const auto now = SteadyClock::now();
    if (!lock || now - last_look_ < look_interval) return;
    last_look_ = now;
    std::vector<Rank> dead;
    for (const Rank peer : liveness_.ended()) {
      if (control(peer).status.left.load(std::memory_order_acquire))
        liveness_.forget(peer);
      else
        dead.push_back(peer);
    }
    if (dead.empty() || failed()) return;
    const MismatchSide last = side(dead.front(), 0);
    const auto text =
        fmt::format("rank {} of {}: the process of rank {} has ended without leaving its communicator, {} {}", rank_, num_ranks_,
                    dead.front(), control(dead.front()).status.finished.load() == last.operation ? "after" : "in", where(last));
    abort(Error(ErrorKind::dead, text, std::move(dead)));
  }

  [[nodiscard]] MismatchSide side(Rank rank, std::uint64_t num_bytes) {
    Control& who = control(rank);
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

  static std::vector<std::uint64_t> values(const std::vector<std::atomic<std::uint64_t>>& counters) {
    std::vector<std::uint64_t> result;
    for (const auto& counter : counters) result.push_back(counter.load(std::memory_order_relaxed));
    return result;
  }

  Rank rank_;
  int num_ranks_;
  std::vector<Segment> segments_;
  std::shared_ptr<shm::Heap> heap_;  // with the buffers
  shm::Liveness liveness_;
  WaitPolicy policy_;
  pid_t process_ = ::getpid();
  std::vector<Incoming> incoming_;
  std::vector<Outgoing> outgoing_;
  std::vector<std::pair<Rank, int>> crowded_;  // channels to this rank with is_crowded
  std::vector<std::atomic<std::uint64_t>> received_bytes_, received_messages_;
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
