// watchdog.hpp - ends a test that hangs, after saying what every rank was doing.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <thread>

#include "seqccl/transport.hpp"

namespace seqccl::test {

/// Watchdog
/// ========
///
///     Watchdog dog(std::chrono::seconds(60));
///     run_ranks(4, [&](Communicator& comm) {
///       const auto leash = dog.watch(comm.transport());       // optional: says where this rank is stuck
///       ...
///     });
class Watchdog {
 public:
  explicit Watchdog(std::chrono::seconds limit) : thread_([this, limit] { guard(limit); }) {
    if (const auto* info = ::testing::UnitTest::GetInstance()->current_test_info()) {
      const std::lock_guard lock(mutex_);
      test_ = std::string(info->test_suite_name()) + "." + info->name();
    }
  }
  ~Watchdog() {
    {
      const std::lock_guard lock(mutex_);
      over_ = true;
    }
    wake_.notify_all();
    thread_.join();
  }
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  class Leash {
   public:
    Leash(Watchdog& dog, Rank rank) : dog_(dog), rank_(rank) {}
    ~Leash() {
      const std::lock_guard lock(dog_.mutex_);
      dog_.ranks_.erase(rank_);
    }
    Leash(const Leash&) = delete;
    Leash& operator=(const Leash&) = delete;

   private:
    Watchdog& dog_;
    Rank rank_;
  };
  [[nodiscard]] Leash watch(Transport& transport) {
    const std::lock_guard lock(mutex_);
    ranks_[transport.rank()] = &transport;
    return {*this, transport.rank()};
  }
  /// Where the test is, for tests that repeat something.
  void round(int number) {
    const std::lock_guard lock(mutex_);
    round_ = number;
  }

 private:
  void guard(std::chrono::seconds limit) {
    std::unique_lock lock(mutex_);
    if (wake_.wait_for(lock, limit, [&] { return over_; })) return;
    std::fprintf(stderr, "watchdog: %s hangs after %lld s, round %d\n", test_.c_str(), static_cast<long long>(limit.count()), round_);
    for (const auto& [rank, transport] : ranks_) {
      const RankStatus& status = transport->status(rank);
      std::fprintf(stderr, "  rank %d: operation %llu begun, %llu ended, compute step %d, waits for rank %d\n", rank,
                   static_cast<unsigned long long>(status.operation.load()), static_cast<unsigned long long>(status.finished.load()),
                   status.compute_step.load(), status.waiting_for.load());
    }
    std::abort();
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  bool over_ = false;
  int round_ = -1;
  std::string test_ = "a test";
  std::map<Rank, Transport*> ranks_;
  std::thread thread_;  // last: starts when the rest is there
};

}  // namespace seqccl::test
