// tcp_store.cpp - the client of the TCP store, and on rank 0 its server.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <thread>

#include "limits.hpp"
#include "seqccl/bootstrap.hpp"
#include "siphash.hpp"
#include "socket.hpp"
#include "tcp_server.hpp"
#include "wire.hpp"

SEQCCL_BEGIN

using namespace bootstrap;

namespace {

constexpr auto first_retry = std::chrono::milliseconds(5);
constexpr auto longest_retry = std::chrono::milliseconds(200);
// An answer that needs no waiting comes at once, unless the host of rank 0 is lost or far too busy.
constexpr auto answer_limit = std::chrono::seconds(5);

enum class Wait { message, deadline, lost };

/// A connection to the server: whole messages out and in.
class Line {
 public:
  Line() = default;
  explicit Line(File socket) : socket_(std::move(socket)) {}

  struct Reply {
    MessageKind kind = MessageKind::denied;
    std::string value;
  };

  bool say(const Message& message, Store::Deadline deadline) {
    std::string bytes;
    append_message(bytes, message);
    for (;;) {
      const Sent sent = send_now(socket_, bytes);
      if (sent != Sent::some) return sent == Sent::all;
      if (!wait_for(POLLOUT, deadline)) return false;
    }
  }

  Wait hear(Reply& reply, Store::Deadline deadline) {
    for (;;) {
      const Parsed parsed = parse_message(in_);
      if (parsed.state == ParseState::garbage) return Wait::lost;
      if (parsed.state == ParseState::whole) {
        reply = {parsed.message.kind, std::string(parsed.message.value)};
        in_.erase(0, parsed.num_bytes);
        return Wait::message;
      }
      if (!wait_for(POLLIN, deadline)) return Wait::deadline;
      if (receive_now(socket_, in_, max_store_value_bytes) == Received::closed) return Wait::lost;
    }
  }
  /// True if what has come is not in this protocol.
  [[nodiscard]] bool hears_garbage() const { return parse_message(in_).state == ParseState::garbage; }

 private:
  bool wait_for(short events, Store::Deadline deadline) const {
    for (;;) {
      pollfd waiting{socket_.number(), events, 0};
      const int ready = poll(&waiting, 1, poll_milliseconds(deadline));
      if (ready > 0) return true;
      if (ready < 0 ? errno != EINTR : Clock::now() >= deadline) return false;
    }
  }

  File socket_;
  std::string in_;
};

class TcpStore final : public Store {
 public:
  TcpStore(const LaunchInfo& launch, std::chrono::nanoseconds timeout)
      : Store(place_text(launch.address, launch.port)), key_(job_key(launch.token, launch.job)) {
    const auto deadline = Clock::now() + timeout;
    if (launch.rank == 0) server_.emplace(launch.address, launch.port, key_);
    connect(launch, deadline, timeout);
  }

  void put(std::string_view key, std::string_view value) override {
    require_key(key);
    require_value(value);
    Line::Reply reply;
    const auto deadline = Clock::now() + answer_limit;
    if (!line_.say({.kind = MessageKind::put, .key = key, .value = value}, deadline)) lost();
    if (line_.hear(reply, deadline) != Wait::message) lost();
    if (reply.kind == MessageKind::exists) refuse_second_put(key, place());
    if (reply.kind != MessageKind::stored) lost();
  }

  void leave_behind(std::string_view key, std::string_view value) override {
    require_key(key);
    require_value(value);
    Line::Reply reply;
    const auto deadline = Clock::now() + answer_limit;
    if (!line_.say({.kind = MessageKind::will, .key = key, .value = value}, deadline)) lost();
    if (line_.hear(reply, deadline) != Wait::message || reply.kind != MessageKind::stored) lost();
  }

  std::optional<std::string> get(std::string_view key, Deadline deadline) override {
    require_key(key);
    Line::Reply reply;
    if (!line_.say({.kind = MessageKind::get, .key = key, .value = {}}, Clock::now() + answer_limit)) lost();
    Wait waited = line_.hear(reply, deadline);
    if (waited == Wait::deadline) {
      const auto limit = Clock::now() + answer_limit;
      if (!line_.say({.kind = MessageKind::withdraw, .key = {}, .value = {}}, limit)) lost();
      waited = line_.hear(reply, limit);
    }
    if (waited != Wait::message) lost();
    if (reply.kind == MessageKind::absent) return std::nullopt;
    if (reply.kind != MessageKind::value) lost();
    return std::move(reply.value);
  }

 private:
  enum class Met { friendly, gone };

  void connect(const LaunchInfo& launch, Deadline deadline, std::chrono::nanoseconds timeout) {
    std::string reason = "nobody answers";
    for (auto pause = first_retry;; pause = std::min(2 * pause, longest_retry)) {
      File socket = connect_to(launch.address, launch.port, deadline, reason);
      if (socket.is_open()) {
        line_ = Line(std::move(socket));
        if (shake_hands(deadline, reason) == Met::friendly) return;
      }
      if (Clock::now() + pause >= deadline) break;
      std::this_thread::sleep_for(pause);
    }
    throw Error(ErrorKind::stalled,
                fmt::format("bootstrap: rank 0 of {} has not opened the store at {} after {} ({}); waited on rank {}", launch.num_ranks,
                            place(), duration_text(timeout), reason, launch.rank),
                {0});
  }

  /// Each end shows the other that it has the key of the job.
  Met shake_hands(Deadline deadline, std::string& reason) {
    Line::Reply reply;
    const auto heard = [&](MessageKind expected, std::size_t num_bytes) {
      const Wait waited = line_.hear(reply, deadline);
      if (waited == Wait::message && reply.kind == MessageKind::denied)
        throw Error(ErrorKind::argument,
                    fmt::format("bootstrap: token or job is not what rank 0 at {} has; want the same SEQCCL_TOKEN on all "
                                "ranks, and the same job",
                                place()));
      const bool is_foreign = waited == Wait::message && (reply.kind != expected || reply.value.size() != num_bytes);
      if (is_foreign || (waited == Wait::lost && line_.hears_garbage())) refuse_foreign();
      if (waited != Wait::message)
        reason = waited == Wait::lost ? "the connection was closed" : "something listens there, but says nothing";
      return waited == Wait::message;
    };
    if (!heard(MessageKind::challenge, 16)) return Met::gone;
    Bytes16 server_nonce, shown;
    const Bytes16 nonce = random_bytes16();
    std::copy_n(reply.value.begin(), 16, server_nonce.begin());
    const Bytes16 own = proof(key_, "client", server_nonce, nonce);
    std::string body(nonce.begin(), nonce.end());
    body.append(own.begin(), own.end());
    if (!line_.say({.kind = MessageKind::hello, .key = {}, .value = body}, deadline)) return Met::gone;
    if (!heard(MessageKind::welcome, 16)) return Met::gone;
    std::copy_n(reply.value.begin(), 16, shown.begin());
    if (!same_bytes(shown, proof(key_, "server", server_nonce, nonce))) refuse_foreign();
    return Met::friendly;
  }

  [[noreturn]] void refuse_foreign() const {
    throw Error(ErrorKind::argument, fmt::format("bootstrap: what listens at {} is not rank 0 of this job; want address and port of rank 0 "
                                                 "(SEQCCL_ADDR, SEQCCL_PORT)",
                                                 place()));
  }
  [[noreturn]] void lost() const {
    throw Error(ErrorKind::dead, fmt::format("bootstrap: rank 0, which keeps the store at {}, is gone or does not answer", place()), {0});
  }

  Bytes16 key_;
  std::optional<TcpServer> server_;
  Line line_;  // last: closed before the server ends
};

}  // namespace

std::unique_ptr<Store> tcp_store(const LaunchInfo& launch, std::chrono::nanoseconds timeout) {
  require_launch(launch, timeout);
  if (launch.address.empty()) throw Error(ErrorKind::argument, "tcp_store: address is empty, want the host of rank 0");
  if (launch.port < 1 || launch.port > 65535)
    throw Error(ErrorKind::argument, fmt::format("tcp_store: port is {}, want 1 to 65535", launch.port));
  return std::make_unique<TcpStore>(launch, timeout);
}

SEQCCL_END
