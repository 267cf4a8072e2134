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
#include "hello.hpp"

SEQCCL_BEGIN
namespace shm {
namespace {

// From look to look whether those who are missing still listen: seldom after a while, as each is a stranger in their queue.
constexpr auto first_look = std::chrono::milliseconds(50), longest_look = std::chrono::milliseconds(1000);

Error failed(Rank rank, const std::string& what) {
  return {ErrorKind::local, fmt::format("shm: rank {}: {}: {}", rank, what, std::strerror(errno)), {rank}};
}

struct Address {
  sockaddr_un name{};
  socklen_t num_bytes = 0;
  /// In the abstract namespace: gone with the socket.
  explicit Address(const std::string& text) {
    name.sun_family = AF_UNIX;
    std::memcpy(name.sun_path + 1, text.data(), std::min(text.size(), sizeof(name.sun_path) - 1));
    num_bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + text.size());
  }
};

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
  return socket.is_open() && ::connect(socket.number(), reinterpret_cast<const sockaddr*>(&to.name), to.num_bytes) != 0 &&
         errno == ECONNREFUSED;
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

}  // namespace

Meeting meet(Rank rank, int num_ranks, const AllGather& all_gather, std::chrono::nanoseconds timeout) {
  if (num_ranks < 1 || rank < 0 || rank >= num_ranks)
    throw Error(ErrorKind::argument, fmt::format("shm: rank is {} of {}, want 0 <= rank < number of ranks", rank, num_ranks));
  Meeting meeting;
  meeting.segments.resize(static_cast<std::size_t>(num_ranks));
  Segment& own = meeting.segments[static_cast<std::size_t>(rank)] = Segment(num_ranks);

  const Descriptor listener(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!listener.is_open()) throw failed(rank, "socket");
  const Card mine{place_name(), fmt::format("seqccl-{:016x}{:016x}", random_word(), random_word()), random_word()};
  const Address address(mine.socket);
  if (::bind(listener.number(), reinterpret_cast<const sockaddr*>(&address.name), address.num_bytes) != 0) throw failed(rank, "bind");
  if (::listen(listener.number(), std::max(num_ranks, 128)) != 0) throw failed(rank, "listen");

  const std::vector<std::string> texts = all_gather(fmt::format("shm1 {} {} {}", mine.place, mine.socket, mine.secret));
  if (static_cast<int>(texts.size()) != num_ranks)
    throw Error(ErrorKind::argument, fmt::format("shm: all_gather gave {} texts, want {}, one of each rank", texts.size(), num_ranks));
  std::vector<Card> cards;
  for (Rank peer = 0; peer < num_ranks; ++peer) cards.push_back(parse_card(peer, texts[static_cast<std::size_t>(peer)]));
  std::vector<Rank> elsewhere;
  for (Rank peer = 0; peer < num_ranks; ++peer)
    if (cards[static_cast<std::size_t>(peer)].place != cards[0].place) elsewhere.push_back(peer);
  if (!elsewhere.empty())
    throw Error(ErrorKind::argument, fmt::format("shm: ranks {} are on another host, or in another network namespace, than rank 0: the shm "
                                                 "transport is for ranks of one host",
                                                 fmt::join(elsewhere, ", ")));

  // Those who have our segment see that we are gone if something fails from here on.
  struct Leaves {
    Control& control;
    bool has_met = false;
    ~Leaves() { control.status.left.store(!has_met, std::memory_order_seq_cst); }
  } leaves{own.control()};
  const auto deadline = SteadyClock::now() + timeout;
  Hello hello;
  hello.layout = layout_word(num_ranks);
  hello.rank = rank;
  hello.num_ranks = num_ranks;
  const auto keep = [&](Rank peer, Received received, Descriptor socket, int process) {
    if (received.hello.layout != hello.layout)
      throw Error(ErrorKind::mismatched, fmt::format("shm: ranks {} and {} run different builds of seqccl", rank, peer), {rank, peer});
    meeting.segments[static_cast<std::size_t>(peer)] = Segment(std::move(received.file), num_ranks);
    meeting.liveness.watch(peer, process, std::move(socket));
  };

  const auto greet = [&](Rank peer, const Descriptor& socket) {
    if (!send_hello(socket, hello, own.file()))
      throw Error(ErrorKind::dead, fmt::format("shm: rank {} cannot talk to rank {}: {}", rank, peer, std::strerror(errno)), {peer});
  };

  // First connect and say hello to all lower ranks, which needs nobody's answer; then answer all higher ones; then read the answers.
  std::vector<Descriptor> lower;
  for (Rank peer = 0; peer < rank; ++peer) {
    const Card& card = cards[static_cast<std::size_t>(peer)];
    Descriptor socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket.is_open()) throw failed(rank, "socket");
    const Address to(card.socket);
    int refused = 0;
    for (;;) {
      refused = ::connect(socket.number(), reinterpret_cast<const sockaddr*>(&to.name), to.num_bytes);
      if (refused == 0 || (errno != EINTR && errno != EAGAIN) || SteadyClock::now() > deadline) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));  // others fill the queue
    }
    if (refused != 0) {
      throw Error(ErrorKind::dead,
                  fmt::format("shm: rank {} cannot reach rank {}, which was there a moment ago: {}", rank, peer, std::strerror(errno)),
                  {peer});
    }
    hello.secret = card.secret;
    greet(peer, socket);
    lower.push_back(std::move(socket));
  }
  const auto missing = [&] {
    std::vector<Rank> ranks;
    for (Rank peer = rank + 1; peer < num_ranks; ++peer)
      if (!meeting.segments[static_cast<std::size_t>(peer)].file().is_open()) ranks.push_back(peer);
    return ranks;
  };
  std::optional<Rank> gone;  // it listens no more; what it sent before is still in the queue
  auto pause = first_look;
  for (int num_missing = num_ranks - 1 - rank; num_missing > 0;) {
    if (!readable(listener, gone ? SteadyClock::now() : std::min(deadline, SteadyClock::now() + pause))) {
      if (gone) {
        throw Error(ErrorKind::dead, fmt::format("shm: rank {}: rank {} has ended or given up before it connected", rank, *gone), {*gone});
      }
      if (SteadyClock::now() > deadline) {
        std::vector<Rank> ranks = missing();
        const auto text = fmt::format("shm: rank {}: ranks {} have not connected in time", rank, fmt::join(ranks, ", "));
        throw Error(ErrorKind::stalled, text, std::move(ranks));
      }
      pause = std::min(2 * pause, longest_look);
      for (const Rank peer : missing())
        if (is_closed(cards[static_cast<std::size_t>(peer)].socket)) gone = peer;
      continue;
    }
    Descriptor socket(::accept4(listener.number(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!socket.is_open()) {
      if (errno == EINTR || errno == EAGAIN || errno == ECONNABORTED) continue;
      throw failed(rank, "accept4");
    }
    // A stranger may connect and say nothing: he gets a second, and is left aside.
    const std::optional<int> process = process_of(socket);
    std::optional<Received> received;
    if (process) received = receive_hello(socket, std::min(deadline, SteadyClock::now() + std::chrono::seconds(1)));
    if (!received || received->hello.secret != mine.secret) continue;
    const Rank peer = received->hello.rank;
    if (received->hello.num_ranks != num_ranks || peer <= rank || peer >= num_ranks ||
        meeting.segments[static_cast<std::size_t>(peer)].file().is_open())
      continue;
    hello.secret = mine.secret;
    greet(peer, socket);
    keep(peer, std::move(*received), std::move(socket), *process);
    if (gone == peer) gone.reset();
    --num_missing;
  }
  for (Rank peer = 0; peer < rank; ++peer) {
    Descriptor& socket = lower[static_cast<std::size_t>(peer)];
    std::optional<Received> received = receive_hello(socket, deadline);
    const std::optional<int> process = process_of(socket);
    if (!received || !process || received->hello.rank != peer)
      throw Error(SteadyClock::now() > deadline ? ErrorKind::stalled : ErrorKind::dead,
                  fmt::format("shm: rank {}: rank {} {}", rank, peer,
                              SteadyClock::now() > deadline ? "does not answer" : "has ended or given up before it answered"),
                  {peer});
    keep(peer, std::move(*received), std::move(socket), *process);
  }
  leaves.has_met = true;
  return meeting;
}

}  // namespace shm
SEQCCL_END
