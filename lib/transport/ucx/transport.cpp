// transport.cpp - one rank's end: the data plane driven by its threads, the control plane by one of its own.
// SPDX-License-Identifier: Apache-2.0
#include "transport.hpp"

#include "library.hpp"

#if SEQCCL_HAS_UCX

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <new>
#include <thread>

#include "../mismatch.hpp"
#include "../relax.hpp"
#include "control_plane.hpp"
#include "data_plane.hpp"
#include "meet.hpp"
#include "notes.hpp"
#include "seqccl/log.hpp"

SEQCCL_BEGIN
namespace ucx {
namespace {

using namespace std::chrono_literals;

constexpr auto longest_sleep = 20ms;
constexpr auto farewell_patience = 800ms, closing_patience = 200ms;
constexpr auto answer_patience = 500ms;  // for a peer's description, on a mismatch
constexpr auto broken_patience = 200ms;  // a death has clearer words than UCX, and comes about as soon

/// Of everything that both ends of a message must agree on.
std::uint64_t layout_word() noexcept {
  std::uint64_t word = 0xcbf29ce484222325u;
  for (const std::size_t value : {sizeof(Header), eager_bytes, static_cast<std::size_t>(num_slots), static_cast<std::size_t>(num_lanes)})
    word = (word ^ value) * 0x100000001b3u;
  return word;
}

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

/// Everything of the rank; a forked child drops it without touching it.
struct State {
  State(Rank own_rank, Meeting meeting, const WaitPolicy& wait)
      : rank(own_rank),
        num_ranks(static_cast<int>(meeting.connections.size())),
        policy(wait),
        statuses(meeting.connections.size()),
        status_ns(meeting.connections.size()),
        descriptions(meeting.connections.size()),
        addresses(meeting.connections.size()),
        num_answers(meeting.connections.size()),
        is_connected(meeting.connections.size()),
        has_said_farewell(meeting.connections.size()),
        has_ended(meeting.connections.size()),
        data(own_rank, num_ranks),
        control(std::move(meeting.connections)) {}

  Rank rank;
  int num_ranks;
  WaitPolicy policy;
  Arena arena;
  Bell bell;
  std::vector<RankStatus> statuses;
  std::vector<std::atomic<std::int64_t>> status_ns;  // SteadyClock time at which a peer's status came; 0: none has

  std::mutex mutex;  // of all up to the next blank line
  std::condition_variable changed;
  std::vector<std::string> descriptions, addresses;
  std::vector<int> num_answers;
  std::vector<bool> is_connected, has_said_farewell, has_ended;
  std::optional<Error> failure;

  std::atomic<bool> has_failed{false};
  std::atomic<bool> is_ready{false};         // the data plane is connected
  std::atomic<std::int64_t> last_ask_ns{0};  // for statuses
  DataPlane data;
  ControlPlane control;  // its thread ends before what it uses
};

class UcxTransport final : public Transport {
 public:
  UcxTransport(Rank rank, Meeting meeting, const WaitPolicy& policy, std::chrono::nanoseconds timeout)
      : state_(std::make_unique<State>(rank, std::move(meeting), policy)) {
    State& s = *state_;
    s.control.start({[this](Rank peer, NoteKind kind, std::string_view text) { take_note(peer, kind, text); },
                     [this](Rank peer) { connection_ended(peer); }});
    try {
      connect_data_plane(timeout);
    } catch (const std::exception& error) {
      const auto* known = dynamic_cast<const Error*>(&error);
      abort(known != nullptr ? *known : Error(ErrorKind::local, fmt::format("ucx: rank {}: {}", rank, error.what()), {rank}));
      leave();
      throw;
    }
    s.is_ready = true;
  }

  ~UcxTransport() override {
    if (::getpid() != process_) {  // a copy in a forked child: the rank lives on in its own process
      state_->control.forget_thread();
      (void)state_.release();
      return;
    }
    leave();
  }

  Rank rank() const noexcept override { return state_->rank; }
  int num_ranks() const noexcept override { return state_->num_ranks; }
  const char* name() const noexcept override { return "ucx"; }
  std::byte* arena(std::size_t num_bytes) override { return state_->arena.at_least(num_bytes); }

  std::size_t eager_bytes() const noexcept override { return ucx::eager_bytes; }

  std::uint64_t arm(const Message& receive) override {
    if (receive.num_bytes > ucx::eager_bytes && !state_->arena.contains(receive.data, receive.num_bytes))
      throw Error(ErrorKind::internal,
                  fmt::format("ucx: rank {}: a receive of {} bytes is armed outside the arena", state_->rank, receive.num_bytes));
    return state_->data.arm(receive);
  }
  bool try_send(const Message& send) override {
    if (state_->has_failed.load(std::memory_order_acquire)) throw_failure();
    const bool sent = state_->data.try_send(send);
    if (!sent && state_->data.has_trouble()) raise_trouble();
    return sent;
  }
  bool arrived(Rank peer, Lane lane, std::uint64_t ticket) override { return state_->data.has_come(peer, lane, ticket); }

  void check() override {
    if (state_->has_failed.load(std::memory_order_acquire)) throw_failure();
    if (state_->data.has_trouble()) raise_trouble();
  }

  void idle(int attempt, SteadyClock::time_point deadline) override {
    // Per thread, because two threads of a rank wait side by side; attempt 0 begins a new wait.
    struct Sleep {
      const UcxTransport* announced_at = nullptr;
      std::uint64_t seen = 0;
      SteadyClock::time_point since{};
      bool has_slept = false;
    };
    thread_local Sleep sleep;
    if (attempt == 0) sleep.announced_at = nullptr;  // `since` goes on: the executor looks about within one wait
    State& s = *state_;
    if (s.data.progress()) {
      sleep.has_slept = false;
      s.bell.ring();  // what came may be for another thread, asleep or about to be
      return;
    }
    if (attempt < s.policy.spins) return spin(attempt);
    if (attempt - s.policy.spins < s.policy.yields) return std::this_thread::yield();
    if (sleep.announced_at != this) {
      // Noted first, then polled once more, then asleep: who rings meanwhile is seen.
      sleep.announced_at = this;
      sleep.seen = s.bell.count();
      if (!std::exchange(sleep.has_slept, true)) sleep.since = SteadyClock::now();
      return;
    }
    sleep.announced_at = nullptr;
    const auto left = std::min<std::chrono::nanoseconds>(deadline - SteadyClock::now(), longest_sleep);
    if (left <= 0ns) return;
    const int milliseconds = static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(left).count());
    const bool silent = s.bell.sleep(sleep.seen, s.data.event(), milliseconds, [&] { return s.data.may_sleep(); });
    if (silent) ask_for_statuses(SteadyClock::now() - sleep.since);
  }

  int inline_spins() const noexcept override { return state_->policy.inline_spins; }
  void wake() noexcept override { state_->bell.ring(); }

  void abort(const Error& error) noexcept override {
    if (::getpid() != process_ || !fail(error)) return;
    try {
      state_->control.post_to_all(NoteKind::failure, failure_note(error));
    } catch (const std::bad_alloc&) {  // the others see this rank leave
    }
  }

  RankStatus& status(Rank rank) noexcept override { return state_->statuses[static_cast<std::size_t>(rank)]; }
  SteadyClock::time_point status_time(Rank rank) const noexcept override {
    if (rank == state_->rank) return SteadyClock::time_point::max();
    const std::int64_t came = state_->status_ns[static_cast<std::size_t>(rank)].load();
    return came == 0 ? SteadyClock::time_point::min() : SteadyClock::time_point(std::chrono::nanoseconds(came));
  }
  void ask_for_status(Rank rank) noexcept override { state_->control.post(rank, NoteKind::ask, {}); }
  void describe_operation(std::string_view text) override {
    const std::lock_guard lock(state_->mutex);
    state_->descriptions[static_cast<std::size_t>(state_->rank)] = text;
  }
  std::vector<std::uint64_t> received_bytes() const override { return state_->data.received_bytes(); }
  std::vector<std::uint64_t> received_messages() const override { return state_->data.received_messages(); }

 private:
  // --- Notes of the others, on the control thread. ---

  void take_note(Rank peer, NoteKind kind, std::string_view text) {
    State& s = *state_;
    const auto at = static_cast<std::size_t>(peer);
    switch (kind) {
      case NoteKind::address: {
        NoteReader reader(text);
        if (reader.number(8) != layout_word()) {
          abort(Error(ErrorKind::mismatched, fmt::format("ucx: ranks {} and {} run different builds of seqccl", s.rank, peer),
                      {s.rank, peer}));
          break;
        }
        const std::lock_guard lock(s.mutex);
        s.addresses[at] = reader.rest();
        break;
      }
      case NoteKind::connected: {
        const std::lock_guard lock(s.mutex);
        s.is_connected[at] = true;
        break;
      }
      case NoteKind::failure:
        fail(read_failure(text));
        break;
      case NoteKind::leaving: {
        // Left is what a rank is when all has come that it sent, and what this rank was about to hand over to it is known to have come: a
        // wait for it then ends in vain, and not before.
        const std::uint64_t num_sent = NoteReader(text).number(8);
        const auto deadline = SteadyClock::now() + farewell_patience;
        while (s.is_ready && !s.has_failed && (s.data.num_come(peer) < num_sent || s.data.is_sending_to(peer)) &&
               SteadyClock::now() < deadline)
          if (!s.data.progress()) std::this_thread::sleep_for(20us);
        s.data.forget(peer);
        s.statuses[at].left.store(true);
        s.control.post(peer, NoteKind::farewell, {});
        break;
      }
      case NoteKind::farewell: {
        const std::lock_guard lock(s.mutex);
        s.has_said_farewell[at] = true;
        break;
      }
      case NoteKind::ask: {
        // Who asks waits, perhaps for the end of a message that UCX still holds because this rank is busy outside the library.
        for (int i = 0; i < 1000 && s.is_ready && !s.has_failed && s.data.progress(); ++i) continue;
        std::string own;
        {
          const std::lock_guard lock(s.mutex);
          own = s.descriptions[static_cast<std::size_t>(s.rank)];
        }
        s.control.post(peer, NoteKind::status, status_note(s.statuses[static_cast<std::size_t>(s.rank)], own));
        break;
      }
      case NoteKind::status: {
        std::string description = read_status(text, s.statuses[at]);
        s.status_ns[at].store(SteadyClock::now().time_since_epoch().count());
        const std::lock_guard lock(s.mutex);
        s.descriptions[at] = std::move(description);
        ++s.num_answers[at];
        break;
      }
    }
    s.changed.notify_all();
    s.bell.ring();
  }

  void connection_ended(Rank peer) {
    State& s = *state_;
    const auto at = static_cast<std::size_t>(peer);
    {
      const std::lock_guard lock(s.mutex);
      s.has_ended[at] = true;
    }
    s.data.forget(peer);
    if (!s.statuses[at].left.load()) {
      // It can no longer say where it was: what it last said is told, if it was asked at all, and where this rank is.
      const MismatchSide theirs = side(peer, 0);
      const auto text = fmt::format(
          "rank {0} of {1}: the process of rank {2} has ended without leaving its communicator, or its host cannot be reached any more; "
          "rank {0} was in {3}{4}",
          s.rank, s.num_ranks, peer, where(side(s.rank, 0)),
          theirs.operation == 0 ? "" : fmt::format(", rank {} was last heard of in {}", peer, where(theirs)));
      abort(Error(ErrorKind::dead, text, {peer}));
    }
    s.changed.notify_all();
    s.bell.ring();
  }

  // --- Beginning and leaving. ---

  /// To the worker of every rank; nobody goes on before all have got here.
  void connect_data_plane(std::chrono::nanoseconds timeout) {
    State& s = *state_;
    const auto deadline = SteadyClock::now() + timeout;
    const std::string own = s.data.address();
    std::string note;
    bootstrap::append_number(note, layout_word(), 8);
    s.control.post_to_all(NoteKind::address, note + own);
    {
      const std::lock_guard lock(s.mutex);
      s.addresses[static_cast<std::size_t>(s.rank)] = own;
    }
    await_all(deadline, "have connected, but do not say their UCX address", [&](std::size_t peer) { return !s.addresses[peer].empty(); });
    s.data.connect(s.addresses);  // nobody changes them any more
    s.control.post_to_all(NoteKind::connected, {});
    await_all(deadline, "have not connected over UCX in time",
              [&](std::size_t peer) { return s.is_connected[peer] || peer == static_cast<std::size_t>(s.rank); });
  }

  template <class IsHere>
  void await_all(SteadyClock::time_point deadline, const char* what, IsHere&& is_here) {
    State& s = *state_;
    std::vector<Rank> missing;
    std::unique_lock lock(s.mutex);
    const auto all_here = [&] {
      missing.clear();
      for (Rank peer = 0; peer < s.num_ranks; ++peer)
        if (!is_here(static_cast<std::size_t>(peer))) missing.push_back(peer);
      return missing.empty() || s.failure.has_value();
    };
    const bool in_time = s.changed.wait_until(lock, deadline, all_here);
    if (s.failure) throw Error(*s.failure);
    if (in_time) return;
    const auto text = fmt::format("ucx: rank {}: ranks {} {}", s.rank, fmt::join(missing, ", "), what);
    throw Error(ErrorKind::stalled, text, std::move(missing));
  }

  /// Waits until what this rank has sent has come, as it goes with its process; for a short time only.
  void leave() noexcept {
    State& s = *state_;
    for (Rank peer = 0; peer < s.num_ranks; ++peer) {
      std::string note;
      bootstrap::append_number(note, s.has_failed ? 0 : s.data.num_sent(peer), 8);
      s.control.post(peer, NoteKind::leaving, note);
    }
    const auto deadline = SteadyClock::now() + farewell_patience;
    const auto all_done = [&] {
      const std::lock_guard lock(s.mutex);
      for (Rank peer = 0; peer < s.num_ranks; ++peer) {
        const auto at = static_cast<std::size_t>(peer);
        if (peer != s.rank && !s.has_said_farewell[at] && !s.has_ended[at]) return false;
      }
      return true;
    };
    while (s.is_ready && !s.has_failed && !all_done() && SteadyClock::now() < deadline) {
      const std::uint64_t seen = s.bell.count();
      if (s.data.progress() || all_done()) continue;
      (void)s.bell.sleep(seen, s.data.event(), 5, [&] { return s.data.may_sleep(); });
    }
    s.control.stop(closing_patience);
    s.data.shut();
    if (s.data.is_busy()) {
      s.arena.leak();
      log_line(
          fmt::format("ucx: rank {} left while messages were under way: its arena and UCX worker are kept until the process ends", s.rank));
    }
  }

  // --- Failing. ---

  /// True if this was the first cause.
  bool fail(const Error& error) noexcept {
    State& s = *state_;
    {
      const std::lock_guard lock(s.mutex);
      if (s.failure) return false;
      try {
        s.failure.emplace(error);
      } catch (const std::bad_alloc&) {
        return false;
      }
    }
    s.has_failed.store(true, std::memory_order_release);
    s.changed.notify_all();
    s.bell.ring();
    return true;
  }

  [[noreturn]] void throw_failure() {
    state_->data.shut();  // from here on UCX does not touch what the caller may free
    const std::lock_guard lock(state_->mutex);
    throw Error(*state_->failure);
  }

  void raise_trouble() {
    State& s = *state_;
    const std::optional<Trouble> trouble = s.data.trouble();
    if (!trouble) return;
    if (!trouble->broken.empty()) {
      if (SteadyClock::now() - trouble->since < broken_patience) return;
      abort(Error(ErrorKind::dead,
                  fmt::format("rank {} of {}: UCX cannot reach rank {}: {}", s.rank, s.num_ranks, trouble->peer, trouble->broken),
                  {trouble->peer}));
    } else {
      const auto at = static_cast<std::size_t>(trouble->peer);
      std::unique_lock lock(s.mutex);
      const int before = s.num_answers[at];
      s.control.post(trouble->peer, NoteKind::ask, {});
      (void)s.changed.wait_for(lock, answer_patience, [&] { return s.num_answers[at] > before || s.failure || s.has_ended[at]; });
      lock.unlock();
      const MismatchSide mine = side(s.rank, trouble->is_sender ? trouble->sent_bytes : trouble->expected_bytes),
                         theirs = side(trouble->peer, trouble->is_sender ? trouble->expected_bytes : trouble->sent_bytes);
      abort(mismatch_error(s.rank, s.num_ranks, trouble->is_sender ? mine : theirs, trouble->is_sender ? theirs : mine));
    }
    throw_failure();
  }

  [[nodiscard]] MismatchSide side(Rank rank, std::uint64_t num_bytes) {
    const std::lock_guard lock(state_->mutex);
    const auto at = static_cast<std::size_t>(rank);
    return {rank, num_bytes, state_->statuses[at].operation.load(), state_->statuses[at].step.load(), state_->descriptions[at]};
  }

  /// The longer the wait, the rarer: often enough for a verdict after any timeout.
  void ask_for_statuses(std::chrono::nanoseconds waited) {
    State& s = *state_;
    const auto now = SteadyClock::now().time_since_epoch().count();
    const auto interval = std::chrono::nanoseconds(std::clamp<std::chrono::nanoseconds>(waited / 8, 15ms, 1s)).count();
    std::int64_t last = s.last_ask_ns.load();
    if (now - last < interval || !s.last_ask_ns.compare_exchange_strong(last, now)) return;
    s.control.post_to_all(NoteKind::ask, {});
  }

  std::unique_ptr<State> state_;
  pid_t process_ = ::getpid();
};

}  // namespace
}  // namespace ucx

UcxRank ucx_transport(Rank rank, const ucx::Door& door, const std::vector<std::string>& texts, const WaitPolicy& policy,
                      std::chrono::nanoseconds timeout) {
  (void)ucx::library();  // before the others meet this rank
  ucx::Meeting meeting = door.meet(texts, timeout);
  std::vector<int> node = meeting.node;
  return {std::make_unique<ucx::UcxTransport>(rank, std::move(meeting), policy, timeout), std::move(node)};
}

SEQCCL_END

#else

#include "seqccl/error.hpp"

SEQCCL_BEGIN

UcxRank ucx_transport(Rank, const ucx::Door&, const std::vector<std::string>&, const WaitPolicy&, std::chrono::nanoseconds) {
  throw Error(ErrorKind::argument, "ucx: " + ucx::find_library().text);
}

SEQCCL_END

#endif
