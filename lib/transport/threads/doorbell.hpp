// doorbell.hpp - lets the threads of one rank sleep until something happened; costs a ringer one atomic if nobody sleeps.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>

#include "seqccl/transport.hpp"

SEQCCL_BEGIN

/// Doorbell
/// ========
///
///     sleeper   seen = epoch()   poll: nothing   sleep(seen)       returns at once if the bell rang after `seen` was read
///     ringer                                     publish, ring()
///
/// No ring is lost as long as the sleeper reads the epoch before it polls. Epoch and number of sleepers share one word, so
/// a ring and the decision to sleep are ordered, and a ring learns from its one increment whether somebody sleeps.
class Doorbell {
 public:
  [[nodiscard]] std::uint64_t epoch() const noexcept { return word_.load(std::memory_order_seq_cst) >> sleeper_bits; }

  void ring() noexcept {
    const std::uint64_t before = word_.fetch_add(std::uint64_t{1} << sleeper_bits, std::memory_order_seq_cst);
    if ((before & sleeper_mask) == 0) return;
    { const std::lock_guard lock(mutex_); }  // whoever read the old epoch under the lock is asleep by now
    wake_.notify_all();
  }

  void sleep(std::uint64_t seen, SteadyClock::time_point deadline) {
    std::unique_lock lock(mutex_);
    word_.fetch_add(1, std::memory_order_seq_cst);
    wake_.wait_until(lock, deadline, [&] { return epoch() != seen; });
    word_.fetch_sub(1, std::memory_order_seq_cst);
  }

 private:
  static constexpr int sleeper_bits = 8;
  static constexpr std::uint64_t sleeper_mask = (1u << sleeper_bits) - 1;

  std::atomic<std::uint64_t> word_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
};

SEQCCL_END
