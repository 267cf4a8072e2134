// liveness.hpp - notices, without a signal or a thread, that a peer's process has ended.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "segment.hpp"

SEQCCL_BEGIN
namespace shm {

/// A descriptor per peer that becomes readable when its process ends: a pidfd where the system has them, else the socket that the two
/// have met on. That is kept open in any case: the other end may have nothing else to look at.
class Liveness {
 public:
  Liveness();
  /// `process`: of the peer as this process sees it, 0 if it does not.
  void watch(Rank peer, int process, Descriptor connection);
  void forget(Rank peer);
  /// Watches `peer` of `other` as well, as `rank`. @throws Error(local) if there is no descriptor to be had
  void adopt(Rank rank, const Liveness& other, Rank peer);
  /// The socket that this rank and `peer` have met on.
  [[nodiscard]] const Descriptor& connection(Rank peer) const;
  /// Peers whose process has ended. Costs one system call.
  [[nodiscard]] std::vector<Rank> ended() const;

 private:
  struct Peer {
    Rank rank;
    Descriptor process;  // not open: the connection is watched
    Descriptor connection;
    [[nodiscard]] int watched() const noexcept { return (process.is_open() ? process : connection).number(); }
  };
  void add(Peer peer);
  [[nodiscard]] const Peer& peer_of(Rank rank) const;
  Descriptor poll_;
  std::vector<Peer> peers_;
};

}  // namespace shm
SEQCCL_END
