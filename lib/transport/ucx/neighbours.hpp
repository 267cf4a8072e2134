// neighbours.hpp - ranks of this host: their messages go through shared memory, beside the data plane.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <utility>
#include <vector>

#include "../shm/channels.hpp"

SEQCCL_BEGIN
namespace ucx {

/// The channels number the ranks of a host from 0: their seats.
class Neighbours {
 public:
  /// `ranks`: by seat, this rank among them. `on_clash` gets ranks, and throws.
  Neighbours(Rank rank, int num_ranks, std::vector<Rank> ranks, std::vector<shm::Segment> segments,
             std::function<void(shm::Clash)> on_clash)
      : ranks_(std::move(ranks)), seats_(static_cast<std::size_t>(num_ranks), -1), on_clash_(std::move(on_clash)) {
    for (std::size_t seat = 0; seat < ranks_.size(); ++seat) seats_[static_cast<std::size_t>(ranks_[seat])] = static_cast<Rank>(seat);
    channels_ = std::make_unique<shm::Channels>(seat(rank), std::move(segments), [this](const shm::Clash& clash) {
      on_clash_({.sender = ranks_[static_cast<std::size_t>(clash.sender)],
                 .receiver = ranks_[static_cast<std::size_t>(clash.receiver)],
                 .sent_bytes = clash.sent_bytes,
                 .expected_bytes = clash.expected_bytes});
    });
  }

  /// -1: of another host.
  [[nodiscard]] Rank seat(Rank rank) const noexcept { return seats_[static_cast<std::size_t>(rank)]; }
  [[nodiscard]] const std::vector<Rank>& ranks() const noexcept { return ranks_; }
  [[nodiscard]] shm::Channels& channels() const noexcept { return *channels_; }
  /// The same message between seats.
  [[nodiscard]] Message seated(Message message) const noexcept {
    message.peer = seat(message.peer);
    return message;
  }

 private:
  std::vector<Rank> ranks_, seats_;
  std::function<void(shm::Clash)> on_clash_;
  std::unique_ptr<shm::Channels> channels_;
};

}  // namespace ucx
SEQCCL_END
