// work.cpp - waiting for started operations, and the thread that runs them.
// SPDX-License-Identifier: Apache-2.0
#include "seqccl/work.hpp"

#include <algorithm>
#include <exception>
#include <utility>

#include "work_queue.hpp"

SEQCCL_BEGIN

struct Work::Task {
  std::function<void()> operation;
  std::mutex mutex;
  std::condition_variable ended;
  bool done = false;
  std::exception_ptr error{};

  explicit Task(std::function<void()> what) : operation(std::move(what)) {}
  void rethrow() const {
    if (error) std::rethrow_exception(error);
  }
};

// --- Work -----------------------------------------------------------------------------------------------------------

Work::Work() noexcept = default;
Work::Work(std::unique_ptr<Task> task) noexcept : task_(std::move(task)) {}
Work::Work(Work&& other) noexcept = default;

Work::~Work() {
  if (!task_) return;
  std::unique_lock lock(task_->mutex);
  task_->ended.wait(lock, [this] { return task_->done; });
}

Work& Work::operator=(Work&& other) noexcept {
  if (this != &other) Work(std::move(*this)), task_ = std::move(other.task_);  // the temporary waits
  return *this;
}

bool Work::test() {
  if (!task_) return true;
  const std::lock_guard lock(task_->mutex);
  if (!task_->done) return false;
  task_->rethrow();
  return true;
}

void Work::wait() {
  if (!task_) return;
  std::unique_lock lock(task_->mutex);
  task_->ended.wait(lock, [this] { return task_->done; });
  task_->rethrow();
}

bool Work::wait(std::chrono::nanoseconds timeout) {
  // A deadline is now + timeout: a century is for ever, and safe to add.
  constexpr std::chrono::nanoseconds century = std::chrono::hours(24 * 365 * 100);
  return wait(std::chrono::steady_clock::now() + std::clamp(timeout, std::chrono::nanoseconds(0), century));
}

bool Work::wait(std::chrono::steady_clock::time_point deadline) {
  if (!task_) return true;
  std::unique_lock lock(task_->mutex);
  if (!task_->ended.wait_until(lock, deadline, [this] { return task_->done; })) return false;
  task_->rethrow();
  return true;
}

// --- WorkQueue ------------------------------------------------------------------------------------------------------

void WorkQueue::finish() noexcept {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

Work WorkQueue::start(std::function<void()> operation) {
  auto task = std::make_unique<Work::Task>(std::move(operation));
  if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
  {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(task.get());
    num_unfinished_.fetch_add(1, std::memory_order_release);
  }
  changed_.notify_one();
  return Work(std::move(task));
}

void WorkQueue::run() {
  while (true) {
    Work::Task* task = nullptr;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return closed_ || !tasks_.empty(); });
      if (tasks_.empty()) return;  // closed, and nothing left to do
      task = tasks_.front();
      tasks_.pop_front();
    }
    std::exception_ptr error;
    try {
      task->operation();
    } catch (...) {
      error = std::current_exception();
    }
    task->operation = nullptr;  // what it captured may go before somebody is told that it has ended
    num_unfinished_.fetch_sub(1, std::memory_order_release);

    // Told under the lock: the task goes with its Work as soon as that has the lock and sees `done`.
    const std::lock_guard lock(task->mutex);
    task->error = std::move(error);
    task->done = true;
    task->ended.notify_all();
  }
}

SEQCCL_END
