// watchdog.cpp - who holds up an operation on the device.
// SPDX-License-Identifier: Apache-2.0
#include "watchdog.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

SEQCCL_BEGIN
namespace cuda {
namespace {

/// As long as the host's end may need to notice that a process has gone, or a rank to answer.
constexpr auto patience = std::chrono::milliseconds(1500);

/// False: not yet.
bool has_come(const EventHandle& event) {
  const cudaError_t state = cudaEventQuery(event.get());
  if (state == cudaErrorNotReady) {
    (void)cudaGetLastError();
    return false;
  }
  require_cuda(state, "cudaEventQuery");
  return true;
}

}  // namespace

Error with_culprit(Transport& control, const Error& error) {
  if (!error.culprits().empty() || error.kind() == ErrorKind::argument) return error;
  const auto deadline = SteadyClock::now() + patience;
  try {
    for (int attempt = 0; SteadyClock::now() < deadline; ++attempt) {
      control.check();
      std::vector<Rank> left;
      for (Rank rank = 0; rank < control.num_ranks(); ++rank)
        if (rank != control.rank() && control.status(rank).left.load()) left.push_back(rank);
      if (!left.empty())
        return {ErrorKind::dead, fmt::format("{}; ranks that have left their communicator: {}", error.what(), fmt::join(left, ", ")), left};
      control.idle(attempt, std::min(deadline, SteadyClock::now() + std::chrono::milliseconds(10)));
    }
  } catch (const Error& known) {
    return known;
  }
  return error;
}

Watchdog::Watchdog(Transport& control, DeviceTransport& data, std::mutex& calls, Options options)
    : control_(control), data_(data), calls_(calls), options_(std::move(options)), thread_([this] { run(); }) {}

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(mutex_);
    is_over_ = true;
  }
  over_.notify_all();
  thread_.join();
  try {
    follow_device();        // what has ended is told, so that a rank that leaves now is not blamed for it
  } catch (const Error&) {  // the device's, which has nobody to go to now
  }
}

WatchedOperation Watchdog::take() {
  if (spare_.empty()) return {.begin = make_event(), .end = make_event()};
  WatchedOperation operation = std::move(spare_.back());
  spare_.pop_back();
  operation.begun.reset();
  return operation;
}

void Watchdog::run() {
  cudaStreamCaptureMode mode = cudaStreamCaptureModeThreadLocal;  // captures of other threads are not ours to break
  (void)cudaThreadExchangeStreamCaptureMode(&mode);
  for (bool has_ended = false;;) {
    {
      std::unique_lock lock(mutex_);
      if (over_.wait_for(lock, options_.interval, [&] { return is_over_; })) return;
    }
    if (has_ended) continue;
    std::optional<Error> ended;
    {
      const std::lock_guard lock(calls_);
      try {
        const CurrentDevice current(device_);
        look();
      } catch (const Error& error) {
        ended = with_culprit(control_, error);
      } catch (const std::exception& why) {
        ended.emplace(ErrorKind::local, fmt::format("rank {} of {}: the watchdog: {}", control_.rank(), control_.num_ranks(), why.what()),
                      std::vector<Rank>{control_.rank()});
      }
      if (ended) end_group(*ended);
    }
    if (!ended) continue;
    has_ended = true;
    if (options_.on_error) options_.on_error(*ended);
  }
}

void Watchdog::end_group(const Error& error) {
  data_.abort(error);
  control_.abort(error);
  try {
    data_.check();  // what it has on the device ends, so that nobody waits for it
  } catch (const Error&) {
  }
}

void Watchdog::look() {
  control_.check();
  data_.check();
  follow_device();
  if (watched_.empty()) return;
  const WatchedOperation& first = watched_.front();
  look_for_mismatch(first);
  if (!first.begun) return;
  if (SteadyClock::now() - *first.begun < first.timeout) return;
  if (const std::optional<Error> error = find_culprit(first)) throw *error;
}

/// Believed at the second look: a rank changes its plan and then the number, not both at once.
void Watchdog::look_for_mismatch(const WatchedOperation& first) {
  std::optional<std::pair<Rank, std::uint64_t>> odd;  // and the operation
  for (Rank rank = 0; rank < control_.num_ranks() && !odd; ++rank) {
    const RankStatus& status = control_.status(rank);
    if (status.operation.load() == first.number && status.plan.load() != first.plan) odd = {rank, first.number};
  }
  if (!odd || std::exchange(odd_, odd) != odd) return;
  throw Error(ErrorKind::mismatched,
              fmt::format("{} on rank {} of {}: rank {} called something else as operation {}", first.name, control_.rank(),
                          control_.num_ranks(), odd->first, first.number),
              odd_ranks(control_, control_.rank(), odd->first));
}

void Watchdog::follow_device() {
  RankStatus& status = control_.status(control_.rank());
  const auto now = SteadyClock::now();
  while (!watched_.empty() && has_come(watched_.front().end)) {
    status.finished.store(watched_.front().number, std::memory_order_release);
    status.step.store(-1, std::memory_order_release);
    status.progress_ns.store(now.time_since_epoch().count(), std::memory_order_release);
    spare_.push_back(std::move(watched_.front()));
    watched_.pop_front();
    suspected_.reset();
  }
  if (watched_.empty() || watched_.front().begun || !has_come(watched_.front().begin)) return;
  watched_.front().begun = now;
  status.step.store(0, std::memory_order_release);
  status.progress_ns.store(now.time_since_epoch().count(), std::memory_order_release);
}

/// Whom to name, the surest first: who has left, who does something else, who does not answer, who has not called the operation, whose
/// device has not come to it, and if all are in it, all who have not ended it.
std::optional<Error> Watchdog::find_culprit(const WatchedOperation& late) {
  const auto now = SteadyClock::now();
  if (!suspected_) suspected_ = now;
  std::vector<Rank> left, odd, silent, absent, before, inside;
  for (Rank rank = 0; rank < control_.num_ranks(); ++rank) {
    if (rank == control_.rank()) continue;
    const RankStatus& status = control_.status(rank);
    if (control_.status_time(rank) < *suspected_) {
      control_.ask_for_status(rank);
      if (now - *suspected_ < patience) return std::nullopt;
      silent.push_back(rank);
      continue;
    }
    const std::uint64_t finished = status.finished.load(), operation = status.operation.load(), plan = status.plan.load();
    if (finished >= late.number) continue;
    if (status.left.load())
      left.push_back(rank);
    else if (operation < late.number)
      absent.push_back(rank);
    else if (operation == late.number && plan != late.plan)
      odd.push_back(rank);
    else if (finished + 1 < late.number || status.step.load() < 0)
      before.push_back(rank);
    else
      inside.push_back(rank);
  }
  const std::string who = fmt::format("{} on rank {} of {}: on the device for {:.3g} s", late.name, control_.rank(), control_.num_ranks(),
                                      std::chrono::duration<double>(now - *late.begun).count());
  const auto verdict = [&](ErrorKind kind, const std::vector<Rank>& ranks, const std::string& what) {
    return Error(kind, fmt::format("{}: {} {}: {}", who, ranks.size() == 1 ? "rank" : "ranks", fmt::join(ranks, ", "), what), ranks);
  };
  if (!left.empty()) return verdict(ErrorKind::dead, left, "left its communicator");
  if (!odd.empty())
    return verdict(ErrorKind::mismatched, odd_ranks(control_, control_.rank(), odd.front()),
                   fmt::format("something else called as operation {}", late.number));
  if (!silent.empty()) return verdict(ErrorKind::stalled, silent, "no answer: stopped, never given a core, or out of reach");
  if (!absent.empty()) return verdict(ErrorKind::stalled, absent, fmt::format("operation {} not called", late.number));
  if (!before.empty())
    return verdict(ErrorKind::stalled, before, fmt::format("operation {} called, but the device has not come to it", late.number));
  inside.push_back(control_.rank());
  std::sort(inside.begin(), inside.end());
  return verdict(ErrorKind::stalled, inside, fmt::format("inside operation {} on the device", late.number));
}

}  // namespace cuda
SEQCCL_END
