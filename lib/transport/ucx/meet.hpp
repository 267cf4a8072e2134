// meet.hpp - a TCP connection between every two ranks, on any hosts; both ends prove that they are of this job.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "../bootstrap/siphash.hpp"
#include "../descriptor.hpp"
#include "seqccl/bootstrap.hpp"
#include "seqccl/transport.hpp"

SEQCCL_BEGIN
namespace ucx {

/// What a rank tells the others in the all-gather.
struct Card {
  std::string place;  // host and network namespace
  std::string host;   // ranks with one host share a node
  int port = 0;
  bootstrap::Bytes16 key{};            // proves that one has read this card
  std::vector<std::string> addresses;  // of the host
  [[nodiscard]] std::string text() const;
  /// @throws Error(mismatched) if the text is no card
  static Card parse(Rank rank, const std::string& text);
};

struct Meeting {
  std::vector<Descriptor> connections;  // by rank; this rank's own is not open
  std::vector<int> node;                // by rank, numbered in the order of ranks
  std::vector<bool> is_local;           // by rank: of this rank's host, whatever it is called
  std::vector<Rank> neighbours;         // that can share memory with this rank, ascending, this one among them
  std::vector<Descriptor> unanswered;   // of those who came while this rank was about to give up: closed when it has told why
};

/// Where the others come in: open before its card is out, and until all have come.
class Door {
 public:
  /// `host`: names this rank's host; empty: the system's word for it. @throws Error(argument) for a rank or host that cannot be
  Door(Rank rank, int num_ranks, const std::string& host);
  [[nodiscard]] const Card& card() const noexcept { return card_; }

  /// A connection to all lower ranks and one from all higher ones. Who connects and cannot prove that he knows the listener's card is
  /// left aside.
  ///
  ///     listener    magic, nonce ─────────────────▶
  ///                 ◀──────── magic, rank, nonce, proof
  ///                 proof ────────────────────────▶
  ///
  /// `texts`: everyone's card, by rank.
  /// @throws Error(stalled), Error(dead) that name who has not come or cannot be reached, after all others have been told; the same error
  /// if another has given up
  [[nodiscard]] Meeting meet(const std::vector<std::string>& texts, std::chrono::nanoseconds timeout) const;
  /// For a rank that cannot meet the others, whose cards are there: tells them why.
  void give_up(const std::vector<std::string>& texts, const Error& error) const noexcept;

 private:
  [[nodiscard]] std::vector<Card> read_cards(const std::vector<std::string>& texts) const;
  void connect_all(const std::vector<Card>& cards, Meeting& meeting, SteadyClock::time_point deadline) const;
  [[noreturn]] void blame(const Error& error, bool is_local, Meeting& meeting) const;

  Rank rank_;
  int num_ranks_;
  Descriptor listener_;
  Card card_;
};

}  // namespace ucx
SEQCCL_END
