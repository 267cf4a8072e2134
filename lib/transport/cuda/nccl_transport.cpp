// nccl_transport.cpp - an exchange step is a group of ncclSend and ncclRecv on the communicator of its lane.
// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <mutex>
#include <optional>

#include "nccl_library.hpp"
#include "seqccl/nccl.hpp"

SEQCCL_BEGIN
namespace cuda {
namespace {

using nccl::Result;

class NcclTransport final : public DeviceTransport {
 public:
  NcclTransport(Communicator& comm, const NcclOptions& options)
      : nccl_(nccl::library()),
        control_(comm.transport()),
        timeout_(comm.timeout()),
        name_(fmt::format("NCCL {}", nccl_.version)),
        settings_(options),
        config_(nccl_.version_code) {
    config_.blocking = 0;
    if (options.fewest_blocks > 0) config_.fewest_blocks = options.fewest_blocks;
    if (options.most_blocks > 0) config_.most_blocks = options.most_blocks;
    if (options.no_blocks && nccl_.version_code >= 22800) config_.block_policy = nccl::zero_blocks;
    try {
      connect(options);
    } catch (...) {
      abort_lanes();
      throw;
    }
  }
  /// What is under way on the device is waited for, unless the group has ended.
  ~NcclTransport() override {
    try {
      check();
      for (nccl::Comm*& lane : lanes_) {
        if (lane == nullptr) continue;
        settle(lane, nccl_.comm_finalize(lane), "ncclCommFinalize");
        nccl_.comm_destroy(std::exchange(lane, nullptr));
      }
    } catch (...) {  // a destructor has nobody to tell
    }
    abort_lanes();
  }
  NcclTransport(const NcclTransport&) = delete;
  NcclTransport& operator=(const NcclTransport&) = delete;

  Rank rank() const noexcept override { return control_.rank(); }
  int num_ranks() const noexcept override { return control_.num_ranks(); }
  const char* name() const noexcept override { return name_.c_str(); }
  std::string describe() const override;

  void prepare(std::span<const Lane> lanes, bool) override {
    for (const Lane lane : lanes)
      if (static_cast<int>(lane) > settings_.num_lanes)
        throw Error(ErrorKind::argument, fmt::format("{}: NcclOptions::num_lanes is {}, want {} for this plan", who(), settings_.num_lanes,
                                                     static_cast<int>(lane)));
  }
  void exchange(Lane lane, std::span<const DeviceMessage> sends, std::span<const DeviceMessage> receives, Stream stream) override {
    if (sends.empty() && receives.empty()) return;
    throw_if_failed();
    nccl::Comm* comm = lanes_[static_cast<std::size_t>(lane)];
    Result refused = nccl::success;
    const auto take = [&](Result result) {  // in progress is no refusal
      if (result != nccl::success && result != nccl::in_progress) refused = result;
    };
    take(nccl_.group_start());
    for (const DeviceMessage& receive : receives)
      if (refused == nccl::success && receive.num_bytes > 0)
        take(nccl_.recv(receive.data, receive.num_bytes, nccl::int8, receive.peer, comm, stream));
    for (const DeviceMessage& send : sends)
      if (refused == nccl::success && send.num_bytes > 0) take(nccl_.send(send.data, send.num_bytes, nccl::int8, send.peer, comm, stream));
    const Result at_end = nccl_.group_end();  // also behind an error: a group that is left open swallows all that follows
    settle(comm, refused != nccl::success ? refused : at_end, "a group of messages");
  }

  void check() override {
    throw_if_failed();
    for (nccl::Comm* lane : lanes_) {
      Result result = nccl::success;
      if (lane == nullptr) continue;
      if (const Result asked = nccl_.comm_get_async_error(lane, &result); asked != nccl::success) result = asked;
      if (result != nccl::success && result != nccl::in_progress) throw failure(lane, result, "on the device");
    }
  }
  void abort(const Error& error) noexcept override {
    const std::lock_guard lock(mutex_);
    if (failure_) return;
    failure_.emplace(error);
    has_failed_ = true;
  }

 private:
  [[nodiscard]] std::string who() const { return fmt::format("rank {} of {}: nccl", rank(), num_ranks()); }
  [[nodiscard]] Error failure(nccl::Comm* comm, Result result, const char* what) const {
    const char* words = nccl_.get_last_error(comm);
    const std::string text = fmt::format("{}: {}: {} ({}){}{}", who(), what, nccl_.get_error_string(result), unsigned{result},
                                         words != nullptr && *words != 0 ? ": " : "", words != nullptr ? words : "");
    if (result == nccl::remote_error) return {ErrorKind::dead, text};  // NCCL does not tell who
    if (result == nccl::invalid_argument || result == nccl::invalid_usage) return {ErrorKind::internal, text, {rank()}};
    return {ErrorKind::local, text, {rank()}};
  }
  void throw_if_failed() {
    if (!has_failed_) return;
    abort_lanes();
    const std::lock_guard lock(mutex_);
    throw Error(*failure_);
  }
  void abort_lanes() noexcept {
    for (nccl::Comm*& lane : lanes_)
      if (lane != nullptr) nccl_.comm_abort(std::exchange(lane, nullptr));
  }

  /// Until NCCL has done on the host what a call of `comm` began; others' threads may have to come for that.
  void settle(nccl::Comm* comm, Result result, const char* what) {
    const auto deadline = SteadyClock::now() + timeout_;
    for (int attempt = 0; result == nccl::in_progress; ++attempt) {
      if (const Result asked = nccl_.comm_get_async_error(comm, &result); asked != nccl::success) result = asked;
      if (result != nccl::in_progress) break;
      control_.check();
      throw_if_failed();
      const auto now = SteadyClock::now();
      if (now >= deadline)
        throw Error(ErrorKind::stalled, fmt::format("{}: {} has not been taken over for {:.3g} s", who(), what,
                                                    std::chrono::duration<double>(timeout_).count()));
      control_.idle(attempt, std::min(deadline, now + std::chrono::milliseconds(1)));
    }
    if (result != nccl::success) throw failure(comm, result, what);
  }

  void connect(const NcclOptions& options) {
    nccl::Comm* root = reinterpret_cast<nccl::Comm*>(options.parent);
    if (root == nullptr) {
      const nccl::UniqueId id = shared_id();
      nccl::Config config = config_;
      const Result result = nccl_.comm_init_rank_config(&lanes_[1], num_ranks(), id, rank(), &config);
      root = lanes_[1];
      settle(root, result, "ncclCommInitRankConfig");
    } else {
      require_same_ranks(root);
    }
    for (int lane = 1; lane <= options.num_lanes; ++lane) {
      nccl::Comm*& made = lanes_[static_cast<std::size_t>(lane)];
      if (made != nullptr) continue;
      nccl::Config config = config_;
      const Result result = nccl_.comm_split(root, 0, rank(), &made, &config);
      settle(root, result, "ncclCommSplit");
      settle(made, nccl::in_progress, "ncclCommSplit");
    }
  }
  void require_same_ranks(nccl::Comm* parent) const {
    int count = 0, its_rank = 0, device = 0, current = 0;
    for (const Result result :
         {nccl_.comm_count(parent, &count), nccl_.comm_user_rank(parent, &its_rank), nccl_.comm_cu_device(parent, &device)})
      if (result != nccl::success) throw failure(parent, result, "the parent");
    cudaGetDevice(&current);
    if (count != num_ranks() || its_rank != rank())
      throw Error(ErrorKind::argument, fmt::format("nccl_transport: the parent is rank {} of {}, want {} of {} as in comm", its_rank, count,
                                                   rank(), num_ranks()));
    if (device != current)
      throw Error(ErrorKind::argument,
                  fmt::format("nccl_transport: the parent is on device {}, want {}, which is current", device, current));
  }

  /// Rank 0's, by a message on the host.
  nccl::UniqueId shared_id() {
    constexpr std::uint64_t flag = 0x6e63636c5f6964;  // of no plan
    nccl::UniqueId id{};
    auto* const data = control_.arena(sizeof id);
    const auto deadline = SteadyClock::now() + timeout_;
    const auto require_in_time = [&](bool in_time, Rank peer) {
      if (in_time) return;
      throw Error(ErrorKind::stalled,
                  fmt::format("{}: rank {} has not come to nccl_transport for {:.3g} s", who(), peer,
                              std::chrono::duration<double>(timeout_).count()),
                  {peer});
    };
    if (rank() != 0) {
      const std::uint64_t ticket = control_.arm({0, Lane::comm, data, sizeof id, flag});
      require_in_time(wait_until(control_, deadline, [&] { return control_.arrived(0, Lane::comm, ticket); }), 0);
      std::memcpy(&id, data, sizeof id);
      return id;
    }
    if (const Result result = nccl_.get_unique_id(&id); result != nccl::success) throw failure(nullptr, result, "ncclGetUniqueId");
    std::memcpy(data, &id, sizeof id);
    for (Rank peer = 1; peer < num_ranks(); ++peer)
      require_in_time(wait_until(control_, deadline, [&] { return control_.try_send({peer, Lane::comm, data, sizeof id, flag}); }), peer);
    return id;
  }

  const nccl::Library& nccl_;
  Transport& control_;
  const std::chrono::nanoseconds timeout_;
  const std::string name_;
  const NcclOptions settings_;
  nccl::Config config_;
  std::array<nccl::Comm*, num_lanes> lanes_{};  // of lane 0, which computes: none
  std::mutex mutex_;                            // of failure_
  std::optional<Error> failure_;
  std::atomic<bool> has_failed_{false};
};

std::string NcclTransport::describe() const {
  std::string text = fmt::format("NCCL {} ({}), {} communicators of {} ranks", nccl_.version, nccl_.path, settings_.num_lanes, num_ranks());
  if (settings_.parent != nullptr) text += ", split from the caller's";
  if (settings_.fewest_blocks > 0) text += fmt::format("; requested: at least {} thread blocks", settings_.fewest_blocks);
  if (settings_.most_blocks > 0) text += fmt::format("; requested: at most {} thread blocks", settings_.most_blocks);
  if (settings_.no_blocks)
    text += fmt::format(
        "; requested: copy engines in place of thread blocks: NCCL 2.28 or later: {}; all ranks in reach of NVLink: unknown; "
        "messages by copy engines: unknown, NCCL does not tell",
        nccl_.version_code >= 22800 ? "yes" : "no");
  return text;
}

}  // namespace

TransportState nccl_state() {
  try {
    const nccl::Library& found = nccl::library();
    return {true, fmt::format("NCCL {} ({})", found.version, found.path)};
  } catch (const Error& error) {
    return {false, error.what()};
  }
}

std::unique_ptr<DeviceTransport> nccl_transport(Communicator& comm, const NcclOptions& options) {
  const char* who = "nccl_transport";
  if (comm.transport().executor() != nullptr)
    throw Error(ErrorKind::argument, fmt::format("{}: the communicator is on a device already ({})", who, comm.transport().name()));
  if (options.num_lanes < 1 || options.num_lanes >= num_lanes)
    throw Error(ErrorKind::argument, fmt::format("{}: num_lanes is {}, want 1 to {}", who, options.num_lanes, num_lanes - 1));
  for (const auto& [blocks, text] : {std::pair(options.fewest_blocks, "fewest_blocks"), std::pair(options.most_blocks, "most_blocks")})
    if (blocks < 0) throw Error(ErrorKind::argument, fmt::format("{}: {} is {}, want 0 for NCCL's choice, or more", who, text, blocks));
  if (options.most_blocks > 0 && options.fewest_blocks > options.most_blocks)
    throw Error(ErrorKind::argument, fmt::format("{}: fewest_blocks is {}, want at most most_blocks, which is {}", who,
                                                 options.fewest_blocks, options.most_blocks));
  try {
    return std::make_unique<NcclTransport>(comm, options);
  } catch (const Error& error) {
    // The others wait for this rank: they are told why it does not come.
    const bool is_own = error.kind() == ErrorKind::argument || error.kind() == ErrorKind::internal;
    comm.transport().abort(
        is_own ? Error(ErrorKind::local, fmt::format("rank {} of {}: {}", comm.rank(), comm.size(), error.what()), {comm.rank()}) : error);
    comm.transport().check();
    throw;
  }
}

}  // namespace cuda
SEQCCL_END
