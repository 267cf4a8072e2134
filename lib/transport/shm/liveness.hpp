// liveness.hpp - notices, without a signal or a thread, that a peer's process has ended.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "segment.hpp"

SEQCCL_BEGIN
namespace shm {

/// A descriptor per peer that becomes readable when its process ends: a pidfd where the system has them, else the socket that the two
/// have met on.
class Liveness {
 public:
  Liveness();
  /// `process`: of the peer as this process sees it, 0 if it does not. `connection` is closed unless it is needed.
  void watch(Rank peer, int process, Descriptor connection);
  void forget(Rank peer);
  /// Peers whose process has ended. Costs one system call.
  [[nodiscard]] std::vector<Rank> ended() const;
  [[nodiscard]] std::string describe() const;

 private:
  Descriptor poll_;
  std::vector<std::pair<Rank, Descriptor>> peers_;
  int num_sockets_ = 0;
};

}  // namespace shm
SEQCCL_END
