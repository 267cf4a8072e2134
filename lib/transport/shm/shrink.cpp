// shrink.cpp - a vote in the old segments, which all still map, and new ones that went out before it.
// SPDX-License-Identifier: Apache-2.0
#include "shrink.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "../vote.hpp"
#include "hello.hpp"

SEQCCL_BEGIN
namespace shm {
namespace {

class SharedBallot {
 public:
  SharedBallot(Rank rank, const std::vector<Segment>& segments, const Liveness& liveness)
      : rank_(rank), segments_(segments), liveness_(liveness), has_ended_(segments.size()) {}

  /// Sends the new segment, for as many ranks as before: how many will be left is not known yet.
  void come() {
    fresh_ = Segment(num_ranks());
    const Hello hello{.secret = random_word() | 1, .layout = layout_word(num_ranks()), .rank = rank_, .num_ranks = num_ranks()};
    for (Rank peer = 0; peer < num_ranks(); ++peer) {
      if (peer == rank_ || send_hello(liveness_.connection(peer), hello, fresh_.file()) || errno == EPIPE || errno == ECONNRESET) continue;
      throw Error(ErrorKind::local,
                  fmt::format("Communicator::shrink: rank {} of {} cannot send its memory to rank {}: {}", rank_, num_ranks(), peer,
                              std::strerror(errno)),
                  {rank_});
    }
    votes(rank_).ticket.store(hello.secret, std::memory_order_seq_cst);
  }
  void look() {
    for (const Rank peer : liveness_.ended()) has_ended_[static_cast<std::size_t>(peer)] = true;
  }
  [[nodiscard]] bool has_come(Rank rank) const { return ticket(rank) != 0; }
  [[nodiscard]] bool is_gone(Rank rank) const {
    return has_ended_[static_cast<std::size_t>(rank)] ||
           segments_[static_cast<std::size_t>(rank)].control().status.left.load(std::memory_order_seq_cst);
  }
  void propose(const std::vector<Rank>& members) {
    std::uint64_t* const proposal = votes(rank_).proposal;
    for (const Rank member : members) proposal[member / 64] |= std::uint64_t{1} << (member % 64);
    std::int32_t nobody = -1;
    votes(0).decided_by.compare_exchange_strong(nobody, rank_, std::memory_order_seq_cst);
  }
  [[nodiscard]] std::optional<std::vector<Rank>> decision() const {
    const Rank by = votes(0).decided_by.load(std::memory_order_seq_cst);
    if (by < 0) return std::nullopt;
    std::vector<Rank> members;
    for (Rank rank = 0; rank < num_ranks(); ++rank)
      if ((votes(by).proposal[rank / 64] >> (rank % 64) & 1) != 0) members.push_back(rank);
    return members;
  }

  [[nodiscard]] std::uint64_t ticket(Rank rank) const { return votes(rank).ticket.load(std::memory_order_seq_cst); }
  [[nodiscard]] Segment& fresh() { return fresh_; }

 private:
  [[nodiscard]] int num_ranks() const { return static_cast<int>(segments_.size()); }
  [[nodiscard]] Votes& votes(Rank rank) const { return segments_[static_cast<std::size_t>(rank)].control().votes; }

  Rank rank_;
  const std::vector<Segment>& segments_;
  const Liveness& liveness_;
  std::vector<bool> has_ended_;
  Segment fresh_;
};

/// A member's new segment. It was sent before the member came, so nobody waits; an earlier call that failed may have sent another.
Descriptor segment_of(Rank rank, Rank peer, const Descriptor& connection, std::uint64_t ticket, int num_ranks) {
  while (std::optional<Received> received = receive_hello(connection, SteadyClock::now())) {
    if (received->hello.secret != ticket || received->hello.rank != peer) continue;
    if (received->hello.layout != layout_word(num_ranks)) break;
    return std::move(received->file);
  }
  throw Error(ErrorKind::local,
              fmt::format("Communicator::shrink: rank {} of {}: what rank {} has sent did not come through the socket between them", rank,
                          num_ranks, peer),
              {rank});
}

}  // namespace

Survivors shrink(Rank rank, const std::vector<Segment>& segments, const Liveness& liveness, std::chrono::nanoseconds timeout) {
  const auto num_ranks = static_cast<int>(segments.size());
  if (num_ranks > Votes::max_ranks)
    throw Error(ErrorKind::argument, fmt::format("Communicator::shrink: {} ranks, want at most {}", num_ranks, Votes::max_ranks));
  SharedBallot votes(rank, segments, liveness);
  // If this rank fails from here on, those who have it among them see that it has left.
  struct Leaves {
    Segment& fresh;
    bool has_met = false;
    ~Leaves() {
      if (!has_met && fresh.file().is_open()) fresh.control().status.left.store(true, std::memory_order_seq_cst);
    }
  } leaves{votes.fresh()};

  Survivors survivors;
  survivors.former_ranks = vote(rank, num_ranks, timeout, votes);
  survivors.meeting.segments.resize(survivors.former_ranks.size());
  for (std::size_t i = 0; i < survivors.former_ranks.size(); ++i) {
    const Rank former = survivors.former_ranks[i];
    if (former == rank) continue;
    survivors.meeting.segments[i] =
        Segment(segment_of(rank, former, liveness.connection(former), votes.ticket(former), num_ranks), num_ranks);
    survivors.meeting.liveness.adopt(static_cast<Rank>(i), liveness, former);
  }
  const auto own = std::lower_bound(survivors.former_ranks.begin(), survivors.former_ranks.end(), rank) - survivors.former_ranks.begin();
  leaves.has_met = true;
  survivors.meeting.segments[static_cast<std::size_t>(own)] = std::move(votes.fresh());
  return survivors;
}

}  // namespace shm
SEQCCL_END
