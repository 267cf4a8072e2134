// connect.cpp - unix sockets that pass descriptors; everything with a deadline.
// SPDX-License-Identifier: Apache-2.0
#include "connect.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <sstream>
#include <thread>

#include "../place.hpp"
#include "address.hpp"
#include "hello.hpp"
#include "mailbox.hpp"

SEQCCL_BEGIN
namespace shm {
namespace {

// From look to look whether those who are missing still listen: seldom after a while, as each is a stranger in their queue.
constexpr auto first_look = std::chrono::milliseconds(50), longest_look = std::chrono::milliseconds(1000);

Error failed(Rank rank, const std::string& what) {
  return {ErrorKind::local, fmt::format("shm: rank {}: {}: {}", rank, what, std::strerror(errno)), {rank}};
}

/// The process at the other end: its number here, or 0 if it is in another namespace; nothing if it is another user's.
std::optional<int> process_of(const Descriptor& socket) {
  ucred who{};
  socklen_t size = sizeof(who);
  if (::getsockopt(socket.number(), SOL_SOCKET, SO_PEERCRED, &who, &size) != 0 || who.uid != ::geteuid()) return std::nullopt;
  return who.pid;
}

/// True if nobody listens there any more. Who does sees a stranger come and go.
bool is_closed(const std::string& name) {
  const Descriptor socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const Address to(name);
  return socket.is_open() && ::connect(socket.number(), to.name(), to.num_bytes) != 0 && errno == ECONNREFUSED;
}

/// What a rank says of itself in the all-gather.
struct Card {
  std::string place, socket;
  std::uint64_t secret = 0;
};
Card parse_card(Rank rank, const std::string& text) {
  Card card;
  std::istringstream stream(text);
  std::string kind;
  if (!(stream >> kind >> card.place >> card.socket >> card.secret) || kind != "shm1")
    throw Error(ErrorKind::mismatched, fmt::format("shm: rank {} does not use the shm transport of this version", rank), {rank});
  return card;
}

/// One rank's way through the meeting.
class Guest {
 public:
  Guest(Rank rank, int num_ranks)
      : rank_(rank),
        num_ranks_(num_ranks),
        mine_{place_name(), fmt::format("seqccl-{:016x}{:016x}", random_word(), random_word()), random_word()},
        mailbox_(mine_.socket, mine_.secret),
        listener_(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)) {
    meeting_.segments.resize(static_cast<std::size_t>(num_ranks));
    meeting_.segments[static_cast<std::size_t>(rank)] = Segment(num_ranks);
    if (!listener_.is_open()) throw failed(rank, "socket");
    const Address address(mine_.socket);
    if (::bind(listener_.number(), address.name(), address.num_bytes) != 0) throw failed(rank, "bind");
    if (::listen(listener_.number(), std::max(num_ranks, 128)) != 0) throw failed(rank, "listen");
    hello_.layout = layout_word(num_ranks);
    hello_.rank = rank;
    hello_.num_ranks = num_ranks;
  }

  [[nodiscard]] std::string card() const { return fmt::format("shm1 {} {} {}", mine_.place, mine_.socket, mine_.secret); }

  void read_cards(const std::vector<std::string>& texts) {
    if (static_cast<int>(texts.size()) != num_ranks_)
      throw Error(ErrorKind::argument, fmt::format("shm: all_gather gave {} texts, want {}, one of each rank", texts.size(), num_ranks_));
    std::vector<Card> cards;
    for (Rank peer = 0; peer < num_ranks_; ++peer) cards.push_back(parse_card(peer, texts[static_cast<std::size_t>(peer)]));
    std::vector<Rank> elsewhere;
    for (Rank peer = 0; peer < num_ranks_; ++peer)
      if (cards[static_cast<std::size_t>(peer)].place != cards[0].place) elsewhere.push_back(peer);
    if (!elsewhere.empty())
      throw Error(ErrorKind::argument,
                  fmt::format("shm: ranks {} are on another host, or in another network namespace, than rank 0: the shm "
                              "transport is for ranks of one host",
                              fmt::join(elsewhere, ", ")));
    cards_ = std::move(cards);
  }

  /// First connect and say hello to all lower ranks, which needs nobody's answer; then answer all higher ones; then read the answers.
  Meeting meet(SteadyClock::time_point deadline) {
    deadline_ = deadline;
    for (Rank peer = 0; peer < rank_; ++peer) say_hello(peer);
    answer_higher();
    for (Rank peer = 0; peer < rank_; ++peer) hear_answer(peer);
    if (const std::optional<Error> word = mailbox_.read()) throw Error(*word);  // it has met this rank, and not all
    return std::move(meeting_);
  }

  /// Tells all others, before any of this rank's sockets is closed: who finds one closed then has its word. Those who have met all, and
  /// look nowhere but into segments, find it there.
  void give_up(const Error& error) noexcept {
    Control& own = meeting_.segments[static_cast<std::size_t>(rank_)].control();
    std::uint32_t none = Failure::none;
    if (own.failure.state.compare_exchange_strong(none, Failure::being_written)) write(own.failure, rank_, error);
    own.status.left.store(true, std::memory_order_seq_cst);
    for (Rank peer = 0; peer < static_cast<Rank>(cards_.size()); ++peer) {
      const Card& card = cards_[static_cast<std::size_t>(peer)];
      if (peer != rank_) mailbox_.tell(card.socket, card.secret, error);
    }
  }

 private:
  /// Blames what another has told, and else `peer`.
  [[noreturn]] void blame(ErrorKind kind, std::vector<Rank> peers, const std::string& what) const {
    if (const std::optional<Error> word = mailbox_.read()) throw Error(*word);
    throw Error(kind, what, std::move(peers));
  }

  /// Waits until the socket can be read; false at the deadline. @throws what another who gives up has told
  [[nodiscard]] bool wait(const Descriptor& socket, SteadyClock::time_point until) const {
    for (;;) {
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - SteadyClock::now()).count() + 1;
      pollfd waited[] = {{socket.number(), POLLIN, 0}, {mailbox_.socket().number(), POLLIN, 0}};
      const int count = ::poll(waited, 2, static_cast<int>(std::clamp<std::int64_t>(left, 0, 1 << 30)));
      if (count > 0 && waited[1].revents != 0)
        if (const std::optional<Error> word = mailbox_.read()) throw Error(*word);
      if (count > 0 && waited[0].revents != 0) return true;
      if (count < 0 && errno != EINTR) throw failed(rank_, "poll");
      if (count == 0) return false;
    }
  }

  void keep(Rank peer, Received received, Descriptor socket, int process) {
    if (received.hello.layout != hello_.layout)
      throw Error(ErrorKind::mismatched, fmt::format("shm: ranks {} and {} run different builds of seqccl", rank_, peer), {rank_, peer});
    meeting_.segments[static_cast<std::size_t>(peer)] = Segment(std::move(received.file), num_ranks_);
    meeting_.liveness.watch(peer, process, std::move(socket));
  }
  [[nodiscard]] bool has_met(Rank peer) const { return meeting_.segments[static_cast<std::size_t>(peer)].file().is_open(); }

  void greet(Rank peer, const Descriptor& socket) {
    if (!send_hello(socket, hello_, meeting_.segments[static_cast<std::size_t>(rank_)].file()))
      blame(ErrorKind::dead, {peer}, fmt::format("shm: rank {} cannot talk to rank {}: {}", rank_, peer, std::strerror(errno)));
  }

  void say_hello(Rank peer) {
    const Card& card = cards_[static_cast<std::size_t>(peer)];
    Descriptor socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket.is_open()) throw failed(rank_, "socket");
    const Address to(card.socket);
    int refused = 0;
    for (;;) {
      refused = ::connect(socket.number(), to.name(), to.num_bytes);
      if (refused == 0 || (errno != EINTR && errno != EAGAIN) || SteadyClock::now() > deadline_) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));  // others fill the queue
    }
    if (refused != 0)
      blame(ErrorKind::dead, {peer},
            fmt::format("shm: rank {} cannot reach rank {}, which was there a moment ago: {}", rank_, peer, std::strerror(errno)));
    hello_.secret = card.secret;
    greet(peer, socket);
    lower_.push_back(std::move(socket));
  }

  void answer_higher() {
    const auto missing = [&] {
      std::vector<Rank> ranks;
      for (Rank peer = rank_ + 1; peer < num_ranks_; ++peer)
        if (!has_met(peer)) ranks.push_back(peer);
      return ranks;
    };
    std::optional<Rank> gone;  // it listens no more; what it sent before is still in the queue
    auto pause = first_look;
    for (int num_missing = num_ranks_ - 1 - rank_; num_missing > 0;) {
      if (!wait(listener_, gone ? SteadyClock::now() : std::min(deadline_, SteadyClock::now() + pause))) {
        if (gone)
          blame(ErrorKind::dead, {*gone}, fmt::format("shm: rank {}: rank {} has ended or given up before it connected", rank_, *gone));
        if (SteadyClock::now() > deadline_) {
          const std::vector<Rank> ranks = missing();
          blame(ErrorKind::stalled, ranks, fmt::format("shm: rank {}: ranks {} have not connected in time", rank_, fmt::join(ranks, ", ")));
        }
        pause = std::min(2 * pause, longest_look);
        for (const Rank peer : missing())
          if (is_closed(cards_[static_cast<std::size_t>(peer)].socket)) gone = peer;
        continue;
      }
      Descriptor socket(::accept4(listener_.number(), nullptr, nullptr, SOCK_CLOEXEC));
      if (!socket.is_open()) {
        if (errno == EINTR || errno == EAGAIN || errno == ECONNABORTED) continue;
        throw failed(rank_, "accept4");
      }
      // A stranger may connect and say nothing: he gets a second, and is left aside.
      const std::optional<int> process = process_of(socket);
      std::optional<Received> received;
      if (process) received = receive_hello(socket, std::min(deadline_, SteadyClock::now() + std::chrono::seconds(1)));
      if (!received || received->hello.secret != mine_.secret) continue;
      const Rank peer = received->hello.rank;
      if (received->hello.num_ranks != num_ranks_ || peer <= rank_ || peer >= num_ranks_ || has_met(peer)) continue;
      hello_.secret = mine_.secret;
      greet(peer, socket);
      keep(peer, std::move(*received), std::move(socket), *process);
      if (gone == peer) gone.reset();
      --num_missing;
    }
  }

  void hear_answer(Rank peer) {
    Descriptor& socket = lower_[static_cast<std::size_t>(peer)];
    std::optional<Received> received;
    if (wait(socket, deadline_)) received = receive_hello(socket, deadline_);
    const std::optional<int> process = process_of(socket);
    if (!received || !process || received->hello.rank != peer) {
      const bool is_late = SteadyClock::now() > deadline_;
      blame(is_late ? ErrorKind::stalled : ErrorKind::dead, {peer},
            fmt::format("shm: rank {}: rank {} {}", rank_, peer, is_late ? "does not answer" : "has ended or given up before it answered"));
    }
    keep(peer, std::move(*received), std::move(socket), *process);
  }

  Rank rank_;
  int num_ranks_;
  Card mine_;
  Mailbox mailbox_;
  Descriptor listener_;
  std::vector<Card> cards_{};
  Hello hello_{};
  Meeting meeting_{};
  std::vector<Descriptor> lower_{};  // to ranks that have not answered yet
  SteadyClock::time_point deadline_{};
};

}  // namespace

Meeting meet(Rank rank, int num_ranks, const AllGather& all_gather, std::chrono::nanoseconds timeout) {
  if (num_ranks < 1 || rank < 0 || rank >= num_ranks)
    throw Error(ErrorKind::argument, fmt::format("shm: rank is {} of {}, want 0 <= rank < number of ranks", rank, num_ranks));
  Guest guest(rank, num_ranks);
  guest.read_cards(all_gather(guest.card()));
  try {
    return guest.meet(SteadyClock::now() + timeout);
  } catch (const std::exception& error) {
    const auto* known = dynamic_cast<const Error*>(&error);
    if (known != nullptr && !known->culprits().empty())
      guest.give_up(*known);
    else
      guest.give_up({known != nullptr ? known->kind() : ErrorKind::local, fmt::format("shm: rank {}: {}", rank, error.what()), {rank}});
    throw;
  }
}

}  // namespace shm
SEQCCL_END
