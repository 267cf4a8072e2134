// transport.cpp - one rank's end: the data plane driven by its threads, the control plane by one of its own.
// SPDX-License-Identifier: Apache-2.0
#include "transport.hpp"

#include "library.hpp"

#if SEQCCL_HAS_UCX

#include <fmt/format.h>

#include <algorithm>
#include <thread>

#include "../bootstrap/socket.hpp"
#include "../relax.hpp"
#include "../vote.hpp"
#include "notes.hpp"
#include "state.hpp"

SEQCCL_BEGIN
namespace ucx {
namespace {

using namespace std::chrono_literals;

constexpr auto longest_sleep = 20ms;
constexpr auto broken_patience = 200ms;  // a death has clearer words than UCX, and comes about as soon

class UcxTransport final : public Transport {
 public:
  explicit UcxTransport(std::unique_ptr<State> state) : state_(std::move(state)) {
    State& s = *state_;
    s.end = this;
    s.control.start({[&s](Rank peer, NoteKind kind, std::string_view text) { take_note(s, peer, kind, text); },
                     [&s](Rank peer, Ending how) { connection_ended(s, peer, how); },
                     [&s](std::uint64_t statement) { delivered(s, statement); }, [&s] { s.ring(); }});
  }

  ~UcxTransport() override {
    if (::getpid() != state_->process) {  // a copy in a forked child: the rank lives on in its own process
      state_->control.forget_thread();
      (void)state_.release();
      return;
    }
    leave(*state_);
  }

  Rank rank() const noexcept override { return state_->rank; }
  int num_ranks() const noexcept override { return state_->num_ranks; }
  const char* name() const noexcept override { return state_->sharing.size() > 1 ? "ucx+shm" : "ucx"; }
  std::vector<std::string> paths(Rank peer) const override {
    return is_near(peer) ? std::vector<std::string>{"shared memory"} : state_->data.paths(peer);
  }
  std::byte* arena(std::size_t num_bytes) override {
    return near() != nullptr ? near()->channels().arena(num_bytes) : state_->arena.at_least(num_bytes);
  }
  Buffer allocate(std::size_t num_bytes) override {
    return near() != nullptr ? near()->channels().allocate(num_bytes) : Transport::allocate(num_bytes);
  }
  bool is_receivable(const std::byte* data, std::size_t num_bytes) const noexcept override {
    return near() != nullptr && near()->channels().is_receivable(data, num_bytes);
  }

  std::size_t eager_bytes() const noexcept override { return ucx::eager_bytes; }

  std::uint64_t arm(const Message& receive) override {
    if (receive.num_bytes > ucx::eager_bytes && !may_receive(receive.data, receive.num_bytes))
      throw Error(ErrorKind::internal,
                  fmt::format("ucx: rank {}: a receive of {} bytes is armed outside the arena", state_->rank, receive.num_bytes));
    return is_near(receive.peer) ? near()->channels().arm(near()->seated(receive)) : state_->data.arm(receive);
  }
  bool try_send(const Message& send) override {
    if (state_->has_failed.load(std::memory_order_acquire)) state_->throw_failure();
    if (is_near(send.peer))
      return !state_->statuses[static_cast<std::size_t>(send.peer)].left && near()->channels().try_send(near()->seated(send));
    const bool sent = state_->data.try_send(send);
    if (!sent && state_->data.has_trouble()) raise_trouble();
    return sent;
  }
  bool arrived(Rank peer, Lane lane, std::uint64_t ticket) override {
    return is_near(peer) ? near()->channels().arrived(near()->seat(peer), lane, ticket) : state_->data.has_come(peer, lane, ticket);
  }

  void check() override {
    if (state_->has_failed.load(std::memory_order_acquire)) state_->throw_failure();
    if (state_->data.has_trouble()) raise_trouble();
  }

  void idle(int attempt, SteadyClock::time_point deadline) override {
    // Per thread, because two threads of a rank wait side by side; attempt 0 begins a new wait.
    struct Sleep {
      const UcxTransport* announced_at = nullptr;
      std::uint64_t seen = 0;
      std::uint32_t seen_near = 0;
      SteadyClock::time_point since{};
      bool has_slept = false;
    };
    thread_local Sleep sleep;
    if (attempt == 0) sleep.announced_at = nullptr;  // `since` goes on: the executor looks about within one wait
    State& s = *state_;
    if (s.data.progress()) {
      sleep.has_slept = false;
      s.ring();  // what came may be for another thread, asleep or about to be
      return;
    }
    if (attempt < s.policy.spins) return spin(attempt);
    if (attempt - s.policy.spins < s.policy.yields) return std::this_thread::yield();
    if (sleep.announced_at != this) {
      // Noted first, then polled once more, then asleep: who rings meanwhile is seen.
      sleep.announced_at = this;
      sleep.seen = s.bell.count();
      if (near() != nullptr) sleep.seen_near = near()->channels().announce_sleep();
      if (!std::exchange(sleep.has_slept, true)) sleep.since = SteadyClock::now();
      return;
    }
    sleep.announced_at = nullptr;
    const auto left = std::min<std::chrono::nanoseconds>(deadline - SteadyClock::now(), longest_sleep);
    if (left <= 0ns) return;
    if (near() != nullptr ? sleep_near(sleep.seen, sleep.seen_near, left) : sleep_far(sleep.seen, left))
      ask_for_statuses(SteadyClock::now() - sleep.since);
  }

  int inline_spins() const noexcept override { return state_->policy.inline_spins; }
  void wake() noexcept override { state_->ring(); }

  void abort(const Error& error) noexcept override { state_->abort(error); }
  ShrunkTransport shrink(std::chrono::nanoseconds timeout) override;

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
  std::vector<std::uint64_t> received_bytes() const override {
    return with_neighbours(state_->data.received_bytes(), &shm::Channels::received_bytes);
  }
  std::vector<std::uint64_t> received_messages() const override {
    return with_neighbours(state_->data.received_messages(), &shm::Channels::received_messages);
  }

 private:
  [[nodiscard]] const Neighbours* near() const noexcept { return state_->neighbours.get(); }
  [[nodiscard]] bool is_near(Rank peer) const noexcept { return near() != nullptr && near()->seat(peer) >= 0; }
  [[nodiscard]] bool may_receive(const std::byte* data, std::size_t num_bytes) const noexcept {
    return near() != nullptr ? near()->channels().offset_of(data, num_bytes) >= 0 : state_->arena.contains(data, num_bytes);
  }
  [[nodiscard]] std::vector<std::uint64_t> with_neighbours(std::vector<std::uint64_t> counts,
                                                           std::uint64_t (shm::Channels::*count)(Rank) const noexcept) const {
    for (Rank peer = 0; peer < num_ranks(); ++peer)
      if (is_near(peer)) counts[static_cast<std::size_t>(peer)] += (near()->channels().*count)(near()->seat(peer));
    return counts;
  }

  // True if nobody rang all the time.
  bool sleep_far(std::uint64_t seen, std::chrono::nanoseconds longest) {
    State& s = *state_;
    const int milliseconds = static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(longest).count());
    return s.bell.sleep(seen, s.data.event(), milliseconds, [&] { return s.data.may_sleep(); });
  }
  /// Neighbours wake who sleeps on a word of memory; so the control thread looks after UCX meanwhile, and rings.
  bool sleep_near(std::uint64_t seen, std::uint32_t seen_near, std::chrono::nanoseconds longest) {
    State& s = *state_;
    if (!s.data.may_sleep() || s.bell.count() != seen) return false;
    s.control.watch(s.data.event());
    return !near()->channels().sleep(seen_near, longest);
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
      s.fail_for({.sender = trouble->is_sender ? s.rank : trouble->peer,
                  .receiver = trouble->is_sender ? trouble->peer : s.rank,
                  .sent_bytes = trouble->sent_bytes,
                  .expected_bytes = trouble->expected_bytes});
    }
    state_->throw_failure();
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
};

/// @throws what join throws, after the others know it
void join_or_fail(State& s, SteadyClock::time_point deadline) {
  try {
    join(s, deadline);
  } catch (const std::exception& error) {
    const auto* known = dynamic_cast<const Error*>(&error);
    s.abort(known != nullptr ? *known : Error(ErrorKind::local, fmt::format("ucx: rank {}: {}", s.rank, error.what()), {s.rank}));
    throw;
  }
}

/// A rank that cannot go on after the vote says so to those who count on it.
void part(std::vector<Line>& lines, const Error& error) {
  for (Line& line : lines) {
    if (!line.connection.is_open()) continue;
    line.out += note_bytes(NoteKind::failure, failure_note(error));
    (void)bootstrap::send_now(line.connection, line.out);
  }
}

ShrunkTransport UcxTransport::shrink(std::chrono::nanoseconds timeout) {
  State& before = *state_;
  if (::getpid() != before.process)
    throw Error(ErrorKind::argument, fmt::format("Communicator::shrink: this process is a copy of rank {}'s, and no rank", before.rank));
  abort(shrinks(before.rank, before.num_ranks));
  before.data.shut();
  Survivors survivors = ucx::shrink(before, timeout);
  std::unique_ptr<UcxTransport> next;
  try {
    next = std::make_unique<UcxTransport>(std::make_unique<State>(survivors.rank, survivors.lines, survivors.sharing, before.policy));
  } catch (const std::exception& why) {
    const Error error(ErrorKind::local,
                      fmt::format("Communicator::shrink: rank {} of {} cannot go on: {}", before.rank, before.num_ranks, why.what()),
                      {survivors.rank});
    part(survivors.lines, error);
    throw Error(ErrorKind::local, error.what(), {before.rank});
  }
  try {
    join_or_fail(*next->state_, survivors.deadline);
  } catch (const std::exception&) {
    // Who has ended or stopped since the vote belongs to the new group: its first operation says so, and it shrinks again.
    const std::lock_guard lock(next->state_->mutex);
    const Error& cause = *next->state_->failure;
    if (cause.kind() == ErrorKind::local && cause.culprits() == std::vector<Rank>{survivors.rank}) throw;
  }
  return {std::move(next), std::move(survivors.former_ranks)};
}

}  // namespace
}  // namespace ucx

UcxRank ucx_transport(Rank rank, const ucx::Door& door, const std::vector<std::string>& texts, const WaitPolicy& policy,
                      std::chrono::nanoseconds timeout, bool shares_memory) {
  (void)ucx::library();  // before the others meet this rank
  ucx::Meeting meeting = door.meet(texts, timeout);
  std::vector<ucx::Line> lines(meeting.connections.size());
  for (std::size_t peer = 0; peer < lines.size(); ++peer) {
    lines[peer].connection = std::move(meeting.connections[peer]);
    lines[peer].is_local = meeting.is_local[peer];
  }
  auto state = std::make_unique<ucx::State>(rank, lines, shares_memory ? std::move(meeting.neighbours) : std::vector<Rank>{}, policy);
  ucx::State& shared = *state;
  auto transport = std::make_unique<ucx::UcxTransport>(std::move(state));
  ucx::join_or_fail(shared, SteadyClock::now() + timeout);
  return {std::move(transport), std::move(meeting.node)};
}

SEQCCL_END

#else

#include "seqccl/error.hpp"

SEQCCL_BEGIN

UcxRank ucx_transport(Rank, const ucx::Door&, const std::vector<std::string>&, const WaitPolicy&, std::chrono::nanoseconds, bool) {
  throw Error(ErrorKind::argument, "ucx: " + ucx::find_library().text);
}

SEQCCL_END

#endif
