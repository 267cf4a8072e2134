// state.cpp - what a rank knows of the others, and the first cause of a failure.
// SPDX-License-Identifier: Apache-2.0
#include "state.hpp"

#if SEQCCL_HAS_UCX

#include "notes.hpp"

SEQCCL_BEGIN
namespace ucx {
namespace {

constexpr auto answer_patience = std::chrono::milliseconds(500);  // for a peer's description, on a mismatch

}  // namespace

std::uint64_t layout_word() noexcept {
  std::uint64_t word = 0xcbf29ce484222325u;
  for (const std::size_t value :
       {sizeof(Header), eager_bytes, static_cast<std::size_t>(num_slots), static_cast<std::size_t>(num_lanes), sizeof(RankStatus)})
    word = (word ^ value) * 0x100000001b3u;
  return word;
}

State::State(Rank own_rank, std::vector<Line>& lines, std::vector<Rank> sharing_ranks, const WaitPolicy& wait)
    : rank(own_rank),
      num_ranks(static_cast<int>(lines.size())),
      policy(wait),
      sharing(std::move(sharing_ranks)),
      statuses(lines.size()),
      status_ns(lines.size()),
      descriptions(lines.size()),
      addresses(lines.size()),
      cards(lines.size()),
      num_answers(lines.size()),
      is_connected(lines.size()),
      has_said_farewell(lines.size()),
      has_ended(lines.size()),
      election(own_rank, num_ranks),
      data(own_rank, num_ranks),
      control(std::move(lines)) {}

void State::abort(const Error& error) noexcept {
  if (::getpid() != process || !fail(error)) return;
  try {
    control.post_to_all(NoteKind::failure, failure_note(error));
  } catch (const std::bad_alloc&) {  // the others see this rank leave
  }
}

bool State::fail(const Error& error) noexcept {
  {
    const std::lock_guard lock(mutex);
    if (failure) return false;
    try {
      failure.emplace(error);
    } catch (const std::bad_alloc&) {
      return false;
    }
  }
  has_failed.store(true, std::memory_order_release);
  changed.notify_all();
  ring();
  return true;
}

void State::throw_failure() {
  data.shut();  // from here on UCX does not touch what the caller may free
  const std::lock_guard lock(mutex);
  throw Error(*failure);
}

void State::fail_for(const shm::Clash& clash) {
  const Rank peer = clash.sender == rank ? clash.receiver : clash.sender;
  const auto at = static_cast<std::size_t>(peer);
  std::unique_lock lock(mutex);
  const int before = num_answers[at];
  control.post(peer, NoteKind::ask, {});
  (void)changed.wait_for(lock, answer_patience, [&] { return num_answers[at] > before || failure || has_ended[at]; });
  lock.unlock();
  abort(mismatch_error(*end, side(clash.sender, clash.sent_bytes), side(clash.receiver, clash.expected_bytes)));
  throw_failure();
}

void State::ring() noexcept {
  bell.ring();
  if (const Neighbours* const sharers = near.load()) sharers->channels().wake();
}

MismatchSide State::side(Rank of, std::uint64_t num_bytes) {
  const std::lock_guard lock(mutex);
  const auto at = static_cast<std::size_t>(of);
  return {of, num_bytes, statuses[at].operation.load(), statuses[at].step.load(), descriptions[at]};
}

void State::spread(bool has_changed) noexcept {
  last_heard = SteadyClock::now();
  if (!has_changed) return;
  try {
    if (control.post_to_all(NoteKind::statement, statement_note(election.own())))
      control.tell_when_delivered(election.own().number);
    else
      election.close();  // some have not been told: it does not count, and nothing may follow
  } catch (const std::bad_alloc&) {
    election.close();
  }
}

}  // namespace ucx
SEQCCL_END

#endif
