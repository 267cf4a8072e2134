// worker.hpp - a UCX context, its worker and an endpoint per rank.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "library.hpp"

#if SEQCCL_HAS_UCX

#include <set>
#include <string>
#include <vector>

#include "seqccl/error.hpp"

SEQCCL_BEGIN
namespace ucx {

/// One thread at a time. Deaths are noticed elsewhere: endpoints that notice them may not use shared memory (UCX 1.13).
class Worker {
 public:
  explicit Worker(Rank rank);
  /// Closes everything without a word to the peers, unless leak() was called.
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  [[nodiscard]] std::string address() const;
  /// @throws Error(dead) that names the rank that UCX does not find
  void connect(const std::vector<std::string>& addresses);
  /// Transports of the lanes to `peer`, "tcp" or "rc_mlx5", each once; empty if UCX does not say.
  [[nodiscard]] std::set<std::string> transports(Rank peer) const;
  void on_message(ucp_am_recv_callback_t call, void* argument);
  [[nodiscard]] ucp_ep_h endpoint(Rank peer) const noexcept { return endpoints_[static_cast<std::size_t>(peer)]; }
  [[nodiscard]] ucp_worker_h handle() const noexcept { return worker_; }
  /// Becomes readable when there is something to do, after arm() said that there was nothing.
  [[nodiscard]] int event() const noexcept { return event_; }

  bool progress() noexcept { return ucp_.worker_progress(worker_) != 0; }
  [[nodiscard]] bool arm() noexcept { return ucp_.worker_arm(worker_) == UCS_OK; }
  /// UCX may still know memory of the user's: it is left alone for good, which costs its memory and descriptors.
  void leak() noexcept { leaked_ = true; }

  /// @throws Error(local) with UCX's word for it
  void require(ucs_status_t status, const char* what) const;

 private:
  void close() noexcept;

  Rank rank_;
  const Library& ucp_;
  ucp_context_h context_ = nullptr;
  ucp_worker_h worker_ = nullptr;
  std::vector<ucp_ep_h> endpoints_;
  int event_ = -1;
  bool leaked_ = false;
};

/// What is left alone for good stays reachable, so that a leak checker tells it from a mistake.
void keep_for_good(void* memory) noexcept;

}  // namespace ucx
SEQCCL_END

#endif
