// group.cpp - the shared part of a group of thread ranks: failure and its orderly end.
// SPDX-License-Identifier: Apache-2.0
#include "group.hpp"

#include <thread>

SEQCCL_BEGIN

ThreadGroup::ThreadGroup(int num_ranks)
    : num_ranks_(num_ranks), seats_(num_ranks), channels_(static_cast<std::size_t>(num_ranks) * num_ranks * num_lanes) {}

void ThreadGroup::fail(const Error& error) noexcept {
  {
    const std::lock_guard lock(error_mutex_);
    if (failed()) return;
    try {
      error_ = error;
    } catch (...) {
      error_.reset();  // no memory for the copy: the group fails all the same
    }
    failed_.store(true, std::memory_order_seq_cst);
  }
  ring_all();
}

void ThreadGroup::throw_failure() {
  const std::lock_guard lock(error_mutex_);
  if (error_) throw Error(*error_);
  throw Error(ErrorKind::local, "the group failed, and there was no memory to keep the cause");
}

void ThreadGroup::ring_all() noexcept {
  for (Seat& seat : seats_) seat.bell.ring();
}

void ThreadGroup::quiesce(Rank rank) noexcept {
  for (Rank from = 0; from < num_ranks_; ++from) {
    for (int lane = 0; lane < num_lanes; ++lane) {
      while (channel(from, rank, lane).copying.load(std::memory_order_seq_cst)) std::this_thread::yield();  // one memcpy at most
    }
  }
}

std::optional<ThreadGroup::Successor> ThreadGroup::successor() {
  const std::lock_guard lock(successor_mutex_);
  return successor_;
}

void ThreadGroup::succeed(const std::vector<Rank>& members) {
  const std::lock_guard lock(successor_mutex_);
  if (!successor_) successor_ = Successor{members, std::make_shared<ThreadGroup>(static_cast<int>(members.size()))};
}

SEQCCL_END
