// watchdog.hpp - looks after operations that are on their way on the device, when no thread of the rank is in a call.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "device.hpp"
#include "seqccl/cuda.hpp"

SEQCCL_BEGIN
namespace cuda {

/// An operation between two events of the caller's stream.
struct WatchedOperation {
  std::string name;
  std::uint64_t number = 0, plan = 0;  // RankStatus::operation, plan
  std::chrono::nanoseconds timeout{};
  EventHandle begin, end;
  std::optional<SteadyClock::time_point> begun{};  // on the device
};

/// A thread that asks, every interval: has the group ended, has the transport of data failed, how far has the device come? It publishes the
/// last as RankStatus::finished and step (-1: the device has not come to operation finished + 1, 0: it has), and ends the group if an
/// operation takes longer than its timeout, naming those who hold it up.
class Watchdog {
 public:
  struct Options {
    std::chrono::nanoseconds interval{};
    std::function<void(const Error&)> on_error{};
  };
  /// `calls` is held by whoever calls `control` or `data`.
  Watchdog(Transport& control, DeviceTransport& data, std::mutex& calls, Options options);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  /// With `calls` held: an operation with two events to record; back, once they are.
  [[nodiscard]] WatchedOperation take();
  void watch(WatchedOperation operation) { watched_.push_back(std::move(operation)); }

 private:
  void run();
  void look();
  void end_group(const Error& error);
  void follow_device();
  void look_for_mismatch(const WatchedOperation& first);
  [[nodiscard]] std::optional<Error> find_culprit(const WatchedOperation& late);

  Transport& control_;
  DeviceTransport& data_;
  std::mutex& calls_;
  const Options options_;
  const int device_ = current_device();
  std::deque<WatchedOperation> watched_;
  std::vector<WatchedOperation> spare_;  // for their events
  std::optional<SteadyClock::time_point> suspected_{};
  std::optional<std::pair<Rank, std::uint64_t>> odd_{};  // who seemed to be in another operation at the last look, and in which
  std::mutex mutex_;                                     // of is_over_
  std::condition_variable over_;
  bool is_over_ = false;
  std::thread thread_;  // last: it uses the others
};

/// `error`, or if it names nobody, what the host's end comes to know of a rank that died or left: it is given a moment.
[[nodiscard]] Error with_culprit(Transport& control, const Error& error);

}  // namespace cuda
SEQCCL_END
