// meet.cpp - cards, and the handshake; everything with a deadline.
// SPDX-License-Identifier: Apache-2.0
#include "meet.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <optional>
#include <sstream>
#include <thread>

#include "../bootstrap/socket.hpp"
#include "../bootstrap/wire.hpp"
#include "../place.hpp"
#include "notes.hpp"
#include "words.hpp"

SEQCCL_BEGIN
namespace ucx {
namespace {

using bootstrap::append_number, bootstrap::Bytes16, bootstrap::Clock, bootstrap::read_number;

constexpr std::uint64_t magic = 0x3178637563716573;
// From look to look whether those who are missing still listen.
constexpr auto first_look = std::chrono::milliseconds(100), longest_look = std::chrono::milliseconds(2000);
// How long a word from another host may take longer than the news that its sender is gone.
constexpr auto far_word_patience = std::chrono::milliseconds(300);
constexpr std::size_t challenge_bytes = 8 + 16, answer_bytes = 8 + 4 + 16 + 16, proof_bytes = 16;

void append(std::string& to, const Bytes16& bytes) { to.append(reinterpret_cast<const char*>(bytes.data()), bytes.size()); }
Bytes16 bytes16(const std::string& text, std::size_t at) {
  Bytes16 bytes{};
  std::memcpy(bytes.data(), text.data() + at, bytes.size());
  return bytes;
}

/// Addresses of this host that others may reach it by: IPv4 first.
std::vector<std::string> own_addresses() {
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) return {};
  std::vector<std::string> result;
  for (const int family : {AF_INET, AF_INET6})
    for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
      if (entry->ifa_addr == nullptr || entry->ifa_addr->sa_family != family) continue;
      if ((entry->ifa_flags & IFF_UP) == 0 || (entry->ifa_flags & IFF_LOOPBACK) != 0) continue;
      if (family == AF_INET6 && IN6_IS_ADDR_LINKLOCAL(&reinterpret_cast<const sockaddr_in6*>(entry->ifa_addr)->sin6_addr)) continue;
      char text[NI_MAXHOST];
      const socklen_t size = family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
      if (::getnameinfo(entry->ifa_addr, size, text, sizeof text, nullptr, 0, NI_NUMERICHOST) == 0 && result.size() < 8)
        result.emplace_back(text);
    }
  ::freeifaddrs(list);
  return result;
}

int port_of(const Descriptor& listener) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  if (::getsockname(listener.number(), reinterpret_cast<sockaddr*>(&address), &size) != 0) return 0;
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6&>(address).sin6_port
                                             : reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

/// What is sent here is shorter than any socket's buffer.
bool send_whole(const Descriptor& socket, std::string bytes) { return bootstrap::send_now(socket, bytes) == bootstrap::Sent::all; }

/// Nothing waits for a full segment; a host that is gone without a word is noticed within some 10 s, also while something is on its way to
/// it.
void prepare(const Descriptor& socket) {
  const auto set = [&](int level, int option, int value) { (void)::setsockopt(socket.number(), level, option, &value, sizeof value); };
  set(IPPROTO_TCP, TCP_NODELAY, 1);
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, 4);
  set(IPPROTO_TCP, TCP_KEEPINTVL, 2);
  set(IPPROTO_TCP, TCP_KEEPCNT, 3);
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, 10'000);
}

/// The connecting end. False if the other is not the rank whose card this is.
bool introduce(const Descriptor& socket, Rank rank, const Card& card, Clock::time_point deadline) {
  std::string bytes;
  if (!read_exactly(socket, challenge_bytes, bytes, deadline) || read_number(bytes.substr(0, 8)) != magic) return false;
  const Bytes16 theirs = bytes16(bytes, 8), mine = bootstrap::random_bytes16();
  std::string answer;
  append_number(answer, magic, 8);
  append_number(answer, static_cast<std::uint64_t>(rank), 4);
  append(answer, mine);
  append(answer, bootstrap::proof(card.key, fmt::format("rank {}", rank), theirs, mine));
  if (!send_whole(socket, std::move(answer)) || !read_exactly(socket, proof_bytes, bytes, deadline)) return false;
  return bootstrap::same_bytes(bytes16(bytes, 0), bootstrap::proof(card.key, "listener", theirs, mine));
}

/// The listening end: who has come, or -1 for a stranger. @throws the word of a rank that gives up
Rank receive(const Descriptor& socket, const Card& own, Clock::time_point deadline) {
  const Bytes16 mine = bootstrap::random_bytes16();
  std::string bytes, start;
  append_number(bytes, magic, 8);
  append(bytes, mine);
  const bool is_sent = send_whole(socket, std::move(bytes));  // who leaves a word may have gone
  if (!read_exactly(socket, 8, start, deadline)) return -1;
  if (read_number(start) == word_magic)
    if (const std::optional<Error> word = read_word(socket, own, deadline)) throw Error(*word);
  if (!is_sent || read_number(start) != magic || !read_exactly(socket, answer_bytes - 8, bytes, deadline)) return -1;
  const auto rank = static_cast<Rank>(read_number(bytes.substr(0, 4)));
  const Bytes16 theirs = bytes16(bytes, 4);
  if (!bootstrap::same_bytes(bytes16(bytes, 20), bootstrap::proof(own.key, fmt::format("rank {}", rank), mine, theirs))) return -1;
  std::string answer;
  append(answer, bootstrap::proof(own.key, "listener", mine, theirs));
  return send_whole(socket, std::move(answer)) ? rank : -1;
}

/// True if nobody listens there any more. Who does sees a stranger come and go.
bool is_closed(const Card& own, const Card& card) {
  std::string reason;
  const std::string address = card.place == own.place ? "127.0.0.1" : card.addresses.empty() ? "" : card.addresses.front();
  return !address.empty() && !bootstrap::connect_to(address, card.port, Clock::now() + std::chrono::milliseconds(200), reason).is_open() &&
         reason == bootstrap::system_text(ECONNREFUSED);
}

/// True if the other end has closed, whatever it has said before that.
bool has_ended(const Descriptor& socket) {
  if (!socket.is_open()) return false;
  char next = 0;
  const ssize_t count = ::recv(socket.number(), &next, 1, MSG_PEEK | MSG_DONTWAIT);
  return count == 0 || (count < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
}

Descriptor connect_to(Rank rank, Rank peer, const Card& own, const Card& card, Clock::time_point deadline) {
  std::vector<std::string> addresses = card.addresses;
  if (card.place == own.place) addresses.insert(addresses.begin(), "127.0.0.1");
  std::string reason = "it has no address";
  for (int round = 0; round < 5 && Clock::now() < deadline; ++round) {  // it has listened since before its card was out
    for (const std::string& address : addresses) {
      const auto limit = std::min(deadline, Clock::now() + std::chrono::seconds(3));
      Descriptor socket = bootstrap::connect_to(address, card.port, limit, reason);
      if (!socket.is_open()) continue;
      if (introduce(socket, rank, card, deadline)) return socket;
      reason = "who answers there is not that rank, or not in time";
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  throw Error(
      ErrorKind::dead,
      fmt::format("ucx: rank {} cannot reach rank {} at {}, port {}: {}", rank, peer, fmt::join(addresses, ", "), card.port, reason),
      {peer});
}

}  // namespace

std::string Card::text() const {
  return fmt::format("ucx1 {} {} {} {} {}", place, host, port, bootstrap::hex(key), fmt::join(addresses, " "));
}

Card Card::parse(Rank rank, const std::string& text) {
  Card card;
  std::istringstream stream(text);
  std::string kind, key;
  if (!(stream >> kind >> card.place >> card.host >> card.port >> key) || kind != "ucx1" || key.size() != 2 * card.key.size())
    throw Error(ErrorKind::mismatched, fmt::format("ucx: rank {} does not use the ucx transport of this version", rank), {rank});
  for (std::size_t i = 0; i < card.key.size(); ++i)
    card.key[i] = static_cast<std::uint8_t>(std::strtoul(key.substr(2 * i, 2).c_str(), nullptr, 16));
  for (std::string address; stream >> address;) card.addresses.push_back(address);
  return card;
}

Door::Door(Rank rank, int num_ranks, const std::string& host) : rank_(rank), num_ranks_(num_ranks) {
  if (num_ranks < 1 || rank < 0 || rank >= num_ranks)
    throw Error(ErrorKind::argument, fmt::format("ucx: rank is {} of {}, want 0 <= rank < number of ranks", rank, num_ranks));
  if (host.find_first_of(" \t\n") != std::string::npos)
    throw Error(ErrorKind::argument, fmt::format("ProcessRanks: host is \"{}\", want a name without blanks", host));
  listener_ = bootstrap::listen_at("0.0.0.0", 0);
  card_ = {place_name(), host, port_of(listener_), bootstrap::random_bytes16(), own_addresses()};
  if (host.empty()) card_.host = card_.place;
}

std::vector<Card> Door::read_cards(const std::vector<std::string>& texts) const {
  if (static_cast<int>(texts.size()) != num_ranks_)
    throw Error(ErrorKind::argument, fmt::format("ucx: all_gather gave {} texts, want {}, one of each rank", texts.size(), num_ranks_));
  std::vector<Card> cards;
  for (Rank peer = 0; peer < num_ranks_; ++peer) cards.push_back(Card::parse(peer, texts[static_cast<std::size_t>(peer)]));
  return cards;
}

void Door::give_up(const std::vector<std::string>& texts, const Error& error) const noexcept {
  try {
    tell_all(rank_, card_, read_cards(texts), error);
  } catch (...) {  // a card that is none: the others see that, too
  }
}

Meeting Door::meet(const std::vector<std::string>& texts, std::chrono::nanoseconds timeout) const {
  const std::vector<Card> cards = read_cards(texts);
  Meeting meeting;
  std::map<std::string, int> nodes;
  for (const Card& card : cards) {
    meeting.is_local.push_back(card.place == card_.place);
    if (card.host == card_.host && card.place == card_.place) meeting.neighbours.push_back(static_cast<Rank>(meeting.is_local.size()) - 1);
    meeting.node.push_back(nodes.emplace(card.host, static_cast<int>(nodes.size())).first->second);
  }
  meeting.connections.resize(cards.size());
  try {
    connect_all(cards, meeting, Clock::now() + timeout);
  } catch (const std::exception& why) {
    const auto* known = dynamic_cast<const Error*>(&why);
    const Error error = known != nullptr ? *known : Error(ErrorKind::local, fmt::format("ucx: rank {}: {}", rank_, why.what()), {rank_});
    // Those who have met all look at their connections only.
    for (const Descriptor& socket : meeting.connections)
      if (socket.is_open()) (void)send_whole(socket, note_bytes(NoteKind::failure, failure_note(error)));
    tell_all(rank_, card_, cards, error);
    throw Error(error);
  }
  for (const Descriptor& socket : meeting.connections)
    if (socket.is_open()) prepare(socket);
  return meeting;
}

/// Who gives up has told all others before it closes anything: so if somebody is gone, its word counts.
void Door::blame(const Error& error, bool is_local, Meeting& meeting) const {
  const auto end = Clock::now() + (is_local ? std::chrono::milliseconds(0) : far_word_patience);
  while (wait_readable(listener_, end)) {
    meeting.unanswered.emplace_back(::accept4(listener_.number(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    const Descriptor& socket = meeting.unanswered.back();
    if (!socket.is_open()) break;
    std::string start;
    if (!read_exactly(socket, 8, start, Clock::now() + std::chrono::milliseconds(20)) || read_number(start) != word_magic) continue;
    const std::optional<Error> word = read_word(socket, card_, Clock::now() + std::chrono::milliseconds(200));
    if (word && word->culprits() != std::vector<Rank>{rank_}) throw Error(*word);  // who blames this rank has missed what it knows
  }
  throw Error(error);
}

/// Lower ranks first: rank 0 answers at once, so rank 1 gets to answering, and so on.
void Door::connect_all(const std::vector<Card>& cards, Meeting& meeting, Clock::time_point deadline) const {
  const Rank rank = rank_;
  for (Rank peer = 0; peer < rank; ++peer) {
    const auto at = static_cast<std::size_t>(peer);
    try {
      meeting.connections[at] = connect_to(rank, peer, card_, cards[at], deadline);
    } catch (const Error& error) {
      blame(error, meeting.is_local[at], meeting);
    }
  }
  const auto missing = [&] {
    std::vector<Rank> ranks;
    for (Rank peer = rank + 1; peer < num_ranks_; ++peer)
      if (!meeting.connections[static_cast<std::size_t>(peer)].is_open()) ranks.push_back(peer);
    return ranks;
  };
  std::optional<Rank> gone;  // it listens no more; a connection of before is still in the queue
  auto pause = first_look;
  for (int num_missing = num_ranks_ - 1 - rank; num_missing > 0;) {
    if (!wait_readable(listener_, gone ? Clock::now() : std::min(deadline, Clock::now() + pause))) {
      if (gone)
        blame({ErrorKind::dead, fmt::format("ucx: rank {}: rank {} has ended or given up before it connected", rank, *gone), {*gone}},
              meeting.is_local[static_cast<std::size_t>(*gone)], meeting);
      if (Clock::now() > deadline) {
        const std::vector<Rank> ranks = missing();
        blame({ErrorKind::stalled, fmt::format("ucx: rank {}: ranks {} have not connected in time", rank, fmt::join(ranks, ", ")), ranks},
              true, meeting);
      }
      // Who has connected and ended since may be why others are missing.
      for (Rank peer = 0; peer < num_ranks_; ++peer)
        if (has_ended(meeting.connections[static_cast<std::size_t>(peer)]))
          blame({ErrorKind::dead, fmt::format("ucx: rank {}: rank {} has ended or given up after it connected", rank, peer), {peer}},
                meeting.is_local[static_cast<std::size_t>(peer)], meeting);
      pause = std::min(2 * pause, longest_look);
      for (const Rank peer : missing())
        if (is_closed(card_, cards[static_cast<std::size_t>(peer)])) gone = peer;
      continue;
    }
    Descriptor socket(::accept4(listener_.number(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket.is_open()) {
      if (errno == EINTR || errno == EAGAIN || errno == ECONNABORTED) continue;
      throw Error(ErrorKind::local, fmt::format("ucx: rank {}: accept4: {}", rank, std::strerror(errno)), {rank});
    }
    // A stranger may connect and say nothing: he gets a second.
    const Rank peer = receive(socket, card_, std::min(deadline, Clock::now() + std::chrono::seconds(1)));
    if (peer <= rank || peer >= num_ranks_ || meeting.connections[static_cast<std::size_t>(peer)].is_open()) continue;
    meeting.connections[static_cast<std::size_t>(peer)] = std::move(socket);
    if (gone == peer) gone.reset();
    --num_missing;
  }
}

}  // namespace ucx
SEQCCL_END
