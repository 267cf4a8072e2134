// shared_device.cpp - ranks as threads that share one device: a message is a copy on the receiver's stream, ordered by events.
// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <array>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <tuple>
#include <utility>

#include "seqccl/cuda.hpp"

SEQCCL_BEGIN
namespace cuda {
namespace {

/// An event that lives as long as one of those who wait for it.
using SharedEvent = std::shared_ptr<std::remove_pointer_t<cudaEvent_t>>;

/// What a rank sends: it may be read once `ready` has come, and was read once `read` has.
struct Offer {
  const std::byte* data = nullptr;
  std::size_t num_bytes = 0;
  SharedEvent ready, read;
  bool is_taken = false;
};

struct Group {
  explicit Group(int num_ranks_, std::chrono::nanoseconds timeout_)
      : num_ranks(num_ranks_), timeout(timeout_), left(static_cast<std::size_t>(num_ranks_)) {}
  const int num_ranks;
  const std::chrono::nanoseconds timeout;
  std::mutex mutex;
  std::condition_variable changed;
  std::map<std::tuple<Rank, Rank, Lane>, std::deque<std::shared_ptr<Offer>>> offers;  // from, to
  std::vector<bool> left;
  std::optional<Error> failure;
};

class SharedDevice final : public DeviceTransport {
 public:
  SharedDevice(std::shared_ptr<Group> group, Rank rank) : group_(std::move(group)), rank_(rank) {}
  ~SharedDevice() override {
    {
      const std::lock_guard lock(group_->mutex);
      group_->left[static_cast<std::size_t>(rank_)] = true;
    }
    group_->changed.notify_all();
  }
  Rank rank() const noexcept override { return rank_; }
  int num_ranks() const noexcept override { return group_->num_ranks; }
  const char* name() const noexcept override { return "one device, ranks as threads"; }

  void prepare(std::span<const Lane>, bool is_capturing) override {
    if (is_capturing)
      throw Error(ErrorKind::argument, fmt::format("rank {} of {}: exchanges of ranks that share a device cannot be captured into a graph: "
                                                   "their events belong to several ranks",
                                                   rank_, num_ranks()));
  }
  void exchange(Lane lane, std::span<const DeviceMessage> sends, std::span<const DeviceMessage> receives, Stream stream) override {
    if (sends.empty() && receives.empty()) return;
    std::vector<std::shared_ptr<Offer>> mine;
    const SharedEvent ready = sends.empty() ? nullptr : record(stream);
    {
      const std::lock_guard lock(group_->mutex);
      for (const DeviceMessage& send : sends) {
        mine.push_back(std::make_shared<Offer>(Offer{send.data, send.num_bytes, ready, nullptr}));
        group_->offers[{rank_, send.peer, lane}].push_back(mine.back());
      }
    }
    group_->changed.notify_all();

    std::vector<std::shared_ptr<Offer>> taken;
    for (const DeviceMessage& receive : receives) {
      taken.push_back(next_offer(receive, lane));
      require(cudaStreamWaitEvent(stream, taken.back()->ready.get(), 0), "cudaStreamWaitEvent");
      if (receive.num_bytes != 0)
        require(cudaMemcpyAsync(receive.data, taken.back()->data, receive.num_bytes, cudaMemcpyDeviceToDevice, stream), "cudaMemcpyAsync");
    }
    const SharedEvent read = receives.empty() ? nullptr : record(stream);
    {
      const std::lock_guard lock(group_->mutex);
      for (const auto& offer : taken) offer->read = read, offer->is_taken = true;
    }
    group_->changed.notify_all();
    // What was sent may change once it has been read.
    for (std::size_t n = 0; n < mine.size(); ++n) {
      wait_for(sends[n].peer, "to receive", [&] { return mine[n]->is_taken; });
      require(cudaStreamWaitEvent(stream, mine[n]->read.get(), 0), "cudaStreamWaitEvent");
    }
  }

  void check() override {
    const std::lock_guard lock(group_->mutex);
    if (group_->failure) throw Error(*group_->failure);
  }
  void abort(const Error& error) noexcept override {
    {
      const std::lock_guard lock(group_->mutex);
      if (!group_->failure) group_->failure.emplace(error);
    }
    group_->changed.notify_all();
  }

 private:
  void require(cudaError_t error, const char* what) const {
    if (error == cudaSuccess) return;
    throw Error(ErrorKind::local,
                fmt::format("rank {} of {}: {}: {} ({})", rank_, num_ranks(), what, cudaGetErrorString(error), cudaGetErrorName(error)),
                {rank_});
  }
  [[nodiscard]] SharedEvent record(Stream stream) const {
    cudaEvent_t event = nullptr;
    require(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
    SharedEvent shared(event, [](cudaEvent_t last) { cudaEventDestroy(last); });
    require(cudaEventRecord(event, stream), "cudaEventRecord");
    return shared;
  }

  /// Until `done()`, with the mutex held while it looks.
  template <class Done>
  void wait_for(Rank peer, const char* what, Done done) {
    std::unique_lock lock(group_->mutex);
    const bool in_time = group_->changed.wait_for(
        lock, group_->timeout, [&] { return done() || group_->failure || group_->left[static_cast<std::size_t>(peer)]; });
    if (done()) return;
    if (group_->failure) throw Error(*group_->failure);
    const std::string who = fmt::format("rank {} of {}: waits for rank {} {}, which ", rank_, num_ranks(), peer, what);
    if (in_time) throw Error(ErrorKind::dead, who + "has destroyed its communicator", {peer});
    throw Error(ErrorKind::stalled,
                who + fmt::format("has not come for {} ms", std::chrono::duration_cast<std::chrono::milliseconds>(group_->timeout).count()),
                {peer});
  }

  [[nodiscard]] std::shared_ptr<Offer> next_offer(const DeviceMessage& receive, Lane lane) {
    const std::tuple key{receive.peer, rank_, lane};
    wait_for(receive.peer, "to send", [&] { return !group_->offers[key].empty(); });
    const std::lock_guard lock(group_->mutex);
    auto& queue = group_->offers[key];
    std::shared_ptr<Offer> offer = queue.front();
    queue.pop_front();
    if (offer->num_bytes == receive.num_bytes) return offer;
    throw Error(ErrorKind::mismatched,
                fmt::format("rank {} of {}: expects {} bytes where rank {} sends {}", rank_, num_ranks(), receive.num_bytes, receive.peer,
                            offer->num_bytes),
                {std::min(rank_, receive.peer), std::max(rank_, receive.peer)});
  }

  std::shared_ptr<Group> group_;
  Rank rank_;
};

}  // namespace

std::vector<std::unique_ptr<DeviceTransport>> shared_device_transports(int num_ranks, std::chrono::nanoseconds timeout) {
  if (num_ranks < 1) throw Error(ErrorKind::argument, fmt::format("shared_device_transports: num_ranks is {}, want at least 1", num_ranks));
  if (timeout.count() <= 0)
    throw Error(ErrorKind::argument, fmt::format("shared_device_transports: timeout is {} ns, want more than 0", timeout.count()));
  const auto group = std::make_shared<Group>(num_ranks, timeout);
  std::vector<std::unique_ptr<DeviceTransport>> ends;
  for (Rank rank = 0; rank < num_ranks; ++rank) ends.push_back(std::make_unique<SharedDevice>(group, rank));
  return ends;
}

}  // namespace cuda
SEQCCL_END
