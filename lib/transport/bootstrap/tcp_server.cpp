// tcp_server.cpp - one poll loop over all connections: handshake, put, get.
// SPDX-License-Identifier: Apache-2.0
#include "tcp_server.hpp"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <list>
#include <map>
#include <utility>
#include <vector>

#include "seqccl/error.hpp"
#include "wire.hpp"

SEQCCL_BEGIN
namespace bootstrap {

namespace {

constexpr std::size_t hello_body_bytes = 32;
constexpr auto last_words = std::chrono::seconds(1);
constexpr auto pause_without_files = std::chrono::milliseconds(50);
constexpr int max_accepted_at_once = 16;
constexpr std::size_t max_wills = 4096;  // of one connection: one for each communicator

struct Connection {
  File socket;
  Bytes16 nonce{};
  Clock::time_point since;
  bool belongs = false;  // has shown that it has the key
  bool over = false;     // to be closed once `out` is sent
  bool broken = false;   // to be closed now
  std::string in, out;
  std::string waits_for{};                                   // the key of a get without an answer yet; empty: none
  std::vector<std::pair<std::string, std::string>> wills{};  // keys and values, put when it ends
};

class Server {
 public:
  Server(File listener, int bell, const Bytes16& key, const ServerLimits& limits)
      : listener_(std::move(listener)), bell_(bell), key_(key), limits_(limits) {}

  void serve() {
    for (;;) {
      poll_all(/*accepting=*/true);
      if (polled_[0].revents != 0) break;
      if (polled_[1].revents != 0) accept_some();
      handle_ready(/*reading=*/true);
    }
    const auto end = Clock::now() + last_words;
    while (Clock::now() < end &&
           std::any_of(connections_.begin(), connections_.end(), [](const Connection& c) { return !c.out.empty(); })) {
      poll_all(/*accepting=*/false);
      handle_ready(/*reading=*/false);
    }
  }

 private:
  /// Fills polled_: bell, listener, then the connections in order.
  void poll_all(bool accepting) {
    const auto now = Clock::now();
    auto next = now + std::chrono::hours(1);
    const auto patience = num_strangers() >= limits_.max_strangers ? limits_.handshake_if_full : limits_.handshake;
    std::erase_if(connections_, [&](const Connection& connection) {
      if (connection.belongs) return false;
      if (connection.since + patience <= now) return true;
      next = std::min(next, connection.since + patience);
      return false;
    });
    const bool full = num_strangers() >= limits_.max_strangers;  // counted again: there may be room now
    const bool paused = now < paused_until_;
    if (paused) next = std::min(next, paused_until_);
    if (!accepting) next = now + std::chrono::milliseconds(10);

    polled_.clear();
    polled_.push_back({accepting ? bell_ : -1, POLLIN, 0});
    polled_.push_back({accepting && !paused && !full ? listener_.number() : -1, POLLIN, 0});
    for (const Connection& connection : connections_) {
      // Who does not take his answers is not listened to: nothing grows.
      const short events = connection.out.empty() ? POLLIN : POLLOUT;
      polled_.push_back({connection.socket.number(), events, 0});
    }
    if (poll(polled_.data(), polled_.size(), poll_milliseconds(next)) < 0)
      for (pollfd& each : polled_) each.revents = 0;  // a signal, or no memory: once more
  }

  [[nodiscard]] std::size_t num_strangers() const {
    return static_cast<std::size_t>(
        std::count_if(connections_.begin(), connections_.end(), [](const Connection& c) { return !c.belongs; }));
  }

  void accept_some() {
    for (int i = 0; i < max_accepted_at_once && num_strangers() < limits_.max_strangers; ++i) {
      File socket(accept4(listener_.number(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
      if (!socket.is_open()) {
        // No files or memory left: the listener would be ready again at once.
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) paused_until_ = Clock::now() + pause_without_files;
        return;
      }
      const int yes = 1;
      (void)setsockopt(socket.number(), IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
      Connection& connection =
          connections_.emplace_back(Connection{.socket = std::move(socket), .nonce = random_bytes16(), .since = Clock::now()});
      say(connection, MessageKind::challenge, text_of(connection.nonce));
    }
  }

  void handle_ready(bool reading) {
    std::size_t index = 2;
    for (auto each = connections_.begin(); each != connections_.end() && index < polled_.size(); ++each, ++index) {
      const short events = polled_[index].revents;
      if (events & POLLOUT) flush(*each);
      if (reading && (events & POLLIN)) read(*each);
      if (events & (POLLERR | POLLNVAL)) each->broken = true;
      if ((events & POLLHUP) && !(events & POLLIN)) each->broken = true;
    }
    std::vector<std::pair<std::string, std::string>> wills;
    std::erase_if(connections_, [&](Connection& each) {
      const bool ends = each.broken || (each.over && each.out.empty());
      if (ends) std::move(each.wills.begin(), each.wills.end(), std::back_inserter(wills));
      return ends;
    });
    for (const auto& [key, value] : wills) (void)put(key, value);
  }

  /// Wakes who waits for it. False if it has been put before.
  bool put(std::string_view key, std::string_view value) {
    const auto [at, is_new] = values_.emplace(key, value);
    if (is_new)
      for (Connection& waiting : connections_)
        if (waiting.waits_for == at->first) answer(waiting, at->second);
    return is_new;
  }

  void read(Connection& connection) {
    if (connection.over) {
      connection.broken = true;
      return;
    }
    const std::size_t max_body_bytes = connection.belongs ? max_store_key_bytes + max_store_value_bytes : hello_body_bytes;
    const std::size_t room = wire_header_bytes + max_body_bytes - connection.in.size();
    if (receive_now(connection.socket, connection.in, room) == Received::closed) {
      connection.broken = true;
      return;
    }
    std::size_t begin = 0;
    while (!connection.broken && !connection.over) {
      const Parsed parsed = parse_message(std::string_view(connection.in).substr(begin), max_body_bytes);
      if (parsed.state == ParseState::garbage) connection.broken = true;
      if (parsed.state != ParseState::whole) break;
      handle(connection, parsed.message);
      begin += parsed.num_bytes;
    }
    connection.in.erase(0, begin);
  }

  void handle(Connection& connection, const Message& message) {
    if (!connection.belongs) return shake_hands(connection, message);
    switch (message.kind) {
      case MessageKind::put: {
        if (!connection.waits_for.empty()) break;
        // The answer first: who is woken by this value may end this thread.
        say(connection, values_.count(message.key) == 0 ? MessageKind::stored : MessageKind::exists, {});
        (void)put(message.key, message.value);
        return;
      }
      case MessageKind::will: {
        if (!connection.waits_for.empty() || connection.wills.size() == max_wills) break;
        connection.wills.emplace_back(message.key, message.value);
        say(connection, MessageKind::stored, {});
        return;
      }
      case MessageKind::get: {
        if (!connection.waits_for.empty()) break;
        const auto found = values_.find(message.key);
        connection.waits_for = message.key;
        if (found != values_.end()) answer(connection, found->second);
        return;
      }
      case MessageKind::withdraw:
        if (!std::exchange(connection.waits_for, {}).empty()) say(connection, MessageKind::absent, {});
        return;
      default:
        break;
    }
    connection.broken = true;  // not what a client says, or not now
  }

  void shake_hands(Connection& connection, const Message& message) {
    if (message.kind != MessageKind::hello) {
      connection.broken = true;
      return;
    }
    Bytes16 nonce, shown;
    std::copy_n(message.value.begin(), 16, nonce.begin());
    std::copy_n(message.value.begin() + 16, 16, shown.begin());
    if (same_bytes(shown, proof(key_, "client", connection.nonce, nonce))) {
      connection.belongs = true;
      say(connection, MessageKind::welcome, text_of(proof(key_, "server", connection.nonce, nonce)));
    } else {
      connection.over = true;
      say(connection, MessageKind::denied, {});
    }
  }

  void answer(Connection& connection, std::string_view value) {
    connection.waits_for.clear();
    say(connection, MessageKind::value, value);
  }

  void say(Connection& connection, MessageKind kind, std::string_view value) {
    append_message(connection.out, {.kind = kind, .key = {}, .value = value});
    flush(connection);
  }

  static void flush(Connection& connection) {
    if (send_now(connection.socket, connection.out) == Sent::broken) {
      connection.broken = true;
      connection.out.clear();
    }
  }

  static std::string_view text_of(const Bytes16& bytes) noexcept { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

  File listener_;
  int bell_;
  Bytes16 key_;
  ServerLimits limits_;
  Clock::time_point paused_until_{};
  std::list<Connection> connections_;
  std::map<std::string, std::string, std::less<>> values_;
  std::vector<pollfd> polled_;
};

}  // namespace

TcpServer::TcpServer(const std::string& address, int port, const Bytes16& key, const ServerLimits& limits)
    : bell_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (!bell_.is_open()) throw Error(ErrorKind::local, "bootstrap: rank 0 cannot have an eventfd: " + system_text(errno));
  thread_ = std::thread([listener = listen_at(address, port), bell = bell_.number(), key, limits]() mutable {
    Server(std::move(listener), bell, key, limits).serve();
  });
}

TcpServer::~TcpServer() {
  const std::uint64_t one = 1;
  (void)!::write(bell_.number(), &one, sizeof one);
  thread_.join();
}

}  // namespace bootstrap
SEQCCL_END
