// work.hpp - a handle on an operation that runs while its caller does something else.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <memory>

#include "seqccl/version.hpp"

SEQCCL_BEGIN

/// Work
/// ====
///
///     Work gathered = comm.start([&] { keys.gather(k, v, k_all, v_all); });
///     project_queries();                      // while keys come in
///     gathered.wait();                        // k_all, v_all are there; throws what gather threw
///
/// Made by Communicator::start. Move-only; one thread at a time may use it. A Work that was moved from, or never given
/// anything, counts as done.
///
/// The destructor waits until the operation has ended, and drops its error if nobody asked for it. It cannot do less: the operation
/// reads and writes tensors of the caller, who may free them after it; and a rank that left out an operation would leave the
/// others waiting. Communicator::abort ends operations that wait for peers.
class Work {
 public:
  Work() noexcept;
  ~Work();
  Work(Work&& other) noexcept;
  Work& operator=(Work&& other) noexcept;  // waits for what it held, as the destructor

  /// True if the operation has ended. @throws what the operation threw
  [[nodiscard]] bool test();
  /// Returns when the operation has ended. @throws what the operation threw, at each call
  void wait();
  /// As wait, but not longer than `timeout` or past `deadline`: false if the operation is still going on then. It goes on.
  [[nodiscard]] bool wait(std::chrono::nanoseconds timeout);
  [[nodiscard]] bool wait(std::chrono::steady_clock::time_point deadline);

 private:
  friend class WorkQueue;
  struct Task;
  explicit Work(std::unique_ptr<Task> task) noexcept;

  std::unique_ptr<Task> task_;
};

SEQCCL_END
