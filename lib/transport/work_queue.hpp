// work_queue.hpp - one thread that runs a communicator's started operations, one after the other.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "seqccl/work.hpp"

SEQCCL_BEGIN

/// The thread begins with the first start.
///
/// A task belongs to its Work, which outlives it because it waits; the queue has pointers.
class WorkQueue {
 public:
  WorkQueue() = default;
  ~WorkQueue() { finish(); }
  WorkQueue(const WorkQueue&) = delete;
  WorkQueue& operator=(const WorkQueue&) = delete;

  /// @throws std::system_error if there is no thread to be had
  [[nodiscard]] Work start(std::function<void()> operation);
  /// Returns when all that was started has ended. Nothing may be started after it.
  void finish() noexcept;

  /// Operations that have not ended.
  [[nodiscard]] int num_unfinished() const noexcept { return num_unfinished_.load(std::memory_order_acquire); }
  /// True if the calling thread is this queue's. Only that thread and the one that starts may ask.
  [[nodiscard]] bool is_this_thread() const noexcept { return thread_.get_id() == std::this_thread::get_id(); }

 private:
  void run();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Work::Task*> tasks_;  // not begun
  bool closed_ = false;
  std::atomic<int> num_unfinished_{0};
  std::thread thread_;
};

SEQCCL_END
